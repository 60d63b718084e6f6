"""Layers that cost quality for what they are, and not for their settings: a mean error, or sheer sensitivity."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from shared.job_report import ReportWarning, Suggestion
from shared.layer_report import LayerSensitivity
from shared.quantization_spec import DynamicSpec, QatSpec, StaticSpec, WeightSettings
from worker.closeness import ALIKE_DB
from worker.findings.case import WORTH_DB, Case, Finding, keep_in_float, suggest, told_db

_SHIFTED = 0.5  # of the energy of the error made in the layer: bias correction takes at least 3 dB of it away
_MOST_SENSITIVE = 3
_MEANS = ("cross_layer_equalization", "bias_correction", "smooth_quant")
_IN_FLOAT = (
    "keep whole blocks in float, by `overrides` with a pattern such as `encoder.layers.0.*` and precision float32."
)
_SPREAD_HINTS = {
    "dynamic": f"Use float16 weights, or {_IN_FLOAT}",
    "static": f"Quantize by the defaults, then train with quantization; or {_IN_FLOAT}",
    "qat": f"Train longer (`qat.epochs`) or with more data, or {_IN_FLOAT}",
}


def bias_shift(case: Case) -> Iterator[Finding]:
    """Errors that are the same for every sample, which a bias can take back."""
    if not isinstance(case.spec, StaticSpec) or case.spec.recovery.bias_correction is not False:
        return  # elsewhere it was tried, or cannot be
    shifted = [
        (layer, facts.mean_error_share, case.cost_db(layer))
        for layer, facts in case.analysis.facts.items()
        if facts.mean_error_share >= _SHIFTED and any(found.role == "weight" for found in case.layers[layer].qparams)
    ]
    if not shifted or max(cost for _, _, cost in shifted) < WORTH_DB:
        return
    layer, share, cost_db = max(shifted, key=lambda found: found[2])
    yield Finding(
        ReportWarning(
            code="bias_shift",
            layer=layer,
            message=f"Quantization shifts the outputs of {layer} by a constant a channel, which a bias can take back.",
            evidence=f"The mean makes up {100 * share:.0f} % of the energy of the error made in it; layers like it: "
            f"{len(shifted)}.",
            suggestion=suggest(
                "Turn on bias_correction",
                {"recovery": {"bias_correction": True}},
                f"up to {min(cost_db, -10 * math.log10(max(0.01, 1 - share))):.1f} dB, at no cost in latency",
            ),
        ),
        cost_db,
    )


def sensitive_layers(case: Case) -> Iterator[Finding]:
    """What costs the output most, whatever the cause."""
    sensitivity = case.analysis.sensitivity
    if sensitivity is None or case.is_near or case.base_db >= ALIKE_DB:
        return
    first = case.first_wrong
    for entry in [found for found in sensitivity.layers if found.gain_db >= WORTH_DB][:_MOST_SENSITIVE]:
        facts = case.facts(entry.layer)
        error = None if facts is None else facts.error
        made = (
            ""
            if error is None
            else f" Error made in it: {told_db(error.own_sqnr_db)}, arriving at it: {told_db(error.arriving_sqnr_db)}."
        )
        yield Finding(
            ReportWarning(
                code="sensitive_layer",
                layer=entry.layer,
                message=_told_cost(entry, is_first=first is not None and entry.layer == first.layer),
                evidence=f"The output has {told_db(sensitivity.base_sqnr_db)}, with only this layer in int8 "
                f"{told_db(entry.alone_int8_sqnr_db)}, with all but this layer {told_db(entry.alone_float_sqnr_db)}."
                f"{made}",
                suggestion=keep_in_float(
                    case,
                    [entry.layer],
                    f"{_told_gain(entry)}, measured on {sensitivity.samples} samples"
                    + _metric_gain(entry.alone_float_metric, sensitivity.base_metric),
                ),
            ),
            entry.gain_db,
        )


def _told_cost(entry: LayerSensitivity, *, is_first: bool) -> str:
    """What a layer costs; without it there may be no error at all, and then there are no decibels to tell."""
    if entry.alone_float_sqnr_db is None:
        return f"{entry.layer} makes all of the error: with it in float the output is the float model's."
    why = "here the int8 model first goes wrong." if is_first else "more than other layers do."
    return f"{entry.layer} costs the output {entry.gain_db:.1f} dB: {why}"


def _told_gain(entry: LayerSensitivity) -> str:
    return "the float model's output" if entry.alone_float_sqnr_db is None else f"{entry.gain_db:.1f} dB"


def spread_error(case: Case) -> Iterator[Finding]:
    """A poor model of which no single layer is to blame."""
    sensitivity = case.analysis.sensitivity
    if sensitivity is None or not sensitivity.layers or not case.is_poor:
        return
    best = sensitivity.layers[0]
    if max(case.cost_db(entry.layer) for entry in sensitivity.layers) >= WORTH_DB:
        return
    missing = f", and {len(sensitivity.not_reached)} were not reached" if sensitivity.not_reached else ""
    yield Finding(
        ReportWarning(
            code="spread_error",
            message="The error is spread over the layers: no single one, kept in float, would help.",
            hint=_SPREAD_HINTS[case.spec.method],
            evidence=f"The most that one layer gains is {best.gain_db:.1f} dB ({best.layer}), of "
            f"{len(sensitivity.layers)} tried{missing}.",
            suggestion=_for_all_layers(case.spec),
        ),
        best.gain_db,
    )


def _for_all_layers(spec: DynamicSpec | StaticSpec | QatSpec) -> Suggestion | None:
    """The cheapest means that the spec leaves unused; None for QAT, of which longer training may help or not."""
    if isinstance(spec, DynamicSpec):
        if spec.precision == "float16":
            return None
        patch: dict[str, Any] = {"precision": "float16"} | ({} if spec.weight == WeightSettings() else {"weight": None})
        return suggest("Use float16 weights", patch, "next to no error, at half of the float size")
    if isinstance(spec, QatSpec):
        return None
    ruled_out = {name: None for name in _MEANS if getattr(spec.recovery, name) is False}
    rule = {} if spec.activation.observer == "auto" else {"activation": {"observer": "auto"}}
    if ruled_out or rule:
        patch = rule | ({"recovery": ruled_out} if ruled_out else {})
        return suggest(
            "Let ranges and recovery be chosen by measurement", patch, "whatever of them is measured to help"
        )
    return suggest(
        "Train with quantization", {"method": "qat"}, "weights that make up for the rounding; it needs training data"
    )


def _metric_gain(alone: float | None, base: float | None) -> str:
    return "" if alone is None or base is None else f"; the metric goes from {base:.4g} to {alone:.4g}"
