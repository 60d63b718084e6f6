"""Quant boundaries: where tensors pass between int8 and float, what each costs, and which override would remove it.

A tensor is followed through operators that only give it another shape: what counts is who computed it and who computes
with it next.
"""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable
from typing import Any

from torch import fx

from shared.layer_report import QuantBoundary
from worker.quantization.grouping import Group
from worker.quantization.int8_kernels import has_kernel
from worker.quantization.labelling import is_boundary, is_quantize, label, owners, passes_on
from worker.quantization.observing import Observed
from worker.quantization.plans import Plan

OUTPUT = "output"
#: A layer's name with the layer; an input of the model or its output may bear the name of one, and is none.
_Computing = tuple[str, Group | None]
_HOPELESS = ("int8 form fails", "kernel is wrong")


def quant_boundaries(
    raised: fx.GraphModule, quantized: fx.GraphModule, plan: Plan, observed: Observed
) -> list[QuantBoundary]:
    """Every boundary of a quantized graph, in its order."""
    layers, groups = label(raised, quantized), owners(raised)
    names = _Names(quantized, layers, groups)
    found = []
    for node in quantized.graph.nodes:
        if not is_boundary(node) or node not in observed.given:
            continue
        producers, consumers = names.before(node), names.after(node)
        quantizes = is_quantize(node)
        found.append(
            QuantBoundary(
                producer=", ".join(name for name, _ in producers),
                consumer=", ".join(name for name, _ in consumers),
                direction="quantize" if quantizes else "dequantize",
                elements=observed.given[node].elements // max(1, observed.samples),
                cost_ms=observed.boundary_ms.get(node),
                removed_by=_removed_by(
                    [group for _, group in (producers if quantizes else consumers)],
                    [group for _, group in (consumers if quantizes else producers)],
                    plan,
                ),
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


def has_int8_kernel(group: Group, plan: Plan) -> bool:
    """Whether FX has an int8 form of all its operators, and nothing was found wrong with it here."""
    reason = plan.float_reasons.get(group.name, "")
    return has_kernel(group) and not any(told in reason for told in _HOPELESS)


def _removed_by(floats: list[Group | None], int8s: list[Group | None], plan: Plan) -> dict[str, Any] | None:
    """Rather the float side in int8, where that can be; else the int8 side in float; nothing at the model's edge."""
    if not floats or None in floats:
        return None
    patches = [in_int8(group.name) for group in floats if group is not None and has_int8_kernel(group, plan)]
    if len(patches) != len(floats):
        patches = [in_float(group.name) for group in int8s if group is not None]
        if not patches or len(patches) != len(int8s):
            return None
    return {"overrides": [override for patch in patches for override in patch["overrides"]]}


class _Names:
    """Whose tensor a node passes on, and to whom."""

    def __init__(self, quantized: fx.GraphModule, layers: dict[fx.Node, str], groups: dict[str, Group]) -> None:
        self._quantized = quantized
        self._layers = layers
        self._groups = groups

    def before(self, node: fx.Node) -> list[_Computing]:
        return self._follow(node, lambda step: step.all_input_nodes[:1])

    def after(self, node: fx.Node) -> list[_Computing]:
        return self._follow(node, lambda step: step.users)

    def _follow(self, node: fx.Node, onwards: Callable[[fx.Node], Iterable[fx.Node]]) -> list[_Computing]:
        found: dict[_Computing, None] = {}
        waiting, seen = list(onwards(node)), {node}
        while waiting:
            step = waiting.pop(0)
            if step in seen:
                continue
            seen.add(step)
            computing = self._computing(step)
            if computing is not None:
                found[computing] = None
            else:
                waiting.extend(onwards(step))
        return list(found)

    def _computing(self, node: fx.Node) -> _Computing | None:
        """Who computes at a node; None when tensors only pass it."""
        if node.op == "output":
            return OUTPUT, None
        if node.op == "placeholder":
            return node.name, None
        group = self._groups.get(self._layers.get(node, ""))
        if node.op == "get_attr" or group is None or passes_on(self._quantized, node):
            return None
        return group.name, group
