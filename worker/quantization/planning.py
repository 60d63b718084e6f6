"""Choose how a model is quantized, from its graph, the CPU and what the spec asks: every `auto` is settled here.

    kernels    the qengine, and whether activations keep to 7 bits
    operators  all that FX knows, or convolutions and Linears only
    layers     which stay in float, each with its reason

The reasons, measured: 7-bit activations cost 3 to 8 dB, and only `onednn` kernels on CPUs with VNNI do without them.
Quantizing every operator of a network with layer norm, softmax and GELU ruins it (ViT: 4.6 dB), while its convolutions
and Linears take int8 well (26 dB). Its last Linear is small and decides the output.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import fx, nn

from shared.errors import ModelUnsupported, NothingToQuantize, SpecInvalid
from shared.quantization_spec import (
    REDUCED_MAX,
    ActivationObserver,
    DynamicSpec,
    Override,
    QatSpec,
    StaticSpec,
    WeightSettings,
)
from worker.quantization.grouping import RECURRENT, Group, cap_of, groups
from worker.quantization.int8_kernels import SYMMETRIC_ONLY, has_kernel
from worker.quantization.labelling import passes_on
from worker.quantization.overriding import (
    asked_by,
    overridden_activation,
    overridden_weight,
    overrides_by_group,
    some,
    without_kernels,
)
from worker.quantization.qconfigs import LayerSettings
from worker.quantization.ranging import ACTIVATIONS

Spec = DynamicSpec | StaticSpec | QatSpec
Operators = Literal["all", "weighted"]

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


@dataclass(frozen=True)
class Plan:
    """How a model is quantized, with every `auto` settled."""

    spec: Spec
    qengine: str
    operators: Operators
    int8_layers: frozenset[str]  #: names of the groups of grouping.py that are quantized
    float_reasons: dict[str, str]  #: the others, and why
    settings: LayerSettings  #: of every layer that has none of its own
    layer_settings: dict[str, LayerSettings] = field(default_factory=dict)
    asked_layers: frozenset[str] = frozenset()  #: that an override wants in int8
    notes: tuple[str, ...] = field(default=())
    barred: frozenset[str] = frozenset()  #: qengines that cannot hold these layers, and are not to be tried

    @property
    def per_channel(self) -> bool:
        """Whether weights have a scale a channel, where no layer says otherwise."""
        return self.settings.per_channel

    def settings_of(self, layer: str) -> LayerSettings:
        """How this layer is quantized."""
        return self.layer_settings.get(layer, self.settings)

    def resolved(self) -> dict[str, Any]:
        """The spec's own values where it said `auto`, and what was settled beyond it, under `plan`."""
        resolved: dict[str, Any] = {
            "weight": self.settings.weight.model_dump(),
            "plan": {
                "qengine": self.qengine,
                "operators": self.operators,
                "float_layers": dict(self.float_reasons),
                "notes": list(self.notes),
            },
        }
        if not isinstance(self.spec, DynamicSpec):
            resolved["qengine"] = self.qengine
            resolved["activation"] = self.settings.activation.model_dump()
        return resolved

    def with_observer(self, observer: ActivationObserver) -> Plan:
        """The same plan with this rule for all ranges whose rule is still open."""
        return replace(
            self,
            settings=_observing(self.settings, observer),
            layer_settings={name: _observing(each, observer) for name, each in self.layer_settings.items()},
        )

    def without(self, layer: str, reason: str) -> Plan:
        """The same plan with one layer more in float."""
        return replace(self, int8_layers=self.int8_layers - {layer}, float_reasons=self.float_reasons | {layer: reason})

    def noting(self, note: str) -> Plan:
        """The same plan with one note more."""
        return replace(self, notes=(*self.notes, note))

    def with_int8(self, layer: str) -> Plan:
        """The same plan with one layer more in int8."""
        reasons = {name: reason for name, reason in self.float_reasons.items() if name != layer}
        return replace(self, int8_layers=self.int8_layers | {layer}, float_reasons=reasons)


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
            plan = plan.without(group, f"overridden: {asked_by(override)}")
        elif group not in hopeless:
            plan = plan.with_int8(group)
    asked = {group for group, override in overridden.items() if not override.is_float} - hopeless
    plan = replace(
        plan,
        asked_layers=frozenset(asked),
        layer_settings=_layer_settings(all_groups, plan, overridden),
        notes=tuple(told_in_float(unable[index]) for index in unable if spec.overrides[index].precision == "int8"),
    )
    require_something(plan, all_groups)
    return plan


def told_in_float(layers: Mapping[str, str]) -> str:
    """That an override wanted these in int8; each with what keeps it in float."""
    by_reason: dict[str, list[str]] = {}
    for layer, reason in layers.items():
        by_reason.setdefault(reason, []).append(layer)
    told = "; ".join(f"{some(names)} ({reason})" for reason, names in by_reason.items())
    return f"in float although an override asks for int8: {told}"


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
    for group in others:
        plan = plan.without(
            group.name, "only convolutions and Linears are quantized, for all operators together failed"
        )
    return replace(plan, operators="weighted").noting(f"quantizing every operator failed: {why}")


def require_something(plan: Plan, all_groups: list[Group]) -> None:
    """Raise NothingToQuantize unless an operator with weights is left to quantize."""
    worthwhile = [group for group in all_groups if group.is_weighted or isinstance(group.module, RECURRENT)]
    if any(group.name in plan.int8_layers for group in worthwhile):
        return
    if not worthwhile:
        raise NothingToQuantize(
            "The model has no convolution, Linear or recurrent layer.",
            hint="int8 pays where a layer multiplies by a weight matrix; this model has none that Octavo recognises.",
        )
    why = "; ".join(sorted({plan.float_reasons.get(group.name, "not known to this method") for group in worthwhile}))
    other = "static or qat" if isinstance(plan.spec, DynamicSpec) else "dynamic"
    raise NothingToQuantize(
        f"Method {plan.spec.method} would leave every layer in float: {why}.", hint=f"Try {other}, or fewer overrides."
    )


# --- kernels ---------------------------------------------------------------------------------------------------------


def has_vnni() -> bool:
    """Whether the CPU multiplies bytes without overflow: AVX512-VNNI or AVX-VNNI."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_vnni") or capabilities.get("avx_vnni"))


def _kernels(spec: StaticSpec | QatSpec) -> tuple[str, bool]:
    """The qengine and reduce_range: full range wherever kernels and CPU hold it."""
    supported = torch.backends.quantized.supported_engines
    vnni = has_vnni()
    affine = where_weights_are_affine(spec)
    qengine = spec.qengine
    if qengine == "auto":
        if "onednn" in supported and vnni and not affine:
            qengine = "onednn"
        else:
            qengine = next(name for name in ("x86", "fbgemm", "qnnpack") if name in supported)
    elif qengine in SYMMETRIC_ONLY and affine:
        raise SpecInvalid(
            f"qengine {qengine} takes symmetric weights only, and {affine} asks for affine ones.",
            hint="Leave `qengine` at auto, or name x86, fbgemm or qnnpack.",
        )
    elif qengine not in supported:
        raise SpecInvalid(
            f"This worker has no qengine {qengine}; it has {', '.join(q for q in supported if q != 'none')}.",
            hint="Leave `qengine` at auto.",
        )
    reduce_range = spec.activation.reduce_range
    if reduce_range == "auto":
        # Seen on a trained mobilenet_v2 with VNNI, full range: onednn 22.8 dB, x86 11.2, fbgemm 1.7: they saturate.
        reduce_range = qengine in ("x86", "fbgemm") or (qengine == "onednn" and not vnni)
    return qengine, reduce_range


def where_weights_are_affine(spec: StaticSpec | QatSpec) -> str | None:
    """The place in the spec that asks for weights with zero points; None when there is none."""
    asked = {"weight.qscheme": spec.weight.qscheme} | {
        f"overrides[{index}].weight.qscheme": override.weight.qscheme
        for index, override in enumerate(spec.overrides)
        if override.weight is not None and override.weight.qscheme is not None
    }
    return next((place for place, qscheme in asked.items() if qscheme.endswith("affine")), None)


# --- operators -------------------------------------------------------------------------------------------------------


def _static_plan(all_groups: list[Group], spec: StaticSpec | QatSpec) -> Plan:
    qengine, reduce_range = _kernels(spec)
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
    int8, reasons = set(), {}
    head = _small_head(all_groups) if operators == "weighted" else None
    for group in all_groups:
        if isinstance(group.module, RECURRENT) or _takes_maxima(group):
            reasons[group.name] = str(_no_kernel(group))
        elif group is head:
            reasons[group.name] = (
                "by default, not measured on this model: in a network with layer norm, softmax or GELU the last Linear "
                "stays in float, for it is small and decides the output"
            )
        elif group.op in _AVERAGES:
            reasons[group.name] = (
                "an average has a narrower range than what it averages, and its int8 kernel would have to share one"
            )
        elif operators == "weighted" and not (group.is_weighted or group.is_embedding):
            reasons[group.name] = (
                "in a network with layer norm, softmax or GELU only convolutions and Linears take int8 well"
            )
        else:
            int8.add(group.name)
    return Plan(
        spec=spec,
        qengine=qengine,
        operators=operators,
        int8_layers=frozenset(int8),
        float_reasons=reasons,
        settings=LayerSettings(activation, settled_weight(spec.weight)),
        barred=frozenset(SYMMETRIC_ONLY) if where_weights_are_affine(spec) else frozenset(),
    )


def _no_kernel(group: Group) -> str | None:
    """Why a layer stays in float whatever is asked; None when it need not."""
    if isinstance(group.module, RECURRENT):
        return "recurrent layers have int8 kernels with dynamic ranges only: use method dynamic"
    if _takes_maxima(group):
        return "no int8 kernel takes the maximum over a bag"
    return None if has_kernel(group) else f"torch has no int8 kernel with calibrated ranges for {group.op}"


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
        weight = settled_weight(
            overridden_weight(spec.weight.model_copy(update={"qscheme": weight.qscheme}), override.weight)
        )
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


def _observing(settings: LayerSettings, observer: ActivationObserver) -> LayerSettings:
    if settings.activation.observer != "auto":
        return settings
    return replace(settings, activation=settings.activation.model_copy(update={"observer": observer}))


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
