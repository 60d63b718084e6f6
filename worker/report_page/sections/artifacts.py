"""The int8 model in a file for each runtime: what each is worth, and which one to take."""

from __future__ import annotations

from shared.job_report import ArtifactLabel, ArtifactResult, JobReport, Quality
from shared.latency_report import Speedup
from worker.candidate_names import RUNTIME_NAMES, candidate_name, int8_in
from worker.closeness import worst_output
from worker.report_page.figures import (
    NONE,
    byte_size,
    decibels,
    decimal,
    percent,
    plural,
    significant,
    times,
    whole,
)
from worker.report_page.layout import Column, Section, badge, folded, name, note, table
from worker.report_page.markup import Content, Html, element, join, shorten
from worker.report_page.sections.verdict import METRIC_NAMES, metric_value

_MAX_NOTE = 600
_LABELS: dict[ArtifactLabel, tuple[str, str]] = {
    "missing": ("missing", "flag"),
    "wrong": ("wrong", "flag"),
    "accuracy_not_met": ("accuracy not met", "flag"),
    "in_float": ("in float", "warn"),
    "slower": ("slower", "warn"),
}


def artifacts(report: JobReport) -> Section | None:
    """One row a file, a missing one with its reason."""
    if not report.artifacts:
        return None
    metric = None if report.quality.metric is None else report.quality.metric.name
    columns = [
        Column("File"),
        Column("Size", "number"),
        Column("Metric" if metric is None else METRIC_NAMES[metric], "number"),
        Column("SQNR", "number", "Of the output that is furthest from float"),
        Column("Agreement", "number", "Of the output that is furthest from float"),
        Column("Operators in int8", "number", "Of those with weights: how many multiply integers of 8 bits"),
        Column("Speedup", "number"),
        Column("95 % interval", "number"),
    ]
    speedups = {each.name: each for benchmark in report.latency[:1] for each in benchmark.speedups}
    rows = [
        _row(each, speedups.get(int8_in(each.runtime)), recommended=each.name == report.recommended)
        for each in report.artifacts
    ]
    written = table("Artifacts, one for each runtime", columns, rows)
    parts = [_told(report), written, _notes(report), _how_to_read(report), _loading(report.artifacts)]
    return Section("artifacts", "Artifacts", join(parts))


def _told(report: JobReport) -> Html:
    for each in report.artifacts:
        if each.name == report.recommended:
            return element("p", name(each.name), f", for {_run_by(each)}, is recommended.", class_="finding good")
    return element("p", "None of the files is recommended: the verdict says why.", class_="finding fair")


def _run_by(artifact: ArtifactResult) -> str:
    """`OpenVINO with bf16`, where it was opened so."""
    return f"{RUNTIME_NAMES[artifact.runtime]}{' with bf16' if artifact.inference_precision == 'bf16' else ''}"


def _notes(report: JobReport) -> list[Html]:
    """Below the table, where a sentence has room."""
    return [
        element("p", name(each.name), ": ", shorten(each.note, _MAX_NOTE)) for each in report.artifacts if each.note
    ]


def _how_to_read(report: JobReport) -> Html:
    told = (
        "Each file was opened in its runtime by a process that had made none of them, and its outputs were held "
        "against the float model's. Recommended is the fastest of those without a label, if it is faster than the "
        "fastest float model."
    )
    if not report.latency:
        return note(told)
    first = report.latency[0]
    at = f"batch {first.batch_size}, {plural(first.threads, 'thread')}"
    return note(f"{told} The speedup is against {candidate_name(first.baseline)} at {at}.")


def _loading(artifacts: list[ArtifactResult]) -> Content:
    """What each takes before it has answered for the first time."""
    columns = [
        Column("File"),
        Column("Cold, ms", "number", "The first time in a process: until it has answered, with importing the runtime"),
        Column("Warm, ms", "number", "The second time"),
        Column("Holds", "number", "Resident memory that it adds once it has answered"),
        Column("At most", "number", "Resident memory that it takes while it is opened and answers"),
    ]
    rows: list[list[Content]] = [
        [
            name(each.name),
            significant(each.load.cold_ms),
            significant(each.load.warm_ms),
            byte_size(each.load.resident_bytes) if each.load.resident_bytes else NONE,
            NONE if each.load.peak_bytes is None else byte_size(each.load.peak_bytes),
        ]
        for each in artifacts
        if each.load is not None
    ]
    return folded("Load time and memory", table("Load time and memory", columns, rows)) if rows else None


def _row(artifact: ArtifactResult, speedup: Speedup | None, *, recommended: bool) -> list[Content]:
    operators = f"{whole(artifact.int8_operators)} of {whole(artifact.int8_operators + artifact.float_operators)}"
    return [
        [
            name(artifact.name),
            " ",
            element("small", _run_by(artifact)),
            _badges(artifact, recommended=recommended),
        ],
        NONE if artifact.size_bytes is None else byte_size(artifact.size_bytes),
        *_quality(artifact.quality),
        NONE if "missing" in artifact.labels else operators,
        NONE if speedup is None else times(speedup.speedup),
        NONE if speedup is None else " to ".join(decimal(end, 2) for end in speedup.speedup_ci95),
    ]


def _quality(quality: Quality | None) -> list[str]:
    """The metric, SQNR and agreement."""
    if quality is None:
        return [NONE] * 3
    metric, worst = quality.metric, worst_output(quality.fidelity)
    value = NONE if metric is None else metric_value(metric.name, metric.int8_value)
    if worst is None:
        return [value, NONE, NONE]
    return [value, NONE if worst.discrete else decibels(worst.sqnr_db), percent(worst.agreement, 2)]


def _badges(artifact: ArtifactResult, *, recommended: bool) -> list[Content]:
    badges = [badge("recommended", "yes")] if recommended else []
    badges += [badge(*_LABELS[label]) for label in artifact.labels]
    return [[" ", each] for each in badges]
