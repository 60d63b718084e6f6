"""Masks: tensors that hold −∞, or a number so low that it stands for it, such as -1e9 where attention shall not look.

No range holds both the mask and what is beside it: either all that is beside it falls on one step, or what should weigh
nothing weighs something. A mask that was added to the scores of a small network, as int8, left 7 dB of 36.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx

from worker.quantization.float_reasons import FloatReason
from worker.quantization.grouping import groups
from worker.quantization.islands import without_islands
from worker.quantization.plans import Plan, require_something, told_in_float

_STEPS = 255
#: Lower numbers than this may be a mask; what stands for −∞ in practice is -1e4, -1e9 or the least of a dtype.
_LOW = -1e3
#: Of what the lowest number is: a mask with scores added to it still is one number, an outlier channel is not.
_ALIKE = 0.01


def without_masks(raised: fx.GraphModule, plan: Plan, batches: Iterable[tuple[Tensor, ...]]) -> Plan:
    """The same plan with what reads or gives a mask on these inputs in float, and the islands that this makes.

    Raises NothingToQuantize when no layer with weights is left in int8.
    """
    watcher = _Watcher(raised)
    with torch.no_grad():
        for inputs in batches:
            watcher.run(*inputs)
    all_groups, masked = groups(raised), {}
    for group in all_groups:
        nodes = (*group.nodes, *(source for node in group.nodes for source in node.all_input_nodes))
        seen = next((watcher.masks[node] for node in nodes if node in watcher.masks), None)
        if seen is not None and group.name in plan.int8_layers:
            text = f"it holds a mask: no range has steps for {seen} and for what is beside it"
            masked[group.name] = FloatReason("mask", text)
    if not masked:
        return plan
    for name, reason in masked.items():
        plan = plan.without(name, reason)
    asked = {name: reason for name, reason in masked.items() if name in plan.asked_layers}
    if asked:
        plan = plan.noting(told_in_float(asked))
    require_something(plan, all_groups)
    return without_islands(raised, plan)


class _Watcher(fx.Interpreter):
    """Runs a graph and notes which nodes gave a mask, and what stands for −∞ in it."""

    def __init__(self, raised: fx.GraphModule) -> None:
        super().__init__(raised)
        self.masks: dict[fx.Node, str] = {}

    def run_node(self, n: fx.Node) -> Any:
        """As fx does."""
        value = super().run_node(n)
        for tensor in value if isinstance(value, list | tuple) else (value,):
            if isinstance(tensor, Tensor) and tensor.is_floating_point() and n.op != "output":
                lowest = _mask_in(tensor)
                if lowest is not None:
                    self.masks.setdefault(n, f"{lowest:.3g}".replace("-inf", "−∞"))
        return value


def _mask_in(values: Tensor) -> float | None:
    """The number that stands for −∞ in a tensor; None where there is none.

    It is −∞ itself, or so low that a step of int8 swallows all that is not it.
    """
    if values.numel() == 0:
        return None
    lowest = float(values.min())
    if not lowest < _LOW:  # NaN too
        return None
    if lowest == float("-inf"):
        return lowest
    others = values[values > lowest * (1 - _ALIKE)]
    beside = float(others.abs().max()) if others.numel() else 0.0
    return lowest if beside < -lowest / _STEPS else None
