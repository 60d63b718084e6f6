"""Check calibration: does the data suffice, and is it like the evaluation data? Each warning says what to do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, fx

from shared.job_report import CalibrationResult
from worker.calibration_check import Comparison, DataCheck, InputTally, compare_with, input_checks
from worker.calibration_ranges import LEAST_SAMPLES, coverage, enough_samples, growth_curve, scale_spread
from worker.closeness import NEAR_DB
from worker.datasets import Samples, Subset
from worker.progress import ProgressTracker
from worker.quantization import Plan, simulate
from worker.steps.calibrate import Calibration
from worker.steps.float_reference import FloatReference
from worker.steps.load import LoadedModel

_MANY_DUPLICATES = 0.1
_TRIED_BATCHES = 2
_MUCH_OUTSIDE = 0.01
#: Quarters that differ by more are not alike: see `_wanted`.
_QUALITY_DIFFERS_DB, _SCALES_DIFFER = 10.0, 0.5
_MOST_TIMES = 64  # the samples seen: nothing is told beyond
_FAR_TOO_WIDE = 8.0
"""How many times the evaluation data's range: 3 of the 8 bits are lost. Forgotten normalisation makes it 50 or more."""


@dataclass(frozen=True)
class QualitySpread:
    """SQNR of the worst output, with the ranges of each disjoint subset of the calibration data: least and greatest."""

    least_db: float
    greatest_db: float

    @property
    def spread_db(self) -> float:
        """How far the subsets are apart."""
        return self.greatest_db - self.least_db


def check_calibration(
    model: LoadedModel,
    found: Calibration,
    evaluation: Samples | None,
    tracker: ProgressTracker,
    *,
    quality: QualitySpread | None = None,
) -> CalibrationResult:
    """What calibration found, for the report, with a warning for each thing that is wrong.

    `evaluation` is the held-out data, read once without the model; None when there is none. `quality` is what
    `measure_quality_spread` found.
    """
    check, ranges = found.data, found.ranges.ranges
    comparisons = None if evaluation is None else compare_with(check, evaluation, model.batch_size)
    distinct = check.samples - check.duplicates
    wanted = _wanted(ranges, distinct, quality, held_out=evaluation is not None)
    result = CalibrationResult(
        samples=check.samples,
        duplicates=check.duplicates,
        inputs=input_checks(check, comparisons),
        subsets=found.ranges.reported_subsets,
        scale_spread=scale_spread(ranges),
        quality_spread_db=None if quality is None else quality.spread_db,
        coverage=coverage(ranges),
        sufficient=not (wanted.too_few or wanted.parts_differ),
        enough_samples=wanted.samples,
    )
    _warn_of_constants(check, comparisons, tracker)
    _warn_of_differences(check, comparisons, tracker)
    _warn_of_duplicates(check, tracker)
    if wanted.too_few:
        _warn_of_too_few(result, distinct, growth_curve(ranges), quality, tracker)
    elif wanted.parts_differ:
        _warn_of_parts(result, quality, tracker)
    return result


def measure_quality_spread(
    model: LoadedModel, prepared: fx.GraphModule, plan: Plan, found: Calibration, samples: Samples
) -> QualitySpread | None:
    """How near to float the ranges of each disjoint subset leave the model; None from fewer than two.

    By min-max ranges, simulated on at most two batches; what the observers saw is as before afterwards.
    """
    reference = FloatReference(model, Subset(samples, range(min(samples.count, _TRIED_BATCHES * model.batch_size))))
    reached = []
    for subset in range(found.ranges.reported_subsets):
        with found.ranges.seeing_only(subset):
            simulation = simulate(prepared, plan)
        reached.append(reference.measure(simulation.run).sqnr_db)
    return QualitySpread(min(reached), max(reached)) if len(reached) > 1 else None


@dataclass(frozen=True)
class _Wanted:
    """Whether the samples do, and how many would."""

    too_few: bool
    parts_differ: bool
    samples: int | None
    """None where that is unknown."""


def _wanted(ranges: Tensor, distinct: int, quality: QualitySpread | None, *, held_out: bool) -> _Wanted:
    """By ranges that still grow, scales that differ between quarters of the data, and what each quarter is worth.

    Where the ranges of any quarter leave the model within 30 dB of float, on data held out, the rest matters to nobody.

    Measured on the 23 families of the zoo, of nine with two draws of the samples, on the recipe's own drafts. With 192
    samples ranges of seven still grew by 5 %: of five every quarter left the model 33 dB or nearer to float; the other
    two gained 1.2 to 2.5 dB by four times the samples. Quarters differed by 8.3 dB and scales by 0.28 at most; with 16
    samples by 2 to 11 dB, and by 0.03 to 0.40. A planted mixture of two kinds was over 15 dB and 0.5 apart.
    """
    enough, spread = enough_samples(ranges, distinct), scale_spread(ranges)
    if distinct < LEAST_SAMPLES:
        return _Wanted(too_few=True, parts_differ=False, samples=enough)
    if held_out and quality is not None and quality.least_db >= NEAR_DB:
        return _Wanted(too_few=False, parts_differ=False, samples=min(distinct, enough or distinct))
    apart = max(
        0.0 if quality is None else (quality.spread_db / _QUALITY_DIFFERS_DB) ** 2,
        0.0 if spread is None else (spread / _SCALES_DIFFER) ** 4,
    )
    if apart <= 1:
        return _Wanted(too_few=enough is not None and distinct < enough, parts_differ=False, samples=enough)
    # In the zoo four times the samples halved the spread of quality, and narrowed that of scales by a quarter.
    alike = math.ceil(apart * distinct) if apart <= _MOST_TIMES else None
    samples = None if alike is None or enough is None else max(alike, enough)
    return _Wanted(too_few=enough is not None and distinct < enough, parts_differ=True, samples=samples)


def _warn_of_constants(check: DataCheck, comparisons: Sequence[Comparison] | None, tracker: ProgressTracker) -> None:
    if check.samples < 2:
        return
    for index, tally in enumerate(check.inputs):
        varies_later = comparisons is not None and not comparisons[index].constant
        # A mask or a position that is always the same is usual; a signal is not.
        if tally.constant and (tally.is_float or varies_later):
            tracker.warn(
                "calibration_constant",
                f"Calibration input {tally.name!r} is the same in all {check.samples} samples: ranges behind it stand "
                "for one case.",
                "Give samples as the model will meet them.",
                evidence=f"{tally.name}: values {_span(tally)}"
                + ("; the evaluation data varies." if varies_later else "."),
            )


def _warn_of_differences(check: DataCheck, comparisons: Sequence[Comparison] | None, tracker: ProgressTracker) -> None:
    for tally, other in zip(check.inputs, comparisons or (), strict=False):
        if not tally.is_float or other.outside is None:
            continue
        evidence = f"{tally.name}: calibration {_span(tally)}, evaluation {other.min:.4g} to {other.max:.4g}."
        if other.outside > _MUCH_OUTSIDE:
            tracker.warn(
                "calibration_unlike_evaluation",
                f"{100 * other.outside:.0f} % of the evaluation values of input {tally.name!r} lie outside of its "
                "calibration range: they clip.",
                "Preprocess both alike (scaling, normalisation), and calibrate on what the model will meet.",
                evidence=evidence,
            )
        elif other.width > 0 and tally.max - tally.min > _FAR_TOO_WIDE * other.width:
            tracker.warn(
                "calibration_unlike_evaluation",
                f"The calibration range of input {tally.name!r} is {(tally.max - tally.min) / other.width:.0f} times "
                "as wide as the evaluation data's: int8 steps are too coarse for it.",
                "Preprocess both alike (scaling, normalisation), and leave out what is no real sample.",
                evidence=evidence,
            )


def _warn_of_duplicates(check: DataCheck, tracker: ProgressTracker) -> None:
    share = check.duplicates / check.samples
    if share > _MANY_DUPLICATES and not all(tally.constant for tally in check.inputs):
        tracker.warn(
            "calibration_duplicates",
            f"{100 * share:.0f} % of the calibration samples repeat an earlier one: they add nothing.",
            "Give different samples.",
            evidence=f"{check.duplicates} of {check.samples} samples are equal to an earlier one in every input.",
        )


def _warn_of_too_few(
    result: CalibrationResult,
    distinct: int,
    curve: Sequence[tuple[float, float]],
    quality: QualitySpread | None,
    tracker: ProgressTracker,
) -> None:
    grown = (
        [f"The last doubling of the samples widened ranges by {100 * curve[-1][1]:.0f} % (median)."] if curve else []
    )
    different = "different " if distinct < result.samples else ""
    tracker.warn(
        "few_calibration_samples",
        f"Calibration has {distinct} {different}samples: ranges found on so few clip others.",
        _more(result.enough_samples),
        evidence=" ".join(grown + _parts(result, quality)) or None,
    )


def _warn_of_parts(result: CalibrationResult, quality: QualitySpread | None, tracker: ProgressTracker) -> None:
    tracker.warn(
        "calibration_parts_differ",
        f"Quarters of the {result.samples} calibration samples are not alike: how good the int8 model is depends on "
        "which samples there happen to be.",
        f"{_more(result.enough_samples)} Are some of another kind than the rest, or preprocessed otherwise?",
        evidence=" ".join(_parts(result, quality)) or None,
    )


def _parts(result: CalibrationResult, quality: QualitySpread | None) -> list[str]:
    """What quarters of the data found."""
    told = []
    if quality is not None:
        told.append(
            f"With the ranges of one quarter of them the model reaches {quality.least_db:.1f} to "
            f"{quality.greatest_db:.1f} dB, by which quarter it is."
        )
    if result.scale_spread is not None:
        told.append(f"The scales that quarters find differ by {100 * result.scale_spread:.0f} % (median).")
    return told


def _more(enough: int | None) -> str:
    if enough is None:
        return "Give several times as many representative samples: 100 to 300 are usual."
    return f"Give about {_rounded(enough)} representative samples."


def _rounded(samples: int) -> int:
    """To two digits, upwards."""
    unit = int(10 ** max(0, len(str(samples)) - 2))
    return -(-samples // unit) * unit


def _span(tally: InputTally) -> str:
    return f"{tally.min:.4g} to {tally.max:.4g}"
