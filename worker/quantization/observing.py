"""Run a graph once on real inputs and note of every node what it gave, and how long quant boundaries took."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from worker.quantization.labelling import is_boundary

_PASSES = 7
_MAX_SECONDS = 1.0


@dataclass(frozen=True)
class Given:
    """What a node gave: of its first tensor, when it gives several."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def is_int8(self) -> bool:
        """Whether it is a tensor of integers with qparams."""
        return self.dtype in (torch.quint8, torch.qint8)

    @property
    def elements(self) -> int:
        """How many values it holds."""
        return torch.Size(self.shape).numel()


@dataclass(frozen=True)
class Observed:
    """What the nodes of a graph gave on one small batch."""

    given: dict[fx.Node, Given]  #: nodes that give no tensor are left out
    boundary_ms: dict[fx.Node, float]  #: median over the passes
    samples: int


def observe(graph: fx.GraphModule, inputs: tuple[Tensor, ...]) -> Observed:
    """Run the graph a few times, for a second at most; the first pass warms up and is not timed."""
    watcher = _Watcher(graph)
    deadline = time.perf_counter() + _MAX_SECONDS
    with torch.no_grad():
        watcher.run(*inputs)
        watcher.taken_ms = {}
        for done in range(_PASSES):
            if done and time.perf_counter() > deadline:
                break
            watcher.run(*inputs)
    medians = {node: statistics.median(times) for node, times in watcher.taken_ms.items()}
    return Observed(watcher.given, medians, inputs[0].shape[0])


class _Watcher(fx.Interpreter):
    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.given: dict[fx.Node, Given] = {}
        self.taken_ms: dict[fx.Node, list[float]] = {}

    def run_node(self, n: fx.Node) -> Any:
        began_at = time.perf_counter()
        value = super().run_node(n)
        if is_boundary(n):
            self.taken_ms.setdefault(n, []).append((time.perf_counter() - began_at) * 1e3)
        tensor = first_tensor(value)
        if tensor is not None and n.op != "output":
            self.given[n] = Given(tuple(tensor.shape), tensor.dtype)
        return value


def first_tensor(value: Any) -> Tensor | None:
    """A tensor, or the first of several; None where there is none."""
    while isinstance(value, list | tuple) and value:
        value = value[0]
    return value if isinstance(value, Tensor) else None
