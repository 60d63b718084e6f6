"""How fast: the candidates of a latency measurement against each other, in tables and drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence

from shared.benchmark_report import ComparisonResult
from shared.job_report import JobReport
from shared.latency_report import BenchmarkResult, LatencyStats
from worker.candidate_names import candidate_name, candidate_of
from worker.report_page.figures import NONE, decimal, interval, percent, plural, significant, times, whole
from worker.report_page.layout import Column, Section, badge, figure, fitting, note, table
from worker.report_page.markup import Content, Html, element, join, shorten
from worker.report_page.plots import Scale, bottom_axis, distribution, finite, line, svg, text

Measured = BenchmarkResult | ComparisonResult

MAX_NOTE = 1000
"""Characters of a sentence in a table."""
_MAX_BENCHMARKS_DRAWN = 6
_FEW = 4
"""Candidates that are drawn at full height."""
_MAX_NAME, _MAX_NAME_WIDTH = 28, 190


def latency(report: JobReport, room: int) -> Section | None:
    """Every batch size and thread count, and how the samples are spread."""
    if not report.latency:
        return None
    told = note(
        "The candidates took turns in one process. The speedup is the p50 of the fastest float candidate over that of "
        "the fastest int8 one; an interval that holds 1 means that no significant difference was shown. “At most” is "
        "MLPerf's bound: with 99 % confidence the percentile is not above it; where there are too few samples, none is "
        "given."
    )
    parts = [told, _speedups(report.latency, room)]
    if any(len(each.speedups) > 1 for each in report.latency):  # one is in the table before
        parts.append(speedups_of_each("Speedup of each int8 candidate", report.latency, room))
    parts += [element("div", latency_drawings(report.latency, room), class_="plots")]
    parts += [latency_of_each(report.latency, room)]
    return Section("latency", "Latency", join(parts))


def _speedups(benchmarks: list[BenchmarkResult], room: int) -> Html:
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
        doubts = [] if each.significant else ["no significant difference"]
        doubts += [shorten(each.note, MAX_NOTE)] if each.note else []
        rows.append(
            [
                whole(each.batch_size),
                whole(each.threads),
                candidate_name(each.baseline),
                candidate_name(each.int8),
                times(each.speedup),
                interval(each.speedup_ci95),
                times(each.speedup_vs_eager),
                whole(each.rounds),
                NONE if each.roofline is None else percent(each.roofline.share),
                ", ".join(map(str, each.cores)) or NONE,
                "; ".join(doubts) or NONE,
            ]
        )
    return table("Speedup", columns, rows, room=room, noun="combination")


def speedups_of_each(caption: str, benchmarks: Sequence[Measured], room: int) -> Html:
    """One row a candidate and combination."""
    columns = [Column("Candidate"), Column("Batch size", "number"), Column("Threads", "number")]
    columns += [Column("Speedup", "number"), Column("95 % interval", "number"), Column("To note")]
    rows: list[list[Content]] = [
        [
            candidate_name(each.name),
            whole(benchmark.batch_size),
            whole(benchmark.threads),
            times(each.speedup),
            interval(each.speedup_ci95),
            NONE if each.significant else "no significant difference",
        ]
        for benchmark in benchmarks
        for each in benchmark.speedups
    ]
    return table(caption, columns, rows, find="candidate", room=room)


def latency_of_each(benchmarks: Sequence[Measured], room: int) -> Html:
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
    written = table("Latency of each candidate", columns, rows, find="candidate", room=room)
    return join([written, [note(shorten(each, 300)) for each in told if each]])


def latency_drawings(benchmarks: Sequence[Measured], room: int) -> list[Html]:
    """How the samples are spread, of the first combinations, as many as there is room for."""
    return fitting([_drawing(each) for each in benchmarks[:_MAX_BENCHMARKS_DRAWN] if _has_samples(each)], room)


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
