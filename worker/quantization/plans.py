"""The plan: how a model is quantized, with every `auto` settled; planning.py and dynamic_planning.py make it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from shared.errors import NothingToQuantize
from shared.layer_report import LayerPrecision
from shared.quantization_spec import ActivationObserver, DynamicSpec, QatSpec, StaticSpec
from worker.quantization.float_reasons import FloatReason
from worker.quantization.grouping import RECURRENT, TABLES, Group
from worker.quantization.overriding import first_few
from worker.quantization.qconfigs import LayerSettings

Spec = DynamicSpec | StaticSpec | QatSpec
Operators = Literal["all", "weighted"]


@dataclass(frozen=True)
class Plan:
    """How a model is quantized, with every `auto` settled."""

    spec: Spec
    qengine: str
    operators: Operators
    int8_layers: frozenset[str]  #: names of the groups of grouping.py that are quantized
    float_reasons: dict[str, FloatReason]  #: the others, and why
    settings: LayerSettings  #: of every layer that has none of its own
    layer_settings: dict[str, LayerSettings] = field(default_factory=dict)
    asked_layers: frozenset[str] = frozenset()  #: that an override wants in int8
    notes: tuple[str, ...] = field(default=())
    barred: frozenset[str] = frozenset()  #: qengines that cannot hold these layers, and are not to be tried

    @property
    def float_layers(self) -> dict[str, str]:
        """The layers that stay in float, each with the words for why."""
        return {layer: reason.text for layer, reason in self.float_reasons.items()}

    def precision_of(self, layer: str) -> LayerPrecision:
        """What this layer computes in."""
        return "int8" if layer in self.int8_layers else "float32"

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
                "float_layers": self.float_layers,
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

    def without(self, layer: str, reason: FloatReason) -> Plan:
        """The same plan with one layer more in float."""
        return replace(self, int8_layers=self.int8_layers - {layer}, float_reasons=self.float_reasons | {layer: reason})

    def noting(self, note: str) -> Plan:
        """The same plan with one note more."""
        return replace(self, notes=(*self.notes, note))

    def with_int8(self, layer: str) -> Plan:
        """The same plan with one layer more in int8."""
        reasons = {name: reason for name, reason in self.float_reasons.items() if name != layer}
        return replace(self, int8_layers=self.int8_layers | {layer}, float_reasons=reasons)


def told_in_float(layers: Mapping[str, FloatReason]) -> str:
    """That an override wanted these in int8; each with what keeps it in float."""
    by_reason: dict[str, list[str]] = {}
    for layer, reason in layers.items():
        by_reason.setdefault(reason.text, []).append(layer)
    told = "; ".join(f"{first_few(names)} ({reason})" for reason, names in by_reason.items())
    return f"in float although an override asks for int8: {told}"


def require_something(plan: Plan, all_groups: list[Group]) -> None:
    """Raise NothingToQuantize unless an operator with weights is left to quantize, with what keeps each in float.

    Tables alone are worth method dynamic, and no calibration.
    """
    is_dynamic = isinstance(plan.spec, DynamicSpec)
    kinds = RECURRENT + TABLES if is_dynamic else RECURRENT
    worthwhile = [group for group in all_groups if group.is_weighted or isinstance(group.module, kinds)]
    if any(group.name in plan.int8_layers for group in worthwhile):
        return
    if not worthwhile:
        raise NothingToQuantize(
            "The model has no convolution, Linear or recurrent layer.",
            hint="int8 pays where a layer multiplies by a weight matrix; this model has none that Octavo recognises.",
        )
    why = "; ".join(sorted({plan.float_layers.get(group.name, "not known to this method") for group in worthwhile}))
    other = "static or qat" if is_dynamic else "dynamic"
    raise NothingToQuantize(
        f"Method {plan.spec.method} would leave every layer in float: {why}.", hint=f"Try {other}, or fewer overrides."
    )


def _observing(settings: LayerSettings, observer: ActivationObserver) -> LayerSettings:
    if settings.activation.observer != "auto":
        return settings
    return replace(settings, activation=settings.activation.model_copy(update={"observer": observer}))
