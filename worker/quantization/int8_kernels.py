"""Which operators torch.ao has an int8 form of, with calibrated ranges; and which qengine takes which weights."""

from __future__ import annotations

import functools
from typing import Any

from torch import nn
from torch.ao.quantization.backend_config import get_native_backend_config

from worker.quantization.grouping import RECURRENT, Group

#: Their prepacking refuses weights whose zero points are not zero (torch 2.13).
SYMMETRIC_ONLY = ("onednn",)


def has_kernel(group: Group) -> bool:
    """Whether torch.ao has an int8 form of what a group begins with."""
    if isinstance(group.module, RECURRENT):
        return False
    first = group.nodes[0]
    return (type(group.module) if first.op == "call_module" else first.target) in _patterns()


@functools.cache
def _patterns() -> frozenset[Any]:
    """The modules, functions and methods."""
    configs = get_native_backend_config().configs
    found = {config.pattern for config in configs if config.pattern is not None}
    return frozenset(pattern for pattern in found if not isinstance(pattern, tuple)) - {nn.LSTM, nn.GRU}
