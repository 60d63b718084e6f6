"""Copies of a model that share its weights, and how the memory of those that are done with comes back."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import gc
from typing import Any, TypeVar

from torch import nn
from torch.ao.quantization.fx.utils import assert_and_get_unique_device

#: Less is not worth the time that it takes to free it.
WORTH_BYTES = 16 * 1024**2

Module = TypeVar("Module", bound=nn.Module)


def copy_structure(module: Module, *, frozen: bool = False) -> Module:
    """A copy with a graph and modules of its own, whose parameters and buffers are the original's memory.

    For graphs that are rebuilt and never written in place: what replaces a tensor there leaves the original alone.
    `frozen` parameters need no gradient, whatever the original's do.
    """
    memo: dict[int, Any] = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    if frozen:
        memo |= {id(each): nn.Parameter(each.detach(), requires_grad=False) for each in module.parameters()}
    return copy.deepcopy(module, memo)


def weight_bytes(module: nn.Module) -> int:
    """What the parameters of a module take: of what is made from it, something as large is garbage."""
    return sum(parameter.nbytes for parameter in module.parameters())


def collect_garbage(size: int = WORTH_BYTES) -> None:
    """Free the graphs that nothing reaches any more, and give their memory back to the system.

    `size` is what is about to be freed, in bytes, where that is known: of little nothing is done, for it takes time.

    Their nodes point in circles, and each holds a model's weights. torch.ao 2.13 keeps every module that it converts in
    a cache of its own, for ever; and glibc keeps what is freed until it is told to let go.
    """
    if size < WORTH_BYTES:
        return
    assert_and_get_unique_device.cache_clear()
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
