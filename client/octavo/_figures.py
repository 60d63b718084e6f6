"""The figures of reports as short texts: one report's float against int8, or several outcomes side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from octavo._candidate_names import candidate_name
from octavo._job_report import BenchmarkResult, JobReport, MetricResult, OutputFidelity, Quality, Size, Speedup, Verdict
from octavo._layer_report import LayerSummary
from octavo._tables import bytes_text

NOTHING = "–"


class Outcome(Protocol):
    """What a report has in common with what it tells of the job before it."""

    @property
    def method(self) -> str:
        """Of quantization."""

    @property
    def verdict(self) -> Verdict:
        """In a word."""

    @property
    def quality(self) -> Quality:
        """Float against int8."""

    @property
    def latency(self) -> list[BenchmarkResult]:
        """The first is shown."""

    @property
    def size(self) -> Size:
        """On disk."""


def report_rows(report: JobReport) -> list[list[str]]:
    """The report's figures: what, float, int8, change."""
    rows = [["", "float", "int8", "change"]]
    metric = report.quality.metric
    if metric is not None:
        label = f"{metric.name} on {report.quality.samples} samples"
        rows.append([label, metric_text(metric, metric.float_value), metric_text(metric, metric.int8_value)])
        rows[-1].append(drop_text(metric) + _target_text(metric))
    for fidelity in report.quality.fidelity:
        of_output = f" of {fidelity.output}" if len(report.quality.fidelity) > 1 else ""
        if fidelity.agreement is not None:
            what = "same values" if fidelity.discrete else "same arg max"
            rows.append([f"{what}{of_output}", "", f"{fidelity.agreement:.2%}", ""])
        if not fidelity.discrete:
            rows.append([f"SQNR{of_output}", "", sqnr_text(fidelity.sqnr_db), ""])
    size = report.size
    change = f"{size.ratio:.2f}× smaller" if size.ratio >= 1 else f"{1 / size.ratio:.2f}× larger"
    rows.append(["file", bytes_text(size.float_bytes), bytes_text(size.int8_bytes), change])
    for result in report.latency:
        threads = "1 thread" if result.threads == 1 else f"{result.threads} threads"
        label = f"p50, batch {result.batch_size}, {threads}"
        doubt = "" if result.significant else ", no significant difference"
        doubt += ", noisy" if result.noisy else ""
        rows.append(
            [label, p50_text(result, result.baseline), p50_text(result, result.int8), speedup_text(result) + doubt]
        )
    return rows


def outcome_rows(outcomes: Sequence[Outcome]) -> list[list[str]]:
    """The same figures of several jobs, a row a figure and a column a job; rows that nobody has are left out."""
    rows = [
        ["method", *(each.method for each in outcomes)],
        ["verdict", *(each.verdict.word for each in outcomes)],
        [_metric_label(outcomes), *(_metric_change(each.quality.metric) for each in outcomes)],
        ["change", *(_drop(each.quality.metric) for each in outcomes)],
        ["same arg max", *(agreement_text(each.quality.fidelity) for each in outcomes)],
        ["SQNR", *(worst_sqnr_text(each.quality.fidelity) for each in outcomes)],
        ["file", *(_size_change(each) for each in outcomes)],
        [
            "fastest float",
            *(candidate_name(each.latency[0].baseline) if each.latency else NOTHING for each in outcomes),
        ],
        ["fastest int8", *(candidate_name(each.latency[0].int8) if each.latency else NOTHING for each in outcomes)],
        ["p50", *(_p50_change(each.latency) for each in outcomes)],
        ["speedup (95 % CI)", *(_speedup(each.latency) for each in outcomes)],
    ]
    return [row for row in rows if set(row[1:]) != {NOTHING}]


def layers_by_error(layers: Sequence[LayerSummary]) -> list[LayerSummary]:
    """The layers whose output was compared with the float model's, the worst first."""
    compared = {layer.name: layer.error.sqnr_db for layer in layers if layer.error and layer.error.sqnr_db is not None}
    return sorted((layer for layer in layers if layer.name in compared), key=lambda layer: compared[layer.name])


def sqnr_text(sqnr_db: float | None) -> str:
    """An SQNR for people; null stands for two tensors that are equal."""
    return "identical" if sqnr_db is None else f"{sqnr_db:.1f} dB"


def drop_text(metric: MetricResult) -> str:
    """The drop as a signed change of accuracy: a drop of 0.01 of a share is −1.00 pp."""
    if _is_share(metric):
        points = round(-100 * metric.drop, 2) + 0.0  # adding 0.0 turns −0.0 into 0.0
        return f"{points:+.2f} pp".replace("-", "−")
    return f"{metric.drop:+.4g}".replace("-", "−")


def metric_text(metric: MetricResult, value: float) -> str:
    """A share in percent, any other metric as it is."""
    return f"{value:.2%}" if _is_share(metric) else f"{value:.4g}"


def _target_text(metric: MetricResult) -> str:
    if metric.max_drop is None or metric.met is None:
        return ""
    allowed = f"{100 * metric.max_drop:.2f} pp" if _is_share(metric) else f"{metric.max_drop:.4g}"
    return f" (target {allowed} {'met' if metric.met else 'not met'})"


def _is_share(metric: MetricResult) -> bool:
    return metric.name.startswith("top")


def p50_text(result: BenchmarkResult, name: str) -> str:
    """Of one candidate, where it was measured."""
    stats = result.candidate(name)
    return NOTHING if stats is None else f"{stats.p50_ms:.3g} ms"


def speedup_text(result: BenchmarkResult | Speedup) -> str:
    """With its interval."""
    low, high = result.speedup_ci95
    return f"{result.speedup:.2f}× ({low:.2f}–{high:.2f})"


# --- a cell of several outcomes ---


def _metric_label(outcomes: Sequence[Outcome]) -> str:
    names = {each.quality.metric.name for each in outcomes if each.quality.metric is not None}
    return names.pop() if len(names) == 1 else "accuracy"


def _metric_change(metric: MetricResult | None) -> str:
    if metric is None:
        return NOTHING
    return f"{metric_text(metric, metric.float_value)} → {metric_text(metric, metric.int8_value)}"


def _drop(metric: MetricResult | None) -> str:
    return NOTHING if metric is None else drop_text(metric)


def agreement_text(fidelity: Sequence[OutputFidelity]) -> str:
    """Of the output that agrees least."""
    found = [each.agreement for each in fidelity if each.agreement is not None]
    return f"{min(found):.2%}" if found else NOTHING


def worst_sqnr_text(fidelity: Sequence[OutputFidelity]) -> str:
    """Of the output that is furthest from float."""
    weighed = [each for each in fidelity if not each.discrete]
    if not weighed:
        return NOTHING
    return sqnr_text(min((each.sqnr_db for each in weighed if each.sqnr_db is not None), default=None))


def _speedup(latency: Sequence[BenchmarkResult]) -> str:
    return f"{speedup_text(latency[0])}{', noisy' if latency[0].noisy else ''}" if latency else NOTHING


def _size_change(outcome: Outcome) -> str:
    size = outcome.size
    return f"{bytes_text(size.float_bytes)} → {bytes_text(size.int8_bytes)} ({size.ratio:.2f}×)"


def _p50_change(latency: Sequence[BenchmarkResult]) -> str:
    return (
        f"{p50_text(latency[0], latency[0].baseline)} → {p50_text(latency[0], latency[0].int8)}" if latency else NOTHING
    )
