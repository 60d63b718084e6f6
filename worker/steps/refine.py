"""Refine a calibrated model before it is converted: each choice by what it makes of samples that no observer saw.

    ranges   the rule for activation ranges, where the spec leaves it open
    biases   corrected where that brings the output nearer to the float model's
    layers   a few that cost the output much and do little arithmetic stay in float, where the model is far from float

All of it is simulated: nothing is converted, and the observers are run no second time.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import fx

from shared.job_report import RangeTrial, RecoveryResult
from shared.quantization_spec import ActivationObserver, StaticSpec, Toggle
from worker.closeness import Closeness
from worker.datasets import Samples, batches
from worker.inference import padded_to
from worker.numerics import sqnr_db
from worker.quantization import (
    FloatReason,
    LayerTrace,
    Plan,
    bias_corrections,
    correct_biases,
    head_of,
    layer_macs,
    settle_rule,
    simulate,
    without_islands,
)
from worker.steps.float_reference import FloatReference
from worker.steps.held_back import spread
from worker.steps.load import LoadedModel

_RULES: tuple[ActivationObserver, ...] = ("minmax", "histogram", "percentile")
#: What a rule that clips must gain over one that does not, on the samples held back and on those that set the ranges as
#: well: what is clipped is rare, and few samples are held back. Of a trained efficientnet_b0 the histogram's ranges
#: gained 2.0 dB on 32 samples, lost 0.1 dB on the others, and lost 4 dB on the 500 of the evaluation.
_MIN_RULE_GAIN_DB = 0.5
_MOST_SEEN = 256
#: Less is noise, even of many samples.
_MIN_GAIN_DB = 0.1
_CORRECTED_BATCHES = 4

#: Nothing more is left in float above the first, nor above the second where the same classes are chosen: of the samples
#: that the observers saw, for that 32 held back all agree leaves up to a tenth that does not (95 %).
_NEAR_DB, _NEAR_ENOUGH_DB, _NEAR_AGREEMENT = 30.0, 20.0, 0.99
_SPARED_MACS = 0.1  # of all multiply-accumulates, at most
_SPARED_GAIN_DB = 0.5
_HEAD_GAIN_DB = 1.0
_CANDIDATES = 6
#: What trials may compute, in multiply-accumulates: some ten seconds of one core.
_TRIED_MACS, _FEWEST_TRIES = 2e11, 4


@dataclass(frozen=True)
class Refined:
    """What was settled, and what was measured for it."""

    plan: Plan
    ranges: list[RangeTrial]
    recovery: list[RecoveryResult]


def refine(
    model: LoadedModel,
    prepared: fx.GraphModule,
    plan: Plan,
    spec: StaticSpec,
    *,
    observed: Samples,
    held_back: Samples,
) -> Refined:
    """Settle what is open. Changes the rules of the observers and the biases of `prepared`."""
    grounds = _Grounds(model, FloatReference(model, held_back), observed)
    plan, ranges = _choose_ranges(prepared, plan, grounds)
    recovery = _correct_biases(prepared, plan, grounds, toggle=spec.recovery.bias_correction)
    plan = _spare_layers(prepared, plan, grounds)
    return Refined(plan, ranges, [] if recovery is None else [recovery])


@dataclass(frozen=True)
class _Grounds:
    """What choices are measured on.

    Samples that no observer saw judge what may clip, but they are few: differences below a decibel are noise on them.
    What fits the data hardly, a bias a channel, is judged on the many that the observers saw.
    """

    model: LoadedModel
    unseen: FloatReference
    observed: Samples

    @functools.cached_property
    def seen(self) -> FloatReference:
        """Samples that the observers saw, evenly spread over them."""
        return FloatReference(self.model, spread(self.observed, _MOST_SEEN))


def asked(toggle: Toggle) -> Literal["auto", "on"]:
    """How the report says it."""
    return "auto" if toggle == "auto" else "on"


def _choose_ranges(prepared: fx.GraphModule, plan: Plan, grounds: _Grounds) -> tuple[Plan, list[RangeTrial]]:
    if plan.settings.activation.observer != "auto":
        return plan, []

    def measure(rule: ActivationObserver, on: FloatReference) -> Closeness:
        settle_rule(prepared, rule)
        return on.measure(simulate(prepared, plan).run)

    found = {rule: measure(rule, grounds.unseen) for rule in _RULES}
    best: ActivationObserver = "minmax"
    clipping = max(_RULES, key=lambda rule: found[rule].sqnr_db)
    if found[clipping].sqnr_db >= found[best].sqnr_db + _MIN_RULE_GAIN_DB:
        gain_db = measure(clipping, grounds.seen).sqnr_db - measure(best, grounds.seen).sqnr_db
        if gain_db >= _MIN_RULE_GAIN_DB:
            best = clipping
    settle_rule(prepared, best)
    trials = [RangeTrial(observer=rule, sqnr_db=each.reported_db, chosen=rule == best) for rule, each in found.items()]
    return plan.with_observer(best), trials


def _correct_biases(
    prepared: fx.GraphModule, plan: Plan, grounds: _Grounds, *, toggle: Toggle
) -> RecoveryResult | None:
    if toggle is False:
        return None
    model = grounds.model
    some = itertools.islice(batches(grounds.observed, model.batch_size), _CORRECTED_BATCHES)
    without = grounds.seen.measure(simulate(prepared, plan).run)
    corrections = bias_corrections(prepared, plan, (padded_to(batch.inputs, model.batch.low) for batch in some))
    before = correct_biases(prepared, corrections)
    corrected = grounds.seen.measure(simulate(prepared, plan).run)
    applied = toggle is True or corrected.sqnr_db >= without.sqnr_db + _MIN_GAIN_DB
    if not applied:
        before.restore()
    return RecoveryResult(
        name="bias_correction",
        asked=asked(toggle),
        applied=applied,
        without_sqnr_db=without.reported_db,
        with_sqnr_db=corrected.reported_db,
        layers=len(corrections),
    )


def _spare_layers(prepared: fx.GraphModule, plan: Plan, grounds: _Grounds) -> Plan:
    """The plan with those layers in float that cost the output most for the arithmetic they do.

    The head, where it alone costs clearly more than noise: it decides the output, and is small. Others only while the
    model is far from float, never more than a tenth of the arithmetic: the candidates are the layers that make most
    error of their own; each is tried alone, the best is taken, and so on. How many are tried follows from the model's
    size and not from a clock: the same job must choose the same layers.
    """
    model, unseen = grounds.model, grounds.unseen
    macs = layer_macs(model.raised)
    total = max(1, sum(macs.values()))
    left = _SPARED_MACS * total
    tries = max(_FEWEST_TRIES, int(_TRIED_MACS / (total * unseen.samples.count)))
    now = unseen.measure(simulate(prepared, plan).run)

    def spare(candidates: Sequence[str], least_gain_db: float) -> bool:
        nonlocal plan, now, left
        simulation = simulate(prepared, plan)
        gains: dict[str, Closeness] = {}
        for layer in [each for each in candidates if macs.get(each, 0) <= left]:
            others = without_islands(model.raised, plan.without(layer, FloatReason("spared", "tried"))).int8_layers
            gains[layer] = unseen.measure(functools.partial(simulation.run, int8=others & {*simulation.layers}))
        best = max(gains, key=lambda layer: gains[layer].sqnr_db, default=None)
        if best is None or gains[best].sqnr_db < now.sqnr_db + least_gain_db or len(plan.int8_layers) == 1:
            return False
        why = FloatReason("spared", _why(gains[best].sqnr_db - now.sqnr_db, macs.get(best, 0), macs))
        plan, now, left = without_islands(model.raised, plan.without(best, why)), gains[best], left - macs.get(best, 0)
        return True

    head = head_of(model.raised)
    if head is not None and head in plan.int8_layers - plan.asked_layers:
        spare([head], _HEAD_GAIN_DB)
    while tries > 0 and not _is_near(now, lambda: grounds.seen.measure(simulate(prepared, plan).run)):
        candidates = _most_erring(model, plan, simulate(prepared, plan).trace, unseen)[: min(_CANDIDATES, tries)]
        tries -= len(candidates)
        if not candidates or not spare(candidates, _SPARED_GAIN_DB):
            break
    return plan


def _is_near(unseen: Closeness, seen: Callable[[], Closeness]) -> bool:
    if unseen.sqnr_db >= _NEAR_DB or unseen.sqnr_db < _NEAR_ENOUGH_DB:
        return unseen.sqnr_db >= _NEAR_DB
    agreement = seen().agreement
    return agreement is not None and agreement >= _NEAR_AGREEMENT


def _most_erring(model: LoadedModel, plan: Plan, trace: Callable[..., object], unseen: FloatReference) -> list[str]:
    """int8 layers by the error that each makes of its own, the worst first; those that were asked for stay."""
    own_db: dict[str, float] = {}

    def note(layer: LayerTrace) -> None:
        if layer.layer not in plan.asked_layers:
            found = sqnr_db(layer.reference, layer.own)
            own_db[layer.layer] = math.inf if found is None else found

    some = padded_to(unseen.samples.read(0, min(model.batch_size, unseen.samples.count)).inputs, model.batch.low)
    with torch.inference_mode():
        trace(*some, visit=note)
    return sorted(own_db, key=own_db.__getitem__)


def _why(gain_db: float, own_macs: int, macs: Mapping[str, int]) -> str:
    share = 100 * own_macs / max(1, sum(macs.values()))
    return f"in int8 it cost the output {gain_db:.1f} dB, and it is {share:.1f} % of the arithmetic"
