"""Choose what method dynamic quantizes, and how: the layers whose activation ranges torch finds at run time.

    int8      Linear, LSTM, GRU, the three cells, Embedding, EmbeddingBag (sum and mean)
    float16   Linear, LSTM, GRU and the cells: weights only, multiplied in float32
    neither   convolutions, nn.RNN, EmbeddingBag by maximum: torch 2.13 has no such kernels

Measured on a CPU with VNNI (fbgemm kernels, rows of weights a hundred times apart): a scale a row gives 1 to 7 dB over
a scale a matrix, in every kind of layer; 8-bit activations give another 4 to 6 dB to Linear and do not saturate.
torch.ao by itself takes a scale a matrix for all of them, and 7 bits always.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx, nn

from shared.errors import SpecInvalid
from shared.layer_report import LayerPrecision
from shared.quantization_spec import ActivationSettings, DynamicSpec, Override
from worker.quantization.choosing_kernels import has_vnni
from worker.quantization.counting import float_share, layer_macs
from worker.quantization.float_reasons import FloatReason
from worker.quantization.grouping import CONVOLUTIONS, TABLES, TRANSPOSED, Group, groups
from worker.quantization.overriding import overridden_to_float, overridden_weight, overrides_by_group
from worker.quantization.planning import settled_weight
from worker.quantization.plans import Plan, require_something
from worker.quantization.qconfigs import LayerSettings

MULTIPLYING = (nn.Linear, nn.LSTM, nn.GRU, nn.LSTMCell, nn.GRUCell, nn.RNNCell)
_CONVOLUTIONS = (*CONVOLUTIONS, *TRANSPOSED)
_FLOAT16_QENGINES = ("fbgemm", "x86")  # the others cannot pack float16 weights


@dataclass(frozen=True)
class DynamicPlan(Plan):
    """A plan without calibrated ranges; `int8_layers` names the layers that are quantized, float16 ones too."""

    float16_layers: frozenset[str] = frozenset()
    float_macs_share: float = 0.0  #: share of the multiply-accumulates that stay in float32
    convolution_macs_share: float = 0.0  #: share of all that convolutions do: all of it stays in float32

    def resolved(self) -> dict[str, Any]:
        """The spec's own values where it said `auto`, and what was settled beyond it, under `plan`."""
        resolved = super().resolved()
        resolved["plan"] |= {
            "reduce_range": self.settings.activation.reduce_range,
            "float_macs_share": self.float_macs_share,
        }
        return resolved

    def precision_of(self, layer: str) -> LayerPrecision:
        """What this layer computes in."""
        return "float16" if layer in self.float16_layers else super().precision_of(layer)

    def without(self, layer: str, reason: FloatReason) -> DynamicPlan:
        """The same plan with one layer more in float."""
        return replace(
            self, int8_layers=self.int8_layers - {layer}, float16_layers=self.float16_layers - {layer},
            float_reasons=self.float_reasons | {layer: reason},
        )  # fmt: skip

    def counted(self, macs: Mapping[str, int]) -> DynamicPlan:
        """The same plan with its share of the multiply-accumulates told anew."""
        return replace(self, float_macs_share=float_share(macs, self.int8_layers))


def choose_dynamic_plan(raised: fx.GraphModule, spec: DynamicSpec) -> DynamicPlan:
    """The plan for a raised model, not yet tried out.

    Raises NothingToQuantize when every layer would stay in float, SpecInvalid when an override matches nothing, asks
    for what this method has not, or settings contradict each other.
    """
    all_groups = groups(raised)
    overridden = overrides_by_group(all_groups, spec.overrides)
    _refuse_what_is_not_dynamic(all_groups, spec, overridden)
    settings = LayerSettings(
        ActivationSettings(observer="minmax", reduce_range=not has_vnni()), settled_weight(spec.weight)
    )
    precisions: dict[str, str] = {}
    own_settings, reasons = {}, {}
    for group in all_groups:
        override = overridden.get(group.name)
        if override is not None and override.is_float:
            reasons[group.name] = overridden_to_float(override)
            continue
        precision = spec.precision if override is None else "int8"
        if (reason := _no_kernel(group.module, precision)) is not None:
            reasons[group.name] = reason
        elif isinstance(group.module, MULTIPLYING + TABLES):
            precisions[group.name] = precision
            if override is not None and override.weight is not None:
                own_settings[group.name] = replace(settings, weight=overridden_weight(settings.weight, override.weight))
    float16 = frozenset(name for name, precision in precisions.items() if precision == "float16")
    macs = layer_macs(raised)
    convolutions = {group.name for group in all_groups if isinstance(group.module, _CONVOLUTIONS)}
    plan = DynamicPlan(
        spec=spec,
        qengine=_qengine(needs_float16=bool(float16)),
        operators="weighted",
        int8_layers=frozenset(precisions),
        float_reasons=reasons,
        settings=settings,
        layer_settings=own_settings,
        float16_layers=float16,
        convolution_macs_share=1 - float_share(macs, convolutions) if convolutions else 0.0,
    )
    require_something(plan, all_groups)
    return plan.counted(macs)


def _no_kernel(module: nn.Module | None, precision: str) -> FloatReason | None:
    """Why a layer with weights stays in float; None when it need not."""
    if isinstance(module, nn.RNN):
        text = "torch has int8 kernels for LSTM, GRU and single cells, and none for nn.RNN"
    elif isinstance(module, nn.EmbeddingBag) and module.mode == "max":
        text = "no int8 kernel takes the maximum over a bag"
    elif isinstance(module, TABLES) and precision == "float16":
        text = "torch has no float16 kernel for tables; an override with precision int8 quarters it"
    elif isinstance(module, _CONVOLUTIONS):
        text = "convolutions have no int8 kernel with dynamic ranges: use method static"
    else:
        return None
    return FloatReason("no_kernel", text)


def _qengine(*, needs_float16: bool) -> str:
    supported = torch.backends.quantized.supported_engines
    if not needs_float16:
        return next(name for name in ("fbgemm", "x86", "onednn", "qnnpack") if name in supported)
    found = next((name for name in _FLOAT16_QENGINES if name in supported), None)
    if found is None:
        raise SpecInvalid(
            "This worker's torch has no float16 kernels: they come with fbgemm.", hint="Use precision int8."
        )
    return found


# --- what is refused -------------------------------------------------------------------------------------------------


def _refuse_what_is_not_dynamic(all_groups: list[Group], spec: DynamicSpec, overridden: Mapping[str, Override]) -> None:
    for index, override in enumerate(spec.overrides):
        if override.activation is not None:
            raise SpecInvalid(
                f"overrides[{index}].activation has nothing to set: method dynamic finds ranges at run time.",
                hint="Leave `activation` out, or use method static.",
            )
        matched = [group for group in all_groups if overridden.get(group.name) is override]
        reasons = [reason for group in matched if (reason := _no_kernel(group.module, "int8")) is not None]
        if override.precision == "int8" and matched and len(reasons) == len(matched):
            raise SpecInvalid(f"overrides[{index}] asks for int8, and method dynamic cannot: {reasons[0].text}.")
