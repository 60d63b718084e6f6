"""Check calibration: does the data suffice, and is it like the evaluation data? Each warning says what to do."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

from shared.job_report import CalibrationResult
from worker.calibration_check import Comparison, DataCheck, InputTally, compare_with, input_checks
from worker.calibration_ranges import LEAST_SAMPLES, coverage, enough_samples, growth_curve, scale_spread
from worker.datasets import Samples, Subset
from worker.progress import ProgressTracker
from worker.quantization import Plan, simulate
from worker.steps.calibrate import Calibration
from worker.steps.float_reference import FloatReference
from worker.steps.load import LoadedModel

_MANY_DUPLICATES = 0.1
_TRIED_BATCHES = 2
_MUCH_OUTSIDE = 0.01
_FAR_TOO_WIDE = 8.0
"""How many times the evaluation data's range: 3 of the 8 bits are lost. Forgotten normalisation makes it 50 or more."""


def check_calibration(
    model: LoadedModel,
    found: Calibration,
    evaluation: Samples | None,
    tracker: ProgressTracker,
    *,
    quality_spread_db: float | None = None,
) -> CalibrationResult:
    """What calibration found, for the report, with a warning for each thing that is wrong.

    `evaluation` is the held-out data, read once without the model; None when there is none. `quality_spread_db` is
    what `measure_quality_spread_db` found.
    """
    check, ranges = found.data, found.ranges.ranges
    comparisons = None if evaluation is None else compare_with(check, evaluation, model.batch_size)
    distinct = check.samples - check.duplicates
    enough = enough_samples(ranges, distinct)
    result = CalibrationResult(
        samples=check.samples,
        duplicates=check.duplicates,
        inputs=input_checks(check, comparisons),
        subsets=found.ranges.reported_subsets,
        scale_spread=scale_spread(ranges),
        quality_spread_db=quality_spread_db,
        coverage=coverage(ranges),
        sufficient=distinct >= LEAST_SAMPLES if enough is None else distinct >= enough,
        enough_samples=enough,
    )
    _warn_of_constants(check, comparisons, tracker)
    _warn_of_differences(check, comparisons, tracker)
    _warn_of_duplicates(check, tracker)
    if not result.sufficient:
        _warn_of_too_few(result, distinct, growth_curve(ranges), tracker)
    return result


def measure_quality_spread_db(
    model: LoadedModel, prepared: fx.GraphModule, plan: Plan, found: Calibration, samples: Samples
) -> float | None:
    """Greatest less least SQNR of the worst output, with the ranges of each disjoint subset; None from fewer than two.

    By min-max ranges, simulated on at most two batches; what the observers saw is as before afterwards.
    """
    reference = FloatReference(model, Subset(samples, range(min(samples.count, _TRIED_BATCHES * model.batch_size))))
    reached = []
    for subset in range(found.ranges.reported_subsets):
        with found.ranges.seeing_only(subset):
            simulation = simulate(prepared, plan)
        reached.append(reference.measure(simulation.run).sqnr_db)
    return max(reached) - min(reached) if len(reached) > 1 else None


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
    result: CalibrationResult, distinct: int, curve: Sequence[tuple[float, float]], tracker: ProgressTracker
) -> None:
    enough = result.enough_samples
    grown = (
        f"The last doubling of the samples widened ranges by {100 * curve[-1][1]:.0f} % (median)." if curve else None
    )
    different = "different " if distinct < result.samples else ""
    tracker.warn(
        "few_calibration_samples",
        f"Calibration has {distinct} {different}samples: ranges found on so few clip others.",
        f"Give about {_rounded(enough)} representative samples."
        if enough is not None
        else "Give several times as many representative samples: 100 to 300 are usual.",
        evidence=grown,
    )


def _rounded(samples: int) -> int:
    """To two digits, upwards."""
    unit = int(10 ** max(0, len(str(samples)) - 2))
    return -(-samples // unit) * unit


def _span(tally: InputTally) -> str:
    return f"{tally.min:.4g} to {tally.max:.4g}"
