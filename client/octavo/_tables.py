"""Figures as plain text: one report, or several side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from octavo._job_report import BenchmarkResult, JobReport, MetricResult


def aligned(rows: Sequence[Sequence[str]], *, right: Iterable[int] = ()) -> str:
    """Rows as lines with columns of one width, two spaces apart; the columns in `right` are set flush right."""
    if not rows:
        return ""
    flush_right = set(right)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if column in flush_right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def bytes_text(size_bytes: float) -> str:
    """A size for people, such as `12.3 kB` (1 kB is 1000 bytes)."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size_bytes) < 1000:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.3g} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.3g} TB"


def report_rows(report: JobReport) -> list[list[str]]:
    """The report's figures: what, float, int8, change."""
    rows = [["", "float", "int8", "change"]]
    metric = report.quality.metric
    if metric is not None:
        label = f"{metric.name} on {report.quality.samples} samples"
        rows.append([label, _metric_text(metric, metric.float_value), _metric_text(metric, metric.int8_value)])
        rows[-1].append(_drop_text(metric) + _target_text(metric))
    for fidelity in report.quality.fidelity:
        of_output = f" of {fidelity.output}" if len(report.quality.fidelity) > 1 else ""
        if fidelity.agreement is not None:
            rows.append([f"same arg max{of_output}", "", f"{fidelity.agreement:.2%}", ""])
        sqnr = "identical" if fidelity.sqnr_db is None else f"{fidelity.sqnr_db:.1f} dB"
        rows.append([f"SQNR{of_output}", "", sqnr, ""])
    size = report.size
    change = f"{size.ratio:.2f}× smaller" if size.ratio >= 1 else f"{1 / size.ratio:.2f}× larger"
    rows.append(["file", bytes_text(size.float_bytes), bytes_text(size.int8_bytes), change])
    for result in report.latency:
        threads = "1 thread" if result.threads == 1 else f"{result.threads} threads"
        label = f"p50, batch {result.batch_size}, {threads}"
        doubt = "" if result.significant else ", no clear difference"
        rows.append([label, _p50(result, result.baseline), _p50(result, "int8"), _speedup_text(result) + doubt])
    return rows


def report_table(report: JobReport) -> str:
    """One report: the verdict, the figures, the warnings."""
    lines = [f"{report.method}: {report.verdict.sentence}", "", aligned(report_rows(report), right=(1, 2))]
    if report.training is not None and report.training.static_metric is not None:
        static = report.training.static_metric
        lines.append(f"Static on the same data: {_metric_text(static, static.int8_value)} {static.name}")
    for warning in report.warnings:
        lines.append(f"Warning: {warning.message} [{warning.code}]")
        if warning.hint:
            lines.append(f"  Hint: {warning.hint}")
    return "\n".join(lines)


def compare(reports: Iterable[JobReport]) -> str:
    """Several reports as one plain-text table, a row each: accuracy, size, latency, verdict."""
    rows = [["method", "accuracy float → int8", "drop", "size", "p50 float → int8", "speedup (95 % CI)", "verdict"]]
    for report in reports:
        metric, result = report.quality.metric, (report.latency[0] if report.latency else None)
        size = report.size
        rows.append(
            [
                report.method,
                "–"
                if metric is None
                else f"{_metric_text(metric, metric.float_value)} → {_metric_text(metric, metric.int8_value)}",
                "–" if metric is None else _drop_text(metric),
                f"{bytes_text(size.float_bytes)} → {bytes_text(size.int8_bytes)} ({size.ratio:.2f}×)",
                "–" if result is None else f"{_p50(result, result.baseline)} → {_p50(result, 'int8')}",
                "–" if result is None else _speedup_text(result),
                report.verdict.word,
            ]
        )
    return aligned(rows)


def _metric_text(metric: MetricResult, value: float) -> str:
    return f"{value:.2%}" if _is_share(metric) else f"{value:.4g}"


def _drop_text(metric: MetricResult) -> str:
    """The drop as a signed change of accuracy: a drop of 0.01 of a share is −1.00 pp."""
    if _is_share(metric):
        points = round(-100 * metric.drop, 2) + 0.0  # adding 0.0 turns −0.0 into 0.0
        return f"{points:+.2f} pp".replace("-", "−")
    return f"{metric.drop:+.4g}".replace("-", "−")


def _target_text(metric: MetricResult) -> str:
    if metric.max_drop is None or metric.met is None:
        return ""
    allowed = f"{100 * metric.max_drop:.2f} pp" if _is_share(metric) else f"{metric.max_drop:.4g}"
    return f" (target {allowed} {'met' if metric.met else 'not met'})"


def _is_share(metric: MetricResult) -> bool:
    return metric.name.startswith("top")


def _p50(result: BenchmarkResult, name: str) -> str:
    stats = result.candidate(name)
    return "–" if stats is None else f"{stats.p50_ms:.3g} ms"


def _speedup_text(result: BenchmarkResult) -> str:
    low, high = result.speedup_ci95
    return f"{result.speedup:.2f}× ({low:.2f}–{high:.2f})"
