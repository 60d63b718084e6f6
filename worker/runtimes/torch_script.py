"""torch's own kernels, by TorchScript: the one compact form of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shared.errors import ModelFailed
from worker.runtimes.session import Kernels, SessionSettings, last_line

_INT8_PREFIXES = ("quantized::conv", "quantized::linear", "quantized::quantized_", "aten::quantized_")
_FLOAT = frozenset({
    "aten::_convolution", "aten::conv1d", "aten::conv2d", "aten::conv3d", "aten::linear", "aten::addmm", "aten::lstm",
    "aten::gru", "mkldnn::prepacked_conv2d_run",
})  # fmt: skip


class TorchSession:
    """A frozen TorchScript file; the kernels that its weights are packed for must be selected before it is opened."""

    def __init__(self, path: Path, settings: SessionSettings) -> None:
        torch.set_num_threads(settings.threads)
        try:
            self._module: Any = torch.jit.load(path)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        except RuntimeError as error:  # such as a file that another version of torch wrote
            raise ModelFailed(f"torch does not take {path.name}: {last_line(error)}") from error

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The outputs, in order."""
        with torch.inference_mode():
            return list(self._module(*inputs))

    def bound(self, inputs: Sequence[Tensor]) -> Callable[[], Any]:
        """A call on these inputs, to be timed."""
        return functools.partial(self._module, *inputs)

    def kernels(self) -> Kernels:
        """Read from the graph: what a frozen int8 operator is called is what it computes with."""
        int8, floating = [], []
        for node in self._module.graph.nodes():
            kind = node.kind()
            if kind.startswith(_INT8_PREFIXES):
                int8.append(kind)
            elif kind in _FLOAT:
                floating.append(kind)
        return Kernels(tuple(int8), tuple(floating))
