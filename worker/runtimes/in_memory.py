"""A model of torch that is in memory already, in eager mode."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from worker.runtimes.session import Kernels


class EagerSession:
    """A callable that is taken as it is: what it computes with is not asked."""

    def __init__(self, model: Callable[..., Any], *, channels_last: bool = False) -> None:
        self._model = model
        self._channels_last = channels_last

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The outputs, in order."""
        with torch.inference_mode():
            return [leaf for leaf in pytree.tree_leaves(self.bound(inputs)()) if isinstance(leaf, Tensor)]

    def bound(self, inputs: Sequence[Tensor]) -> Callable[[], Any]:
        """A call on these inputs, to be timed; images lie in memory as the weights do."""
        return functools.partial(self._model, *(self._laid_out(tensor) for tensor in inputs))

    def kernels(self) -> Kernels:
        """None are known."""
        return Kernels((), ())

    def _laid_out(self, tensor: Tensor) -> Tensor:
        is_image = self._channels_last and tensor.ndim == 4
        return tensor.contiguous(memory_format=torch.channels_last) if is_image else tensor
