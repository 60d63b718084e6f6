"""Quant boundaries: where tensors pass between int8 and float, what each costs, and which override would remove it.

A tensor is followed through operators that only give it another shape: what counts is who computed it and who computes
with it next.
"""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx

from shared.layer_report import QuantBoundary
from worker.quantization.float_reasons import FloatReason
from worker.quantization.grouping import TABLES, Group, module_of
from worker.quantization.int8_kernels import has_kernel
from worker.quantization.labelling import Labelled, is_boundary, is_quantize, passes_on
from worker.quantization.observing import Observed
from worker.quantization.plans import Plan

OUTPUT = "output"
#: A layer's name with the layer; an input of the model or its output may bear the name of one, and is none.
_Computing = tuple[str, Group | None]


@dataclass(frozen=True)
class _Side:
    """Who computes on one side of a boundary, and the operators that a tensor passes on its way there."""

    computing: list[_Computing]
    passed: list[Group]

    @property
    def names(self) -> str:
        """As the report has them."""
        return ", ".join(name for name, _ in self.computing)

    @property
    def groups(self) -> list[Group] | None:
        """All of them; None at the model's edge."""
        found = [group for _, group in self.computing if group is not None]
        return [*found, *self.passed] if len(found) == len(self.computing) > 0 else None


def quant_boundaries(
    graphs: Labelled, plan: Plan, observed: Observed, in_float: Mapping[str, FloatReason]
) -> list[QuantBoundary]:
    """Every boundary of a quantized graph, in its order; `in_float` are the layers that compute in float, and why."""
    names, removing = _Names(graphs), _Removing(graphs, plan, in_float)
    found = []
    for node in graphs.quantized.graph.nodes:
        if not is_boundary(node) or node not in observed.given:
            continue
        producers, consumers = names.before(node), names.after(node)
        quantizes = is_quantize(node)
        found.append(
            QuantBoundary(
                producer=producers.names,
                consumer=consumers.names,
                direction="quantize" if quantizes else "dequantize",
                elements=observed.given[node].elements // max(1, observed.samples),
                cost_ms=observed.boundary_ms.get(node),
                removed_by=removing.patch(producers, consumers) if quantizes else removing.patch(consumers, producers),
            )
        )
    return found


def glob_of(layer: str) -> str:
    """The pattern that matches this layer and no other."""
    return glob.escape(layer)


def in_int8(layer: str) -> dict[str, Any]:
    """The spec patch that puts a layer in int8."""
    return {"overrides": [{"layer": glob_of(layer), "precision": "int8"}]}


def in_float(layer: str) -> dict[str, Any]:
    """The spec patch that keeps a layer in float."""
    return {"overrides": [{"layer": glob_of(layer), "precision": "float32"}]}


class _Removing:
    """Which overrides would remove a boundary."""

    def __init__(self, graphs: Labelled, plan: Plan, in_float: Mapping[str, FloatReason]) -> None:
        self._raised = graphs.raised
        self._plan = plan
        self._in_float = in_float
        weighted = {group.name for group in graphs.groups if group.is_weighted}
        self._indispensable = weighted & plan.int8_layers  # a job that leaves none of them in int8 is refused

    def patch(self, floats: _Side, int8s: _Side) -> dict[str, Any] | None:
        """Rather the float side in int8, where that can be; else the int8 side in float; None at the model's edge."""
        if floats.groups is not None and all(self._can_give_int8(group) for group in floats.groups):
            missing = [group.name for group in floats.groups if group.name in self._in_float]
            if missing:
                return _together(map(in_int8, missing))
        if floats.groups is None or int8s.groups is None:
            return None
        given_up = [group.name for group in int8s.groups if group.name in self._plan.int8_layers]
        if len(given_up) < len(int8s.groups) or self._indispensable <= {*given_up}:
            return None
        return _together(map(in_float, given_up))

    def _can_give_int8(self, group: Group) -> bool:
        """Whether a layer gives integers, or an override would make it."""
        reason = self._in_float.get(group.name)
        if isinstance(group.module, TABLES) or (reason is not None and reason.bars_int8):
            return False
        if reason is not None and not group.is_weighted and self._reads_table(group):
            return False
        return has_kernel(group) or passes_on(self._raised, group.nodes[0])

    def _reads_table(self, group: Group) -> bool:
        """FX takes what a table gives for integers: operators on it fail, unless they have weights (torch 2.13)."""
        sources = {source for node in group.nodes for source in node.all_input_nodes}
        return any(isinstance(module_of(self._raised, source), TABLES) for source in sources)


def _together(patches: Iterable[dict[str, Any]]) -> dict[str, Any]:
    return {"overrides": [override for patch in patches for override in patch["overrides"]]}


class _Names:
    """Whose tensor a node passes on, and to whom."""

    def __init__(self, graphs: Labelled) -> None:
        self._graphs = graphs

    def before(self, node: fx.Node) -> _Side:
        return self._follow(node, lambda step: step.all_input_nodes[:1])

    def after(self, node: fx.Node) -> _Side:
        return self._follow(node, lambda step: step.users)

    def _follow(self, node: fx.Node, onwards: Callable[[fx.Node], Iterable[fx.Node]]) -> _Side:
        computing: dict[_Computing, None] = {}
        passed: dict[Group, None] = {}
        waiting, seen = list(onwards(node)), {node}
        while waiting:
            step = waiting.pop(0)
            if step in seen:
                continue
            seen.add(step)
            group = self._graphs.owners.get(self._graphs.layers.get(step, ""))
            if step.op == "output":
                computing[OUTPUT, None] = None
            elif step.op == "placeholder":
                computing[step.name, None] = None
            elif step.op == "get_attr" or group is None or passes_on(self._graphs.quantized, step):
                if group is not None:
                    passed[group] = None
                waiting.extend(onwards(step))
            else:
                computing[group.name, group] = None
        return _Side(list(computing), list(passed))
