"""How near int8 is to float, and how large."""

from __future__ import annotations

from shared.job_report import JobReport, OutputFidelity
from worker.candidate_names import RUNTIME_NAMES
from worker.report_page.figures import (
    NONE,
    byte_size,
    decibels,
    decimal,
    percent,
    plural,
    size_change,
    times,
    whole,
)
from worker.report_page.layout import Column, Section, name, note, table
from worker.report_page.markup import Content, Html, element, join
from worker.report_page.sections.verdict import (
    DATA_NAMES,
    METRIC_NAMES,
    artifact_of_verdict,
    metric_drop,
    metric_value,
)


def quality(report: JobReport, room: int) -> Section:
    """The metric where there are labels, and the distance of the outputs always."""
    measured = report.quality
    parts: list[Content] = [
        _whose(report),
        note(
            f"Both models ran on the same {plural(measured.samples, 'sample')} of {DATA_NAMES[measured.data]}. "
            "SQNR tells how far the outputs are apart: 20 dB is a noise of 10 %, 40 dB of 1 %. "
            "Agreement is the share of samples for which both choose the same class; of an output of integers, "
            "the share of its values that are equal."
        ),
    ]
    metric = measured.metric
    if metric is not None:
        columns = [Column("Metric"), *(Column(each, "number") for each in ("Float", "int8", "Drop", "Allowed drop"))]
        allowed = NONE if metric.max_drop is None else metric_drop(metric.model_copy(update={"drop": metric.max_drop}))
        values = [metric_value(metric.name, each) for each in (metric.float_value, metric.int8_value)]
        row: list[Content] = [METRIC_NAMES[metric.name], *values, metric_drop(metric), allowed]
        parts.append(table("Metric", columns, [row]))
    parts.append(fidelity_table("Outputs", measured.fidelity, room))
    return Section("quality", "Quality", join(parts))


def _whose(report: JobReport) -> Content:
    """Which of several files the section is of."""
    artifact = artifact_of_verdict(report)
    if artifact is None or len(report.artifacts) == 1:
        return None
    return element("p", "int8 is ", name(artifact.name), f" here, as {RUNTIME_NAMES[artifact.runtime]} computes it.")


def fidelity_table(caption: str, fidelity: list[OutputFidelity], room: int) -> Html:
    """One row an output."""
    columns = [
        Column("Output"),
        Column("SQNR", "number"),
        Column("Cosine", "number"),
        Column("Agreement", "number"),
    ]
    rows = [
        [
            name(each.output),
            NONE if each.discrete else decibels(each.sqnr_db),
            decimal(each.cosine, 5),
            percent(each.agreement, 2),
        ]
        for each in fidelity
    ]
    return table(caption, columns, rows, room=room, noun="output")


def size(report: JobReport) -> Section:
    """Bytes on disk."""
    columns = [Column("File"), Column("Runtime"), Column("Bytes", "number"), Column("Size", "number")]
    columns += [Column("Float / int8", "number")]
    float_bytes, int8_bytes = report.size.float_bytes, report.size.int8_bytes
    rows: list[list[Content]] = [
        ["float, frozen TorchScript", "torch", whole(float_bytes), byte_size(float_bytes), NONE]
    ]
    for each in report.artifacts:
        if each.size_bytes is not None:
            counts = [whole(each.size_bytes), byte_size(each.size_bytes), _ratio(float_bytes, each.size_bytes)]
            rows.append([name(each.name), RUNTIME_NAMES[each.runtime], *counts])
    if len(rows) == 1:
        rows.append(["int8", "torch", whole(int8_bytes), byte_size(int8_bytes), times(report.size.ratio)])
    artifact = artifact_of_verdict(report)
    of_verdict: Content = "int8" if artifact is None else name(artifact.name)
    told = note(of_verdict, f" is {size_change(report.size.ratio)} than the float model as frozen TorchScript.")
    return Section("size", "Size", join([told, table("Size on disk", columns, rows)]))


def _ratio(float_bytes: int, int8_bytes: int) -> str:
    return times(float_bytes / int8_bytes) if int8_bytes > 0 else NONE
