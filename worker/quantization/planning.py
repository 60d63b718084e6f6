"""Choose how a model is quantized, from its graph, the CPU and what the spec asks: every `auto` is settled here.

    operators  all that FX knows, or convolutions and Linears only
    layers     which stay in float, each with its reason
    settings   of each layer that differs from the others

The reasons, measured: quantizing every operator of a network with layer norm, softmax and GELU ruins it (ViT: 4.6 dB),
while its convolutions and Linears take int8 well (26 dB). Its last Linear is small and decides the output.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import fx, nn

from shared.errors import ModelUnsupported
from shared.quantization_spec import REDUCED_MAX, DynamicSpec, Override, QatSpec, StaticSpec, WeightSettings
from worker.quantization.choosing_kernels import choose_kernels, held_weight, where_weights_are_affine
from worker.quantization.float_reasons import FloatReason
from worker.quantization.grouping import RECURRENT, Group, cap_of, groups
from worker.quantization.int8_kernels import SYMMETRIC_ONLY, has_kernel
from worker.quantization.labelling import passes_on
from worker.quantization.overriding import (
    overridden_activation,
    overridden_to_float,
    overridden_weight,
    overrides_by_group,
    without_kernels,
)
from worker.quantization.plans import Operators, Plan, Spec, require_something, told_in_float
from worker.quantization.qconfigs import LayerSettings
from worker.quantization.ranging import ACTIVATIONS

#: What tells a transformer, or a convolutional network built like one.
_TRANSFORMER_OPS = frozenset({"LayerNorm", "scaled_dot_product_attention", "matmul", "bmm", "gelu", "GELU"})
#: Averages over all positions.
_AVERAGES = frozenset({
    "mean", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "_adaptive_avg_pool2d",
    "_adaptive_avg_pool3d", "AdaptiveAvgPool1d", "AdaptiveAvgPool2d", "AdaptiveAvgPool3d",
})  # fmt: skip
_LAST_OPS = frozenset(
    {"softmax", "_softmax", "log_softmax", "_log_softmax", "sigmoid", "tanh", "relu", "getitem", "slice"}
)
#: A last Linear with a greater share of the weights is worth its bytes in int8.
_SMALL_HEAD = 0.25


def choose_plan(raised: fx.GraphModule, spec: StaticSpec | QatSpec) -> Plan:
    """The plan for a raised model with calibrated ranges, not yet tried out; dynamic_planning.py has the other.

    Raises NothingToQuantize when no layer would be int8, SpecInvalid when an override matches nothing or settings
    contradict each other.
    """
    all_groups = groups(raised)
    overridden = overrides_by_group(all_groups, spec.overrides)
    unable = without_kernels(
        all_groups, spec.overrides, overridden, lambda group: None if _only_passes(raised, group) else _no_kernel(group)
    )
    hopeless = {layer for layers in unable.values() for layer in layers}
    plan = _static_plan(all_groups, spec)
    for group, override in overridden.items():
        if override.is_float:
            plan = plan.without(group, overridden_to_float(override))
        elif group not in hopeless:
            plan = plan.with_int8(group)
    asked = {group for group, override in overridden.items() if not override.is_float} - hopeless
    told = [told_in_float(unable[index]) for index in unable if spec.overrides[index].precision == "int8"]
    plan = replace(
        plan,
        asked_layers=frozenset(asked),
        layer_settings=_layer_settings(all_groups, plan, overridden),
        notes=(*plan.notes, *told),
    )
    require_something(plan, all_groups)
    return plan


def only_weighted(all_groups: list[Group], plan: Plan, why: str) -> Plan:
    """The same plan with nothing but convolutions, Linears and embeddings in int8.

    Raises ModelUnsupported when that is what it was.
    """
    others = [
        group
        for group in all_groups
        if group.name in plan.int8_layers and not (group.is_weighted or group.is_embedding)
    ]
    if not others:
        raise ModelUnsupported(f"This model cannot be quantized statically: {why}.", hint="Try method dynamic.")
    reason = FloatReason("failed", "only convolutions and Linears are quantized, for all operators together failed")
    for group in others:
        plan = plan.without(group.name, reason)
    return replace(plan, operators="weighted").noting(f"quantizing every operator failed: {why}")


def _static_plan(all_groups: list[Group], spec: StaticSpec | QatSpec) -> Plan:
    qengine, reduce_range = choose_kernels(spec)
    weight, note = held_weight(spec, qengine)
    observer = spec.activation.observer
    if observer == "auto" and isinstance(spec, QatSpec):
        # Over the zoo, QAT reaches 33.0 dB on average with minmax and 28.4 with a moving average. For static the rule
        # is settled once the data has been seen.
        observer = "minmax"
    greatest = spec.activation.quant_max
    if reduce_range and greatest is not None:
        greatest = min(greatest, REDUCED_MAX)
    activation = spec.activation.model_copy(
        update={"observer": observer, "reduce_range": reduce_range, "quant_max": greatest}
    )
    operators: Operators = "weighted" if any(group.op in _TRANSFORMER_OPS for group in all_groups) else "all"
    head = _small_head(all_groups) if operators == "weighted" else None
    int8, reasons = set(), {}
    for group in all_groups:
        if isinstance(group.module, RECURRENT) or _takes_maxima(group):
            reason = _no_kernel(group)
        else:
            reason = _policy(group, operators, head)
        if reason is None:
            int8.add(group.name)
        else:
            reasons[group.name] = reason
    return Plan(
        spec=spec,
        qengine=qengine,
        operators=operators,
        int8_layers=frozenset(int8),
        float_reasons=reasons,
        settings=LayerSettings(activation, settled_weight(weight)),
        notes=() if note is None else (note,),
        barred=frozenset(SYMMETRIC_ONLY) if where_weights_are_affine(spec) else frozenset(),
    )


def _policy(group: Group, operators: Operators, head: Group | None) -> FloatReason | None:
    """Why a layer that may have a kernel stays in float unless an override asks otherwise; None when it does not."""
    if group is head:
        return FloatReason(
            "policy",
            "by default, not measured on this model: in a network with layer norm, softmax or GELU the last Linear "
            "stays in float, for it is small and decides the output",
        )
    if group.op in _AVERAGES:
        return FloatReason(
            "policy",
            "an average has a narrower range than what it averages, and its int8 kernel would have to share one",
        )
    if operators == "weighted" and not (group.is_weighted or group.is_embedding):
        return FloatReason(
            "policy", "in a network with layer norm, softmax or GELU only convolutions and Linears take int8 well"
        )
    return None


def _no_kernel(group: Group) -> FloatReason | None:
    """Why a layer stays in float whatever is asked; None when it need not."""
    if isinstance(group.module, RECURRENT):
        text = "recurrent layers have int8 kernels with dynamic ranges only: use method dynamic"
    elif _takes_maxima(group):
        text = "no int8 kernel takes the maximum over a bag"
    elif has_kernel(group):
        return None
    else:
        text = f"torch has no int8 kernel with calibrated ranges for {group.op}"
    return FloatReason("no_kernel", text)


def _takes_maxima(group: Group) -> bool:
    return isinstance(group.module, nn.EmbeddingBag) and group.module.mode == "max"


def _only_passes(raised: fx.GraphModule, group: Group) -> bool:
    """Whether an operator only gives its tensor another shape: int8 tensors pass it as they are."""
    return passes_on(raised, group.nodes[0])


def settled_weight(asked: WeightSettings) -> WeightSettings:
    """The settings with the qscheme that follows the observer, and the limits that follow the qscheme.

    Symmetric weights keep to -127 … 127. torch's own -128 … 127 takes the step for half of 255: the greatest weight of
    every channel then falls half a step above 127 and is clipped. On trained networks that costs 0.6 dB (resnet18),
    2.3 dB (mobilenet_v2), 3.8 dB (efficientnet_b0).
    """
    follows = "per_channel_symmetric" if "per_channel" in asked.observer else "per_tensor_symmetric"
    qscheme = follows if asked.qscheme == "auto" else asked.qscheme
    least = -127 if qscheme.endswith("symmetric") else -128
    return asked.model_copy(
        update={
            "qscheme": qscheme,
            "quant_min": least if asked.quant_min is None else asked.quant_min,
            "quant_max": 127 if asked.quant_max is None else asked.quant_max,
        }
    )


def _layer_settings(all_groups: list[Group], plan: Plan, overridden: dict[str, Override]) -> dict[str, LayerSettings]:
    """The layers that differ from the plan's settings: by an override, or by what stands behind them in the graph."""
    found = {}
    for group in all_groups:
        settings = plan.settings
        if (override := overridden.get(group.name)) is not None:
            settings = _overridden_settings(settings, override, plan.spec)
        settings = replace(settings, cap=_absorbed_cap(group, settings), through=_activation_behind(group))
        if settings != plan.settings:
            found[group.name] = settings
    return found


def _overridden_settings(settings: LayerSettings, override: Override, spec: Spec) -> LayerSettings:
    """On the limits that were asked for: the settled ones follow what the override may change."""
    activation, weight = settings.activation, settings.weight
    if override.activation is not None and not isinstance(spec, DynamicSpec):
        asked = activation.model_copy(update={"quant_max": spec.activation.quant_max})
        activation = overridden_activation(asked, override.activation)
    if override.weight is not None:
        held = spec.weight.model_copy(update={"observer": weight.observer, "qscheme": weight.qscheme})
        weight = settled_weight(overridden_weight(held, override.weight))
    return replace(settings, activation=activation, weight=weight)


def _absorbed_cap(group: Group, settings: LayerSettings) -> float | None:
    """The cap of a clamp that closes the group, if its kernel saturates there: it does at 255, whatever it is told."""
    activation = settings.activation
    full_range = not activation.reduce_range and activation.quant_max in (None, 255) and not activation.quant_min
    if len(group.nodes) < 2 or not full_range or activation.qscheme != "per_tensor_affine":
        return None
    return cap_of(group.nodes[-1])


def _activation_behind(group: Group) -> str | None:
    """The activation that alone reads what the group gives."""
    users = list(group.nodes[-1].users)
    name = str(users[0].meta.get("op", "")).lower() if len(users) == 1 else ""
    return name if name in ACTIVATIONS and group.is_weighted else None


def head_of(raised: fx.GraphModule) -> str | None:
    """The last Linear, when it gives the output as it is; None when there is none, or nothing else has weights."""
    head = _head(groups(raised))
    return None if head is None else head.name


def _head(all_groups: list[Group]) -> Group | None:
    weighted = [group for group in all_groups if group.is_weighted]
    if len(weighted) < 2 or not isinstance(weighted[-1].module, nn.Linear) or not _gives_output(weighted[-1].nodes[-1]):
        return None
    return weighted[-1]


def _small_head(all_groups: list[Group]) -> Group | None:
    """The head, when its weights are a small share of all."""
    head = _head(all_groups)
    if head is None:
        return None
    everything = sum(_weight_count(group) for group in all_groups if group.is_weighted)
    return head if _weight_count(head) <= _SMALL_HEAD * everything else None


def _gives_output(node: fx.Node) -> bool:
    """Whether nothing but shapes and a last activation stand between a node and the output."""
    return all(
        user.op == "output"
        or ((user.op == "call_method" or user.meta["op"].lower() in _LAST_OPS) and _gives_output(user))
        for user in node.users
    )


def _weight_count(group: Group) -> int:
    assert group.module is not None
    weight = group.module.weight
    assert isinstance(weight, torch.Tensor)
    return weight.numel()
