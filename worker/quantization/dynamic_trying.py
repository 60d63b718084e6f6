"""Try a dynamic plan on made-up inputs, and leave in float the layers whose kernels fail or compute something else."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812 - its name everywhere
from torch.utils import _pytree as pytree

from worker.quantization.counting import layer_macs
from worker.quantization.dynamic import quantize_dynamic
from worker.quantization.dynamic_planning import DynamicPlan
from worker.quantization.float_reasons import FloatReason
from worker.quantization.grouping import groups
from worker.quantization.plans import require_something


def without_wrong_kernels(raised: fx.GraphModule, plan: DynamicPlan, inputs: tuple[Tensor, ...]) -> DynamicPlan:
    """The plan without the layers that, given what the float layer is given, err by more than its sums come to.

    Raises NothingToQuantize when no layer is left.
    """
    inspector = _Inspector(raised, quantize_dynamic(raised, plan), plan)
    with torch.no_grad():
        inspector.run(*inputs)
    if not inspector.faults:
        return plan
    for layer, reason in inspector.faults.items():
        plan = plan.without(layer, FloatReason("failed", reason))
    require_something(plan, groups(raised))
    return plan.counted(layer_macs(raised))


class _Inspector(fx.Interpreter):
    """Runs the float graph, and beside each planned layer its quantized form on the same inputs."""

    def __init__(self, raised: fx.GraphModule, quantized: fx.GraphModule, plan: DynamicPlan) -> None:
        super().__init__(raised)
        self.quantized = quantized
        self.plan = plan
        self.faults: dict[str, str] = {}

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        wanted = super().call_module(target, args, kwargs)
        if target in self.plan.int8_layers:
            precision = "float16" if target in self.plan.float16_layers else "int8"
            try:
                found = self.quantized.get_submodule(target)(*args, **kwargs)
            except Exception as error:  # noqa: BLE001 - torch's kernels raise whatever they stumble over
                self.faults[target] = f"its {precision} form fails: {str(error).strip().splitlines()[0][:200]}"
                return wanted
            if _is_wrong(self.fetch_attr(target), args[0], pytree.tree_leaves(wanted), pytree.tree_leaves(found)):
                self.faults[target] = f"its {self.plan.qengine} kernel is wrong: it errs by more than its sums come to"
        return wanted


def _is_wrong(layer: nn.Module, given: Tensor, wanted: list[Tensor], found: list[Tensor]) -> bool:
    """Whether an output is further off than it is large; of a Linear than `|W||x|`, for its products may cancel out."""
    sizes = [ours.norm() for ours in wanted]
    if isinstance(layer, nn.Linear):
        sizes = [F.linear(given.abs(), layer.weight.abs()).norm()]
    return any(
        ours.shape != theirs.shape or bool((ours - theirs).norm() > size)
        for ours, theirs, size in zip(wanted, found, sizes, strict=True)
    )
