"""TorchScript: its own graph with a moment noted between any two operators, run by its own interpreter.

`prim::TimePoint` is what its fusers time themselves with. Noting a moment takes a microsecond, as long as the smallest
operators do: two in a row tell how long, and that is subtracted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from worker.layer_times.operators import WARM_UP_RUNS, CannotTime, Operator, TimedFile, typical

_LINE = re.compile(r"<eval_with_key>\.\d+\((\d+)\): forward")
_FIRST_LINE = 5
"""Of the code that FX writes for a graph: the first node stands there that is no input, and each in its own line."""
_BLOCKS = "prim::If", "prim::Loop"


class TorchScriptTimer:
    """A frozen TorchScript file; the kernels that its weights are packed for must be selected before it is opened."""

    def __init__(self, file: TimedFile, inputs: Sequence[Tensor], threads: int) -> None:
        torch.set_num_threads(threads)
        self._module: Any = torch.jit.load(file.path)  # type: ignore[no-untyped-call]  # holds what the graph reads
        self._inputs = tuple(inputs)
        self._lines = [node for node in file.graph if node.op != "placeholder"]
        graph = self._module.graph.copy()
        self._nodes = [node for node in graph.nodes() if not node.kind().startswith("prim::")]
        if not self._nodes or any(node.kind() in _BLOCKS for node in graph.nodes()):
            raise CannotTime("its graph has branches or loops")
        if any(True for _ in next(iter(graph.inputs())).uses()):
            raise CannotTime("freezing has left weights in the module")
        graph.eraseInput(0)  # the module itself, whose weights are constants by now
        self._timed = _with_moments(graph, self._nodes)
        self._moments: list[Sequence[int]] = []

    def run(self) -> None:
        """Run it once."""
        with torch.inference_mode():
            self._moments.append(self._timed(*self._inputs))

    def operators(self) -> list[Operator]:
        """All that compute; making lists and tuples counts with what comes next."""
        counted = self._moments[WARM_UP_RUNS:]
        spans = [typical([run[at + 1] - run[at] for run in counted]) / 1e6 for at in range(len(self._nodes) + 1)]
        noting, *taken = spans
        found = []
        for node, span in zip(self._nodes, taken, strict=True):
            name = next(iter(node.outputs())).debugName()
            layer = self._layer(node)
            found.append(
                Operator(
                    name=name,
                    kind=node.kind(),
                    ms=max(0.0, span - noting),
                    layers=() if layer is None else (layer,),
                    reads=_reads(node),
                )
            )
        return found

    def _layer(self, node: Any) -> str | None:
        """Of the FX node whose line of code the operator was traced in."""
        lines = _LINE.findall(node.sourceRange())
        at = int(lines[0]) - _FIRST_LINE if lines else -1
        return self._lines[at].layer if 0 <= at < len(self._lines) else None


def _with_moments(graph: Any, nodes: Sequence[Any]) -> Any:
    """A function of the model's inputs that gives the moments: two before the first of the nodes, one after each."""
    moments = []

    def note_moment() -> Any:
        node = graph.create("prim::TimePoint", [], 1)
        node.output().setType(torch._C.IntType.get())
        moments.append(node.output())
        return node

    for _ in range(2):
        note_moment().insertBefore(nodes[0])
    for node in nodes:
        note_moment().insertAfter(node)
    together = graph.create("prim::ListConstruct", moments, 1)
    together.output().setType(torch._C.ListType.ofInts())
    graph.appendNode(together)
    kept = [*graph.outputs(), together.output()]  # or nothing would be computed
    both = graph.create("prim::TupleConstruct", kept, 1)
    both.output().setType(torch._C.TupleType([each.type() for each in kept]))
    graph.appendNode(both)
    while list(graph.outputs()):
        graph.eraseOutput(0)
    graph.registerOutput(both.output())
    function = torch._C._create_function_from_graph("timed", graph)
    return lambda *inputs: function(*inputs)[-1]


def _reads(node: Any) -> tuple[str, ...]:
    """The nearest operators before it, through what only puts lists and tuples together or takes them apart."""
    found: dict[str, None] = {}
    waiting = [value.node() for value in node.inputs()]
    while waiting:
        before = waiting.pop()
        if not before.kind().startswith("prim::"):
            found[next(iter(before.outputs())).debugName()] = None
        elif before.kind() != "prim::Param":
            waiting += [value.node() for value in before.inputs()]
    return tuple(found)
