"""How near int8 is to float, how fast it is, and how large."""

from __future__ import annotations

import math
from collections.abc import Sequence

from shared.benchmark_report import ComparisonResult
from shared.job_report import JobReport, OutputFidelity
from shared.latency_report import BenchmarkResult, LatencyStats
from worker.candidate_names import RUNTIME_NAMES, candidate_name, candidate_of
from worker.report_page.figures import (
    NONE,
    byte_size,
    decibels,
    decimal,
    percent,
    plural,
    significant,
    size_change,
    times,
    whole,
)
from worker.report_page.layout import Column, Section, badge, figure, name, note, table
from worker.report_page.markup import Content, Html, element, join, shorten
from worker.report_page.plots import Scale, bottom_axis, distribution, finite, line, svg, text
from worker.report_page.sections.verdict import (
    DATA_NAMES,
    METRIC_NAMES,
    artifact_of_verdict,
    metric_drop,
    metric_value,
)

Measured = BenchmarkResult | ComparisonResult

_MAX_BENCHMARKS_DRAWN = 6
_FEW = 4
"""Candidates that are drawn at full height."""
_MAX_NAME, _MAX_NAME_WIDTH = 28, 190


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


def latency(report: JobReport) -> Section | None:
    """Every batch size and thread count, and how the samples are spread."""
    if not report.latency:
        return None
    told = note(
        "The candidates took turns in one process. The speedup is the p50 of the fastest float candidate over that of "
        "the fastest int8 one; an interval that holds 1 means that no significant difference was shown. “At most” is "
        "MLPerf's bound: with 99 % confidence the percentile is not above it; where there are too few samples, none is "
        "given."
    )
    drawn = latency_drawings(report.latency)
    parts = [
        told,
        _speedups(report.latency),
        _speedups_of_each(report.latency),
        element("div", drawn, class_="plots"),
        latency_of_each(report.latency),
    ]
    return Section("latency", "Latency", join(parts))


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


def _speedups(benchmarks: list[BenchmarkResult]) -> Html:
    columns = [
        Column("Batch size", "number"),
        Column("Threads", "number"),
        Column("Fastest float"),
        Column("Fastest int8"),
        Column("Speedup", "number"),
        Column("95 % interval", "number"),
        Column("Against eager", "number"),
        Column("Rounds", "number"),
        Column("Of int8 peak", "number", "multiply-accumulates a second / the most that large int8 products reached"),
        Column("Cores"),
        Column("To note"),
    ]
    rows: list[list[Content]] = []
    for each in benchmarks:
        low, high = each.speedup_ci95
        doubts = [] if each.significant else ["no significant difference"]
        doubts += [each.note] if each.note else []
        rows.append(
            [
                whole(each.batch_size),
                whole(each.threads),
                candidate_name(each.baseline),
                candidate_name(each.int8),
                times(each.speedup),
                f"{decimal(low, 2)} to {decimal(high, 2)}",
                times(each.speedup_vs_eager),
                whole(each.rounds),
                NONE if each.roofline is None else percent(each.roofline.share),
                ", ".join(map(str, each.cores)) or NONE,
                "; ".join(doubts) or NONE,
            ]
        )
    return table("Speedup", columns, rows)


def _speedups_of_each(benchmarks: list[BenchmarkResult]) -> Html | None:
    """Only where several int8 candidates were measured: one is in the table before."""
    columns = [Column("Candidate"), Column("Batch size", "number"), Column("Threads", "number")]
    columns += [Column("Speedup", "number"), Column("95 % interval", "number"), Column("To note")]
    rows: list[list[Content]] = [
        [
            candidate_name(each.name),
            whole(benchmark.batch_size),
            whole(benchmark.threads),
            times(each.speedup),
            " to ".join(decimal(end, 2) for end in each.speedup_ci95),
            NONE if each.significant else "no significant difference",
        ]
        for benchmark in benchmarks
        for each in benchmark.speedups
        if len(benchmark.speedups) > 1
    ]
    return table("Speedup of each int8 candidate", columns, rows) if rows else None


def latency_of_each(benchmarks: Sequence[Measured]) -> Html:
    """Those that are compared apart by colour, at each combination the fastest first."""
    columns = [Column("Candidate"), Column("Batch size", "number"), Column("Threads", "number")]
    columns += [Column(f"{each}, ms", "number") for each in ("p50", "p90", "p90 at most", "p99", "p99 at most", "mean")]
    columns += [Column("Samples a second", "number", "batch size / p50")]
    columns += [Column("Energy, mJ", "number", "For one sample, of all of the CPU's packages")]
    rows: list[list[Content]] = []
    for each in benchmarks:
        for stats in _fastest_first(each):
            shown: list[Content] = [
                badge(candidate_name(stats.name), f"p-{_kind(stats, each)}"),
                " ",
                element("small", "baseline") if stats.name == each.baseline else None,
            ]
            bounded = stats.p90_ms, stats.p90_bound_ms, stats.p99_ms, stats.p99_bound_ms
            times_ms = [significant(value) for value in (stats.p50_ms, *bounded, stats.mean_ms)]
            counts = [whole(each.batch_size), whole(each.threads)]
            energy = None if stats.energy_joules is None else 1000 * stats.energy_joules
            rows.append([shown, *counts, *times_ms, decimal(stats.throughput_per_second, 0), significant(energy)])
    told = [each.energy for each in benchmarks if any(stats.energy_joules is not None for stats in each.candidates)]
    written = table("Latency of each candidate", columns, rows, find="candidate")
    return join([written, [note(shorten(each, 300)) for each in told if each]])


def latency_drawings(benchmarks: Sequence[Measured]) -> list[Html]:
    """How the samples are spread, of the first combinations."""
    return [_drawing(each) for each in benchmarks[:_MAX_BENCHMARKS_DRAWN] if _has_samples(each)]


def _has_samples(benchmark: Measured) -> bool:
    return any(finite(each.samples_ms) for each in benchmark.candidates)


def _drawing(benchmark: Measured) -> Html:
    candidates = _fastest_first(benchmark)
    names = [candidate_name(each.name) for each in candidates]
    left, top = min(_MAX_NAME_WIDTH, 6.4 * max(map(len, names)) + 12), 6
    right, pitch = 460, 44 if len(candidates) <= _FEW else 36
    greatest = max(_far_enough(each) for each in candidates)
    scale = Scale(0.0, greatest or 1.0, left, right)
    bottom = top + pitch * len(candidates)
    drawn = [bottom_axis(scale, bottom, top, "ms")]
    beyond = 0
    for index, each in enumerate(candidates):
        baseline = top + pitch * (index + 1)
        inside = [sample for sample in finite(each.samples_ms) if sample <= greatest]
        beyond += len(each.samples_ms) - len(inside)
        drawn.append(text(left - 8, baseline - 10, shorten(names[index], _MAX_NAME), anchor="end"))
        drawn.append(distribution(inside, scale, baseline, pitch - 10, _kind(each, benchmark)))
        drawn.append(line(scale(each.p50_ms), baseline - pitch + 6, scale(each.p50_ms), baseline, "median"))
        drawn.append(text(scale(each.p50_ms) + 4, baseline - pitch + 15, significant(each.p50_ms), class_="strong"))
    label = f"Latency at batch {benchmark.batch_size}, {plural(benchmark.threads, 'thread')}"
    caption: list[Content] = [
        f"{label}: how the samples are spread; the mark is the p50. ", *_legend(benchmark), ", the fastest first.",
    ]  # fmt: skip
    if beyond:
        caption.append(f" {plural(beyond, 'sample')} beyond the right edge.")
    return figure(caption, svg(right + 40, bottom + 34, drawn, label=label), label=label)


def _fastest_first(benchmark: Measured) -> list[LatencyStats]:
    return sorted(benchmark.candidates, key=lambda each: math.inf if math.isnan(each.p50_ms) else each.p50_ms)


def _legend(benchmark: Measured) -> list[Content]:
    if isinstance(benchmark, ComparisonResult):
        first = shorten(candidate_of(benchmark.baseline), _MAX_NAME)
        return [badge(first, "p-float32"), " ", badge("the others", "p-int8")]
    return [badge("int8", "p-int8"), " ", badge("float", "p-float32")]


def _kind(stats: LatencyStats, benchmark: Measured) -> str:
    """The colour: of int8 or of float; of the first candidate or of the others."""
    if isinstance(benchmark, ComparisonResult):
        return "float32" if candidate_of(stats.name) == candidate_of(benchmark.baseline) else "int8"
    of_int8 = {benchmark.int8, *(each.name for each in benchmark.speedups)}
    return "int8" if stats.name in of_int8 else "float32"


def _far_enough(stats: LatencyStats) -> float:
    """Where the axis may end: past nearly all samples, but a few late ones do not squeeze the others."""
    tail = max(finite([stats.p90_ms * 1.25, stats.p99_ms]), default=1.0)
    return max(finite([stats.p50_ms * 1.1, min(tail, stats.p90_ms * 2)]), default=1.0)
