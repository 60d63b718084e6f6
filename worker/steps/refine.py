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
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from shared.job_report import RangeTrial, RecoveryResult
from shared.quantization_spec import ActivationObserver, StaticSpec, Toggle, asked
from worker.closeness import FAR_DB, NEAR_AGREEMENT, NEAR_DB, Closeness
from worker.datasets import Samples, batches
from worker.inference import padded_to
from worker.numerics import sqnr_db
from worker.quantization import (
    Biases,
    FloatReason,
    LayerTrace,
    Plan,
    bias_corrections,
    correct_biases,
    depthwise_elements,
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

_SPARED_MACS = 0.1  # of all multiply-accumulates, at most
_MACS_A_MOVED_ELEMENT = 200
"""What an element is reckoned to cost that is dequantized for a layer in float, or quantized behind it: in the
nanosecond that it takes, int8 kernels multiply some 200 times. It tells of depthwise convolutions, which multiply
little and move much: a MobileNetV3 with one in float, 2 % of the arithmetic, took 7 % longer at batch 8 than one of
NNCF's with none."""
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
    toggle = spec.recovery.bias_correction
    corrected = _correct_biases(prepared, plan, grounds, toggle=toggle)
    sparing = _Sparing(prepared, plan, grounds)
    sparing.spare_head()
    if not sparing.is_near():
        # What corrects the noise of a layer does harm where that layer no longer makes any: of an MLP on raw features
        # it left 12.7 dB of 34.9.
        corrected.undo()
        sparing.spare_others()
        corrected = _correct_biases(prepared, sparing.plan, grounds, toggle=toggle)
    return Refined(sparing.plan, ranges, corrected.results)


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


@dataclass(frozen=True)
class _Corrected:
    """What came of bias correction, and the biases that the graph had before it."""

    results: list[RecoveryResult]
    before: Biases | None = None  #: of a graph that is corrected now

    def undo(self) -> None:
        """Give the graph the biases that it had."""
        if self.before is not None:
            self.before.restore()


def _correct_biases(prepared: fx.GraphModule, plan: Plan, grounds: _Grounds, *, toggle: Toggle) -> _Corrected:
    if toggle is False:
        return _Corrected([])
    model = grounds.model
    without = grounds.seen.measure(simulate(prepared, plan).run)
    corrections = bias_corrections(prepared, plan, correcting_inputs(model, grounds.observed))
    before = correct_biases(prepared, corrections)
    corrected = grounds.seen.measure(simulate(prepared, plan).run)
    applied = toggle is True or corrected.sqnr_db >= without.sqnr_db + _MIN_GAIN_DB
    if not applied:
        before.restore()
    result = RecoveryResult(
        name="bias_correction",
        asked=asked(toggle),
        applied=applied,
        without_sqnr_db=without.reported_db,
        with_sqnr_db=corrected.reported_db,
        layers=len(corrections),
    )
    return _Corrected([result], before if applied else None)


def corrections_unrounded(
    model: LoadedModel, prepared: fx.GraphModule, plan: Plan, observed: Samples, unrounded: Collection[str]
) -> dict[str, Tensor]:
    """What to add to biases that were corrected, by module, for a runtime that does not round what these layers give.

    Empty where it is worth nothing: an EfficientNet gained 9 dB by it, and a MobileNetV3 lost two.
    """
    found = bias_corrections(prepared, plan, correcting_inputs(model, observed), unrounded=unrounded)
    seen = FloatReference(model, spread(observed, _MOST_SEEN))
    without = seen.measure(simulate(prepared, plan, unrounded).run)
    before = correct_biases(prepared, found)
    corrected = seen.measure(simulate(prepared, plan, unrounded).run)
    before.restore()
    return found if corrected.sqnr_db >= without.sqnr_db + _MIN_GAIN_DB else {}


def correcting_inputs(model: LoadedModel, observed: Samples) -> Iterator[tuple[Tensor, ...]]:
    """What biases are corrected on."""
    for batch in itertools.islice(batches(observed, model.batch_size), _CORRECTED_BATCHES):
        yield padded_to(batch.inputs, model.batch.low)


class _Sparing:
    """Which layers cost the output most for the arithmetic they do: `plan` has those in float.

    The head, where it alone costs clearly more than noise: it decides the output, and is small. Others only while the
    model is far from float, never more than a tenth of the arithmetic: the candidates are the layers that make most
    error of their own; each is tried alone, the best is taken, and so on. How many are tried follows from the model's
    size and not from a clock: the same job must choose the same layers.
    """

    def __init__(self, prepared: fx.GraphModule, plan: Plan, grounds: _Grounds) -> None:
        self.plan = plan
        self._prepared = prepared
        self._grounds = grounds
        self._model = grounds.model
        self._macs = layer_macs(self._model.raised)
        self._moved = depthwise_elements(self._model.raised)
        self._total = max(1, sum(self._macs.values()))
        self._left = _SPARED_MACS * self._total
        self._now = self._measured()

    def spare_head(self) -> None:
        """Leave the head in float, where that gains enough."""
        head = head_of(self._model.raised)
        if head is not None and head in self.plan.int8_layers - self.plan.asked_layers:
            self._spare([head], _HEAD_GAIN_DB)

    def spare_others(self) -> None:
        """Leave layers in float, one after the other, until the model is near to float or none gains enough."""
        self._now = self._measured()  # biases may have changed
        tries = max(_FEWEST_TRIES, int(_TRIED_MACS / (self._total * self._grounds.unseen.samples.count)))
        while tries > 0 and not self.is_near():
            trace = simulate(self._prepared, self.plan).trace
            erring = _most_erring(self._model, self.plan, trace, self._grounds.unseen)
            candidates = erring[: min(_CANDIDATES, tries)]
            tries -= len(candidates)
            if not candidates or not self._spare(candidates, _SPARED_GAIN_DB):
                break

    def is_near(self) -> bool:
        """Whether the model is so near to float that no layer needs to be left there."""
        return _is_near(self._now, lambda: self._grounds.seen.measure(simulate(self._prepared, self.plan).run))

    def _spare(self, candidates: Sequence[str], least_gain_db: float) -> bool:
        raised, plan = self._model.raised, self.plan
        simulation = simulate(self._prepared, plan)
        gains: dict[str, Closeness] = {}
        for layer in [each for each in candidates if self._cost(each) <= self._left]:
            int8 = without_islands(raised, plan.without(layer, FloatReason("spared", "tried"))).int8_layers & {
                *simulation.layers
            }
            gains[layer] = self._grounds.unseen.measure(functools.partial(simulation.run, int8=int8))
        best = max(gains, key=lambda layer: gains[layer].sqnr_db, default=None)
        if best is None or gains[best].sqnr_db < self._now.sqnr_db + least_gain_db or len(plan.int8_layers) == 1:
            return False
        why = FloatReason("spared", _why(gains[best].sqnr_db - self._now.sqnr_db, self._macs.get(best, 0), self._macs))
        self.plan, self._now = without_islands(raised, plan.without(best, why)), gains[best]
        self._left -= self._cost(best)
        return True

    def _cost(self, layer: str) -> int:
        """In multiply-accumulates."""
        return self._macs.get(layer, 0) + _MACS_A_MOVED_ELEMENT * self._moved.get(layer, 0)

    def _measured(self) -> Closeness:
        return self._grounds.unseen.measure(simulate(self._prepared, self.plan).run)


def _is_near(unseen: Closeness, seen: Callable[[], Closeness]) -> bool:
    """Whether nothing more is left in float: near to float, or not far from it where the same classes are chosen.

    Those of the samples that the observers saw: that 32 held back all agree leaves up to a tenth that does not (95 %).
    """
    if unseen.sqnr_db >= NEAR_DB or unseen.sqnr_db < FAR_DB:
        return unseen.sqnr_db >= NEAR_DB
    agreement = seen().agreement
    return agreement is not None and agreement >= NEAR_AGREEMENT


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
