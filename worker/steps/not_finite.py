"""Where the float model itself first computes a NaN or an infinity, if it gives any."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from worker.datasets import Samples, batches
from worker.inference import padded_to
from worker.steps.load import LoadedModel


def first_not_finite(model: LoadedModel, samples: Samples) -> str | None:
    """The first layer that makes of finite tensors what is not finite in an output; None when all outputs are finite.

    The graph is run node by node on the first batch that has such an output. Of NaNs is told where a NaN first is: a
    mask's infinities may lie on its way.
    """
    with torch.inference_mode():
        for batch in batches(samples, model.batch_size):
            recorder = _Recorder(model.raised)
            outputs = recorder.run(*padded_to(batch.inputs, model.batch.low))
            if recorder.nan or recorder.infinite:
                for bad in (recorder.nan, recorder.infinite):
                    if _holds(outputs, torch.isnan if bad is recorder.nan else torch.isinf):
                        return _first(model.raised, bad)
    return None


class _Recorder(fx.Interpreter):
    """Runs a graph, and notes the nodes that give what is not finite."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.nan: set[fx.Node] = set()
        self.infinite: set[fx.Node] = set()

    def run_node(self, n: fx.Node) -> Any:
        """As fx does."""
        found = super().run_node(n)
        if _holds(found, torch.isnan):
            self.nan.add(n)
        if _holds(found, torch.isinf):
            self.infinite.add(n)
        return found


def _first(graph: fx.GraphModule, bad: set[fx.Node]) -> str | None:
    """The first in the graph's order of those that lead to the output through each other."""
    found, waiting = set[fx.Node](), [node for node in graph.graph.nodes if node.op == "output"]
    while waiting:
        before = [node for node in waiting.pop().all_input_nodes if node in bad and node not in found]
        found.update(before)
        waiting.extend(before)
    first = next((node for node in graph.graph.nodes if node in found), None)
    return None if first is None else str(first.meta.get("layer", first.name))


def _holds(values: Any, predicate: Any) -> bool:
    leaves = [leaf for leaf in pytree.tree_leaves(values) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    return any(bool(predicate(leaf).any()) for leaf in leaves)
