"""Ranges that do not fit the values: nothing seen, too narrow, stretched by a channel or by a few values, cut off.

Thresholds, and why:

    outside calibration   1 % of the values: even a hundred samples leave less than 0.1 % unseen
    outlier channel       8 times the median channel's greatest value: 3 of the 8 bits are the others' loss
    stretch               4 (describing_qparams.py): 2 of the 8 bits go to one value in a thousand
    clipping              half of the error made in the layer, and 1 % of the values that calibration saw
    head                  likewise, and 0.1 %: arg max and users read the greatest values of the output
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

from shared.job_report import ReportWarning, Suggestion
from shared.layer_report import Qparams
from shared.quantization_spec import StaticSpec
from worker.closeness import ALIKE_DB
from worker.findings.case import WORTH_DB, Case, Finding, has_few_levels, keep_in_float, suggest, told_db
from worker.layer_facts import LayerFacts, Seen
from worker.quantization import OUTLIER_STRETCH, glob_of

_OUTSIDE = 0.01
_CHANNEL_RATIO = 8.0
_CLIPPED = 0.01
_HEAD_CLIPPED = 0.001
_DOMINANT = 0.5  # of the error: what is less is not the cause
_ANOTHERS_DB = 10.0  # a tenth of the noise
_PERCENTILE = 99.9
_MOST_LAYERS = 50


def fault_of_the_data(case: Case) -> Iterator[Finding]:
    """What calibration did not see, told once: the first rule that finds any, for the later ones may follow from it."""
    found = (list(rule(case)) for rule in (unseen, calibration_too_narrow, saturating_head))
    yield from next((findings for findings in found if findings), [])


def unseen(case: Case) -> Iterator[Finding]:
    """Tensors whose scale means nothing: calibration saw one value only, or values that int8 cannot tell apart."""
    for layer, facts in case.analysis.facts.items():
        for qparams, seen in _tensors(case, layer, facts):
            blind = not {"nothing_seen", "scale_zero", "scale_not_finite"}.isdisjoint(qparams.flags)
            if not blind or seen.is_constant:
                continue
            never = qparams.min is None or qparams.min == qparams.max
            yield Finding(
                _unseen_branch(case, layer, qparams, seen) if never else _zero_scale(case, layer, qparams, seen),
                # All that comes after it was calibrated without it as well.
                max(case.cost_db(layer), WORTH_DB) + _gap_db(case),
            )
            return


def calibration_too_narrow(case: Case) -> Iterator[Finding]:
    """The first tensor of which calibration saw too little; what comes after it follows from it."""
    for layer, facts in case.analysis.facts.items():
        if case.gives_output(layer):
            continue  # saturating_head's
        for qparams, seen in _tensors(case, layer, facts):
            outside = seen.outside_calibration
            if outside is None or outside < _OUTSIDE or qparams.min is None or qparams.max is None:
                continue
            what = _where(layer, qparams)
            yield Finding(
                ReportWarning(
                    code="calibration_too_narrow",
                    layer=layer,
                    message=f"The calibration data is narrower than what comes: {100 * outside:.1f} % of the values at "
                    f"{what} lie outside of all that calibration saw, and saturate.",
                    hint="Calibrate with 100 to 300 samples of what the model will meet.",
                    evidence=f"Calibration saw {_span(qparams.min, qparams.max)}, evaluation reaches "
                    f"{_span(seen.min, seen.max)}.",
                    suggestion=_see_more(case, layer),
                ),
                max(case.cost_db(layer), WORTH_DB) + _gap_db(case),
            )
            return


def saturating_head(case: Case) -> Iterator[Finding]:
    """The model's output clips."""
    for layer, facts in case.analysis.facts.items():
        clipping = facts.output.clipping
        if not case.gives_output(layer) or clipping is None or clipping.rate < _HEAD_CLIPPED:
            continue
        if case.cost_db(layer) < WORTH_DB or facts.cut_off_share < _DOMINANT:
            continue
        own_db = facts.error.own_sqnr_db  # of the output itself: what arrives at the head is not its doing
        if own_db is None or own_db > case.base_db + _ANOTHERS_DB:
            continue
        qparams = case.qparams(layer, "output")
        seen = "" if qparams is None or qparams.min is None else f", calibration saw {_span(qparams.min, qparams.max)}"
        yield Finding(
            ReportWarning(
                code="saturating_head",
                layer=layer,
                message=f"{layer} gives the model's output, and {100 * clipping.rate:.2g} % of it saturates: its "
                "greatest values, on which decisions rest, are cut off.",
                evidence=f"{100 * clipping.above:.2g} % above and {100 * clipping.below:.2g} % below the range; "
                f"the output reaches {_span(facts.output.min, facts.output.max)}{seen}; clipping makes up "
                f"{100 * facts.cut_off_share:.0f} % of the error made in it ({told_db(facts.error.own_sqnr_db)}).",
                suggestion=_in_float(case, layer, "its output then has no range") or _dynamic_instead(case, layer),
            ),
            case.cost_db(layer) + WORTH_DB,
        )


def outlier_channels(case: Case) -> Iterator[Finding]:
    """A channel for which all others have too few steps."""
    for layer, facts in case.analysis.facts.items():
        for qparams, seen in _tensors(case, layer, facts):
            cost_db = max((case.cost_db(name) for name in case.reached(layer)), default=0.0)
            own_db = facts.error.own_sqnr_db
            if seen.channel_ratio < _CHANNEL_RATIO or cost_db < WORTH_DB or own_db is None:
                continue
            yield Finding(_outlier_channel(case, layer, qparams, seen, facts), cost_db)


def stretched(case: Case) -> Iterator[Finding]:
    """A few values for which all others have too few steps: told once, of the first tensor that has them."""
    found = [
        (layer, facts, qparams)
        for layer, facts in case.analysis.facts.items()
        for qparams, seen in _tensors(case, layer, facts)
        if _stretch(qparams, facts) >= OUTLIER_STRETCH
        and qparams.observer != "percentile"
        and seen.channel_ratio < _CHANNEL_RATIO
    ]
    costs_db = [case.cost_db(name) for layer, _, _ in found for name in case.reached(layer)]
    if found and max(costs_db, default=0.0) >= WORTH_DB:
        _, facts, qparams = found[0]
        layers = list(dict.fromkeys(layer for layer, _, _ in found))
        yield Finding(_outliers(layers, qparams, facts), max(costs_db))


def cut_off(case: Case) -> Iterator[Finding]:
    """Values that calibration saw and the rule left out, and those who read them miss.

    A rule chosen by measurement was held against minmax already; one that must do with few integers clips to save the
    others, and minmax would make it worse.
    """
    for layer, facts in case.analysis.facts.items():
        clipping, outside = facts.output.clipping, facts.output.outside_calibration
        qparams = case.qparams(layer, "output")
        if clipping is None or qparams is None or clipping.rate < _CLIPPED or (outside or 0.0) >= _OUTSIDE:
            continue
        if case.cost_db(layer) < WORTH_DB or qparams.observer in (None, "minmax", _measured_rule(case)):
            continue
        if has_few_levels(qparams):
            continue
        if facts.cut_off_share < _DOMINANT or case.gives_output(layer):
            continue
        yield Finding(
            ReportWarning(
                code="range_clips",
                layer=layer,
                message=f"The {qparams.observer} rule cut off values that calibration saw at the output of {layer}: "
                f"{100 * clipping.rate:.1f} % saturate.",
                evidence=f"{100 * clipping.above:.2g} % above and {100 * clipping.below:.2g} % below the range; "
                f"error made in the layer: {told_db(facts.error.own_sqnr_db)}.",
                suggestion=suggest(
                    f"Use minmax for {layer}",
                    {"overrides": [{"layer": glob_of(layer), "activation": {"observer": "minmax"}}]},
                    f"up to {case.cost_db(layer):.1f} dB, if what is cut off matters more than finer steps",
                ),
            ),
            case.cost_db(layer),
        )


def _measured_rule(case: Case) -> str | None:
    """The rule that was measured to bring the model nearer to float than minmax does; None where none was."""
    tried = {trial.observer: math.inf if trial.sqnr_db is None else trial.sqnr_db for trial in case.ranges}
    chosen = next((trial.observer for trial in case.ranges if trial.chosen), None)
    return None if chosen is None or tried.get("minmax", -math.inf) > tried[chosen] else chosen


# --- one finding -----------------------------------------------------------------------------------------------------


def _unseen_branch(case: Case, layer: str, qparams: Qparams, seen: Seen) -> ReportWarning:
    saw = "nothing" if qparams.min is None else f"nothing but {qparams.min:.3g}"
    return ReportWarning(
        code="unseen_branch",
        layer=layer,
        message=f"Calibration saw {saw} at {_where(layer, qparams)}: its scale means nothing, and its values are lost.",
        hint="Add samples to the calibration data that make use of it.",
        evidence=f"On evaluation data it reaches {_span(seen.min, seen.max)}, at a scale of {qparams.scale or 0:.3g}.",
        suggestion=_see_more(case, layer)
        if _outside_later(case, layer)
        else _in_float(case, layer, "it needs no range"),
    )


def _zero_scale(case: Case, layer: str, qparams: Qparams, seen: Seen) -> ReportWarning:
    return ReportWarning(
        code="zero_scale",
        layer=layer,
        message=f"The values at {_where(layer, qparams)} are smaller than the least scale of int8, and become zero.",
        hint="Let the model compute with greater numbers there.",
        evidence=f"They reach {_span(seen.min, seen.max)}, at a scale of {qparams.scale or 0:.3g}.",
        suggestion=_in_float(case, layer, "float32 holds values of any size"),
    )


def _outlier_channel(case: Case, layer: str, qparams: Qparams, seen: Seen, facts: LayerFacts) -> ReportWarning:
    return ReportWarning(
        code="outlier_channel",
        layer=layer,
        message=f"Channel {seen.widest_channel} of {_where(layer, qparams)} is {seen.channel_ratio:.0f} times as large "
        "as the median channel; all share one scale, and the others are left with few steps.",
        evidence=f"It reaches {_span(seen.min, seen.max)} at a step of {qparams.scale or 0:.3g}; error made in the "
        f"layer: {told_db(facts.error.own_sqnr_db)}.",
        suggestion=_even_out(case, layer, qparams),
    )


def _even_out(case: Case, layer: str, qparams: Qparams) -> Suggestion | None:
    """Move the channel's size into the next weights where that was ruled out; else use float."""
    before = case.producers(layer) if qparams.role == "input" else [layer]
    after_norm = any(case.layers[name].op == "LayerNorm" for name in before)
    means: Literal["smooth_quant", "cross_layer_equalization"] = (
        "smooth_quant" if after_norm else "cross_layer_equalization"
    )
    if isinstance(case.spec, StaticSpec) and getattr(case.spec.recovery, means) is False:
        return suggest(
            f"Turn on {means}",
            {"recovery": {means: True}},
            "the channel's size moves into weights, which have a scale a channel",
        )
    return _in_float(case, layer, "the tensor is then not quantized")


def _outliers(layers: list[str], qparams: Qparams, facts: LayerFacts) -> ReportWarning:
    stretch = _stretch(qparams, facts)
    others = f", and {len(layers) - 1} more" if len(layers) > 1 else ""
    return ReportWarning(
        code="outliers_stretch",
        layer=layers[0],
        message=f"A few values stretch the range of {_where(layers[0], qparams)} to {stretch:.1f} times what holds "
        "99.9 % of them, and leave the others few steps.",
        evidence=f"Calibration saw {_span(qparams.min, qparams.max)}; error made in the layer: "
        f"{told_db(facts.error.own_sqnr_db)}; layers with such a range: {layers[0]}{others}.",
        suggestion=suggest(
            f"Leave out the rarest values in {layers[0]}{others}",
            {
                "overrides": [
                    {"layer": glob_of(layer), "activation": {"observer": "percentile", "percentile": _PERCENTILE}}
                    for layer in layers[:_MOST_LAYERS]
                ]
            },
            f"finer steps for all but {100 - _PERCENTILE:.2g} % of the values, which saturate",
        ),
    )


def _dynamic_instead(case: Case, layer: str) -> Suggestion | None:
    """Of a head that is all there is in int8: ranges that are found at run time, where its kernels have such."""
    if case.layers[layer].op != "Linear":
        return None
    return suggest("Use method dynamic", {"method": "dynamic"}, "its output then has no range, and stays in float")


def _in_float(case: Case, layer: str, why: str) -> Suggestion | None:
    """A layer and what reads its tensor: a float layer next to an int8 one still has its output quantized."""
    return keep_in_float(case, case.reached(layer), why)


def _see_more(case: Case, layer: str) -> Suggestion | None:
    """Calibrate on what the values are held against: it says whether the data is the cause."""
    evaluation = case.spec.evaluation
    if evaluation is None or getattr(case.spec, "calibration", None) in (None, evaluation):
        return _in_float(case, layer, "no range is needed there")
    return suggest(
        "Calibrate on the evaluation data",
        {"calibration": evaluation},
        "the quality that calibration with such samples gives; the evaluation is then no longer held out",
    )


def _outside_later(case: Case, layer: str) -> bool:
    """Whether what comes after a layer was calibrated too narrow as well."""
    later = [facts for name in case.reached(layer) if name != layer and (facts := case.facts(name)) is not None]
    return any((facts.output.outside_calibration or 0.0) >= _OUTSIDE for facts in later)


# --- the tensors of a layer ------------------------------------------------------------------------------------------


def _tensors(case: Case, layer: str, facts: LayerFacts) -> Iterator[tuple[Qparams, Seen]]:
    """The quantized tensors of a layer with what was seen of them: inputs first, for they come first."""
    qparams = case.layers[layer].qparams
    inputs = [found for found in qparams if found.role == "input"]
    if len(inputs) == len(facts.inputs):
        yield from zip(inputs, facts.inputs, strict=True)
    output = next((found for found in qparams if found.role == "output"), None)
    if output is not None:
        yield output, facts.output


def _stretch(qparams: Qparams, facts: LayerFacts) -> float:
    stretch = facts.stretch if qparams.role == "output" and qparams.stretch is None else qparams.stretch
    return stretch or 1.0


def _where(layer: str, qparams: Qparams) -> str:
    return f"the output of {layer}" if qparams.role == "output" else f"the input {qparams.tensor} of {layer}"


def _span(low: float | None, high: float | None) -> str:
    return f"from {low or 0:.3g} to {high or 0:.3g}"


def _gap_db(case: Case) -> float:
    """How far the model is from a good one: faults of the data are not shown by one layer's sensitivity."""
    return max(0.0, ALIKE_DB - case.base_db) if case.is_poor else 0.0
