"""Settings that cost quality: weights with one scale, symmetric ranges of one-sided values, few integers.

weights_per_tensor    from 3 dB on that a scale a channel would bring a layer's weights nearer to float
symmetric_activation  values that are never negative use half of the integers: 6 dB
few_levels            fewer than 128 integers for activations, or than 201 for weights; 6 dB for every halving
reduce_range          7 bits where the kernels hold 8: 6 dB
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from shared.job_report import ReportWarning
from shared.layer_report import Qparams
from shared.quantization_spec import DynamicSpec
from worker.findings.case import WORTH_DB, Case, Finding, has_few_levels, suggest, told_db
from worker.quantization import glob_of, where_weights_are_affine

_PER_CHANNEL_GAIN_DB = 3.0
_BIT_DB = 20 * math.log10(2)
_FULL_STEPS = 255
_LOSES_PAIRS = ("x86", "fbgemm")  # kernels that add up products in 16 bits, also on CPUs that need not
_HOLDS = "onednn"  # the kernels that do not
_EVERYWHERE = "weight.qscheme"


def weights_per_tensor(case: Case) -> Iterator[Finding]:
    """Weights with one scale, though their channels differ."""
    gains = case.analysis.per_channel_gains_db
    wide = [layer for layer, gain in gains.items() if gain >= _PER_CHANNEL_GAIN_DB and not _is_fixed(case, layer)]
    if not wide:
        return
    worst = max(wide, key=lambda layer: (case.cost_db(layer), gains[layer]))
    if case.cost_db(worst) < WORTH_DB:
        return
    everywhere = not case.spec.weight.observer.startswith(("per_channel", "moving_average_per_channel"))
    observer = "moving_average_per_channel_minmax" if case.spec.method == "qat" else "per_channel_minmax"
    yield Finding(
        ReportWarning(
            code="weights_per_tensor",
            layer=worst,
            message=f"All channels of the weight of {worst} share one scale, and small ones are left with few steps.",
            evidence=f"A scale a channel brings its weights {gains[worst]:.1f} dB nearer to float; layers of which the "
            f"same holds: {len(wide)}.",
            suggestion=suggest(
                "Give weights a scale a channel" if everywhere else f"Give {worst} a scale a channel",
                {"weight": {"observer": observer, "qscheme": None}}
                if everywhere
                else {"overrides": [{"layer": glob_of(worst), "weight": {"observer": observer}}]},
                f"up to {gains[worst]:.1f} dB, at no cost in latency",
            ),
        ),
        max(case.cost_db(layer) for layer in wide),
    )


def symmetric_activation(case: Case) -> Iterator[Finding]:
    """Symmetric ranges of values that are never negative."""
    wasteful = [
        layer
        for layer, facts in case.analysis.facts.items()
        if (qparams := case.qparams(layer, "output")) is not None
        and "symmetric" in qparams.qscheme
        and facts.output.min >= 0
        and not facts.output.is_constant
    ]
    if not wasteful or isinstance(case.spec, DynamicSpec):
        return
    worst = max(wasteful, key=case.cost_db)
    everywhere = case.spec.activation.qscheme == "per_tensor_symmetric"
    settings = {"qscheme": "per_tensor_affine"}
    yield Finding(
        ReportWarning(
            code="symmetric_activation",
            layer=worst,
            message=f"The output of {worst} is never negative, and a symmetric range spends half of the integers on "
            "negative values.",
            evidence=f"Layers of which the same holds: {len(wasteful)}.",
            suggestion=suggest(
                "Use affine activations" if everywhere else f"Use an affine range for {worst}",
                {"activation": settings}
                if everywhere
                else {"overrides": [{"layer": glob_of(worst), "activation": settings}]},
                f"up to {_BIT_DB:.0f} dB: one bit more for each of these tensors",
            ),
        ),
        _BIT_DB if everywhere else min(_BIT_DB, case.cost_db(worst)),
    )


def few_levels(case: Case) -> Iterator[Finding]:
    """Limits that leave few integers."""
    for role in ("output", "weight"):
        few = {
            layer: qparams
            for layer in case.layers
            if (qparams := case.qparams(layer, role)) is not None and has_few_levels(qparams)
        }
        if few:
            worst = max(few, key=case.cost_db)
            yield _few_levels(case, worst, few[worst], len(few))


def _few_levels(case: Case, layer: str, qparams: Qparams, layers: int) -> Finding:
    steps = qparams.quant_max - qparams.quant_min
    which = "weight" if qparams.role == "weight" else "activation"
    settings = getattr(case.spec, which, None)
    everywhere = settings is not None and (settings.quant_min is not None or settings.quant_max is not None)
    lost_db = 20 * math.log10(_FULL_STEPS / max(1, steps))
    # The last override holds alone: one that says no more leaves the layer with the spec's own settings.
    return Finding(
        ReportWarning(
            code="few_levels",
            layer=layer,
            message=f"quant_min {qparams.quant_min} and quant_max {qparams.quant_max} leave {steps + 1} integers to "
            f"the {'weight' if which == 'weight' else 'output'} of {layer}, where int8 has {_FULL_STEPS + 1}.",
            evidence=f"Each halving of the steps costs {_BIT_DB:.0f} dB; layers of which the same holds: {layers}.",
            suggestion=suggest(
                "Use all integers" if everywhere else f"Use all integers in {layer}",
                {which: {"quant_min": None, "quant_max": None}}
                if everywhere
                else {"overrides": [{"layer": glob_of(layer), "precision": "int8"}]},
                f"up to {lost_db:.0f} dB",
            ),
        ),
        lost_db if everywhere else min(lost_db, case.cost_db(layer)),
    )


def reduce_range_needless(case: Case) -> Iterator[Finding]:
    """7 bits, though the spec keeps from use what holds 8 here: the CPU, with kernels that add up in 32 bits."""
    spec = case.spec
    if isinstance(spec, DynamicSpec) or not case.resolved.get("activation", {}).get("reduce_range"):
        return
    if not case.holds_full_range or any(trial.qengine == _HOLDS and trial.saturates for trial in case.kernels):
        return
    forced: list[str] = []
    patch: dict[str, Any] = {}
    if spec.activation.reduce_range is True:
        forced.append("reduce_range is true")
        patch["activation"] = {"reduce_range": None}
    if spec.qengine in _LOSES_PAIRS:
        forced.append(f"qengine names {spec.qengine}, whose sums of 8-bit products overflow")
        patch["qengine"] = None
    affine = where_weights_are_affine(spec)
    if affine is not None:
        forced.append(f"{affine} asks for affine weights, which {_HOLDS} cannot hold")
        patch["weight"] = {"qscheme": None}
    tried = [trial.qengine for trial in case.kernels]
    if not forced or (tried and list(patch) == ["activation"] and spec.qengine == "auto" and _HOLDS not in tried):
        return  # or other kernels are needed whatever the spec says
    yield Finding(
        ReportWarning(
            code="reduce_range_needless",
            message=f"Activations have 7 of 8 bits, though this CPU holds all 8: {'; '.join(forced)}.",
            hint=None
            if affine in (None, _EVERYWHERE)
            else f"Take the qscheme out of {affine}, then all 8 bits are used.",
            evidence=f"The CPU multiplies bytes without overflow (VNNI), with the kernels of {_HOLDS}; {_tried(case)}.",
            suggestion=suggest(f"Use all 8 bits: {_told(patch)}", patch, "3 to 8 dB")
            if affine in (None, _EVERYWHERE)
            else None,
        ),
        _BIT_DB,
    )


def _tried(case: Case) -> str:
    """What was measured of kernels: none of them with more than 7 bits."""
    reached = [
        f"{trial.qengine} {told_db(trial.sqnr_db)}{' (saturates)' if trial.saturates else ''}" for trial in case.kernels
    ]
    return f"with 7 bits they were tried on calibration samples: {', '.join(reached)}" if reached else "none was tried"


def _told(patch: dict[str, Any]) -> str:
    told = {"activation": "reduce_range auto", "qengine": "qengine auto", "weight": "symmetric weights"}
    return ", ".join(told[name] for name in patch)


def _is_fixed(case: Case, layer: str) -> bool:
    """Whether FX has nothing but one scale for such a layer."""
    return "Transpose" in case.layers[layer].op or case.layers[layer].op in (
        "LSTM",
        "GRU",
        "LSTMCell",
        "GRUCell",
        "RNNCell",
    )
