"""What became of each layer, read from the quantized module itself and not from the plan."""

from __future__ import annotations

from torch import Tensor, fx, nn

from shared.layer_report import LayerSummary
from worker.quantization.grouping import Group, groups
from worker.quantization.planning import Plan

_NO_KERNEL = "no int8 kernel"


def describe_layers(raised: fx.GraphModule, quantized: nn.Module, plan: Plan) -> list[LayerSummary]:
    """A line for each layer with weights, and for each operator that the plan speaks of; in the graph's order."""
    modules = dict(quantized.named_modules())
    return [
        _describe(group, modules, plan)
        for group in groups(raised)
        if group.module is not None and any(True for _ in group.module.parameters())
    ]


def _describe(group: Group, modules: dict[str, nn.Module], plan: Plan) -> LayerSummary:
    assert group.module is not None
    is_int8 = _is_int8(modules.get(group.name))
    weights = list(group.module.parameters())
    return LayerSummary(
        name=group.name,
        op=group.op,
        precision="int8" if is_int8 else "float32",
        weight_bytes=sum(_int8_bytes(weight) if is_int8 else weight.numel() * 4 for weight in weights),
        reason=None if is_int8 else plan.float_reasons.get(group.name, _NO_KERNEL),
    )


def _is_int8(module: nn.Module | None) -> bool:
    return module is not None and type(module).__module__.startswith(
        ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized")
    )


def _int8_bytes(weight: Tensor) -> int:
    """Matrices and kernels take a byte a weight; biases and norms stay float."""
    return weight.numel() * (1 if weight.dim() > 1 else 4)
