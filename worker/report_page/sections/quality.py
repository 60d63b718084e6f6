"""How near int8 is to float, how fast it is, and how large."""

from __future__ import annotations

from shared.job_report import BenchmarkResult, JobReport, LatencyStats, OutputFidelity
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
from worker.report_page.layout import Column, Section, figure, name, note, table
from worker.report_page.markup import Content, Html, element, join
from worker.report_page.plots import Scale, bottom_axis, distribution, finite, line, svg, text
from worker.report_page.sections.verdict import DATA_NAMES, METRIC_NAMES, metric_drop, metric_value

CANDIDATE_NAMES = {"float_eager": "float, eager", "float_frozen": "float, frozen", "int8": "int8"}
_MAX_BENCHMARKS_DRAWN = 6


def quality(report: JobReport, room: int) -> Section:
    """The metric where there are labels, and the distance of the outputs always."""
    measured = report.quality
    parts: list[Content] = [
        note(
            f"Both models ran on the same {plural(measured.samples, 'sample')} of {DATA_NAMES[measured.data]}. "
            "SQNR tells how far the outputs are apart: 20 dB is a noise of 10 %, 40 dB of 1 %. "
            "Agreement is the share of samples for which both choose the same class; of an output of integers, "
            "the share of its values that are equal."
        )
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
        "int8; an interval that holds 1 means that no significant difference was shown. “At most” is MLPerf's bound: "
        "with 99 % confidence the percentile is not above it; where there are too few samples, none is given."
    )
    drawn = [_drawing(each) for each in report.latency[:_MAX_BENCHMARKS_DRAWN] if _has_samples(each)]
    parts = [
        told,
        _speedups(report.latency),
        _speedups_of_each(report.latency),
        element("div", drawn, class_="plots"),
        _candidates(report.latency),
    ]
    return Section("latency", "Latency", join(parts))


def size(report: JobReport) -> Section:
    """Bytes on disk."""
    columns = [Column("Model"), Column("Bytes", "number"), Column("Size", "number")]
    both = {"float": report.size.float_bytes, "int8": report.size.int8_bytes}
    rows: list[list[Content]] = [[which, whole(count), byte_size(count)] for which, count in both.items()]
    told = note(f"Both stored the same way, as frozen TorchScript: int8 is {size_change(report.size.ratio)}.")
    return Section("size", "Size", join([told, table("Size on disk", columns, rows)]))


def _speedups(benchmarks: list[BenchmarkResult]) -> Html:
    columns = [
        Column("Batch size", "number"),
        Column("Threads", "number"),
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
            CANDIDATE_NAMES.get(each.name, each.name),
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


def _candidates(benchmarks: list[BenchmarkResult]) -> Html:
    columns = [Column("Candidate"), Column("Batch size", "number"), Column("Threads", "number")]
    columns += [Column(f"{each}, ms", "number") for each in ("p50", "p90", "p90 at most", "p99", "p99 at most", "mean")]
    columns += [Column("Samples a second", "number", "batch size / p50")]
    rows: list[list[Content]] = []
    for each in benchmarks:
        for stats in each.candidates:
            shown: list[Content] = [
                _candidate(stats),
                " ",
                element("small", "baseline") if stats.name == each.baseline else None,
            ]
            bounded = stats.p90_ms, stats.p90_bound_ms, stats.p99_ms, stats.p99_bound_ms
            times_ms = [significant(value) for value in (stats.p50_ms, *bounded, stats.mean_ms)]
            counts = [whole(each.batch_size), whole(each.threads)]
            rows.append([shown, *counts, *times_ms, decimal(stats.throughput_per_second, 0)])
    return table("Latency of each candidate", columns, rows)


def _has_samples(benchmark: BenchmarkResult) -> bool:
    return any(finite(each.samples_ms) for each in benchmark.candidates)


def _drawing(benchmark: BenchmarkResult) -> Html:
    left, right, pitch, top = 92, 430, 44, 6
    greatest = max(_far_enough(each) for each in benchmark.candidates)
    scale = Scale(0.0, greatest or 1.0, left, right)
    bottom = top + pitch * len(benchmark.candidates)
    of_int8 = {each.name for each in benchmark.speedups}
    drawn = [bottom_axis(scale, bottom, top, "ms")]
    beyond = 0
    for index, each in enumerate(benchmark.candidates):
        baseline = top + pitch * (index + 1)
        kind = "int8" if each.name == benchmark.int8 or each.name in of_int8 else "float32"
        inside = [sample for sample in finite(each.samples_ms) if sample <= greatest]
        beyond += len(each.samples_ms) - len(inside)
        drawn.append(text(left - 8, baseline - 12, _candidate(each), anchor="end"))
        drawn.append(distribution(inside, scale, baseline, pitch - 10, kind))
        drawn.append(line(scale(each.p50_ms), baseline - pitch + 6, scale(each.p50_ms), baseline, "median"))
        drawn.append(text(scale(each.p50_ms) + 4, baseline - pitch + 14, significant(each.p50_ms), class_="strong"))
    label = f"Latency at batch {benchmark.batch_size}, {plural(benchmark.threads, 'thread')}"
    caption = f"{label}: how the samples are spread; the mark is the p50."
    if beyond:
        caption += f" {plural(beyond, 'sample')} beyond the right edge."
    return figure(caption, svg(480, bottom + 34, drawn, label=label), label=label)


def _far_enough(stats: LatencyStats) -> float:
    """Where the axis may end: past nearly all samples, but a few late ones do not squeeze the others."""
    tail = max(finite([stats.p90_ms * 1.25, stats.p99_ms]), default=1.0)
    return max(finite([stats.p50_ms * 1.1, min(tail, stats.p90_ms * 2)]), default=1.0)


def _candidate(stats: LatencyStats) -> str:
    return CANDIDATE_NAMES.get(stats.name, stats.name)
