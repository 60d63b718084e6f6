"""Whether the data suffices, and what was tried: ranges, accuracy recovery, kernels."""

from __future__ import annotations

from shared.job_report import CalibrationResult, JobReport, KernelTrial, RangeTrial, RecoveryResult
from worker.report_page.figures import NONE, decibels, milliseconds, percent, plural, signed, significant, whole
from worker.report_page.layout import Column, Section, badge, definitions, name, note, subheading, table
from worker.report_page.markup import Content, element, join, shorten

_RECOVERY_NAMES = {
    "cross_layer_equalization": "Cross-layer equalization",
    "bias_correction": "Bias correction",
    "smooth_quant": "SmoothQuant scaling",
}
_MAX_INPUTS = 200


def calibration(report: JobReport, room: int) -> Section | None:
    """Calibration data, ranges, recovery and kernels, each with what was measured."""
    parts = [
        _sufficiency(report.calibration, room),
        _ranges(report.ranges),
        _recovery(report.recovery),
        _kernels(report.kernels),
    ]
    if not any(parts):
        return None
    return Section("calibration", "Calibration, and what was tried", join(parts))


def _sufficiency(found: CalibrationResult | None, room: int) -> Content:
    if found is None:
        return None
    if found.sufficient:
        answer, kind = "The calibration data suffices.", "good"
    else:
        needed = "" if found.enough_samples is None else f" About {plural(found.enough_samples, 'sample')} would do."
        answer, kind = f"The calibration data does not suffice.{needed}", "bad"
    measured: list[tuple[str, Content]] = [
        ("Samples", whole(found.samples)),
        ("Duplicates", whole(found.duplicates)),
        ("Disjoint subsets", whole(found.subsets)),
        ("Spread of the scales over them", percent(found.scale_spread)),
        ("Spread of the output's SQNR over them", decibels(found.quality_spread_db, NONE)),
        ("Range that the first half saw", percent(found.coverage)),
    ]
    columns = [
        Column("Input"),
        Column("Min", "number"),
        Column("Max", "number"),
        Column("Constant"),
        Column("Evaluation outside", "number", "Share of the evaluation data outside of the calibration range"),
    ]
    rows: list[list[Content]] = [
        [
            name(each.name),
            significant(each.min),
            significant(each.max),
            badge("constant", "flag") if each.constant else "no",
            percent(each.evaluation_outside, 2),
        ]
        for each in found.inputs[:_MAX_INPUTS]
    ]
    caption, count = "Inputs in the calibration data", len(found.inputs)
    listed = table(caption, columns, rows, room=room, of=count, noun="input") if rows else None
    return join(
        [
            subheading("Does the data suffice?"),
            element("p", answer, class_=f"finding {kind}"),
            definitions(measured),
            listed,
        ]
    )


def _ranges(trials: list[RangeTrial]) -> Content:
    if not trials:
        return None
    columns = [Column("Rule"), Column("SQNR, worst output", "number"), Column("Chosen")]
    rows: list[list[Content]] = [
        [each.observer, decibels(each.sqnr_db), _chosen(chosen=each.chosen)] for each in trials
    ]
    told = note("Each rule was judged on calibration data held back from the observers.")
    return join([subheading("Rules for activation ranges"), told, table("Ranges that were tried", columns, rows)])


def _recovery(results: list[RecoveryResult]) -> Content:
    if not results:
        return None
    columns = [
        Column("Means"),
        Column("Asked"),
        Column("Without", "number"),
        Column("With", "number"),
        Column("Gain, dB", "number"),
        Column("Layers", "number"),
        Column("Applied"),
        Column("To note"),
    ]
    rows: list[list[Content]] = []
    for each in results:
        measured = each.without_sqnr_db is not None and each.with_sqnr_db is not None
        gain = signed((each.with_sqnr_db or 0.0) - (each.without_sqnr_db or 0.0)) if measured else NONE
        both = (decibels(each.without_sqnr_db, NONE), decibels(each.with_sqnr_db, NONE))
        applied = badge("applied", "yes") if each.applied else "no"
        rows.append(
            [_RECOVERY_NAMES[each.name], each.asked, *both, gain, whole(each.layers), applied, each.note or NONE]
        )
    told = note("Means that cost no training, with and without, on the same calibration data.")
    return join([subheading("Accuracy recovery"), told, table("Accuracy recovery", columns, rows)])


def _kernels(trials: list[KernelTrial]) -> Content:
    if not trials:
        return None
    columns = [
        Column("Kernels"),
        Column("SQNR", "number", "Of the worst output against the float model"),
        Column("Simulation", "number", "The same of int8 computed in float"),
        Column("Latency, p50", "number", "At the smallest batch"),
        Column("Computes what it should"),
        Column("Off by more than rounding"),
        Column("Chosen"),
    ]
    rows: list[list[Content]] = [
        [
            each.qengine,
            decibels(each.sqnr_db),
            decibels(each.reference_sqnr_db),
            milliseconds(each.latency_ms),
            badge("no", "flag") if each.saturates else "yes",
            name(shorten(", ".join(each.layers), 200)) if each.layers else NONE,
            _chosen(chosen=each.chosen),
        ]
        for each in trials
    ]
    told = note(
        "Kernels of which a layer gives other integers than it should, or of which the output is more than 1 dB below "
        "the simulation's, by more than chance, do not compute what they should, mostly because their sums saturate: "
        "they are not offered."
    )
    return join([subheading("Kernels against int8 computed in float"), told, table("Kernels", columns, rows)])


def _chosen(*, chosen: bool) -> Content:
    return badge("chosen", "yes") if chosen else "no"
