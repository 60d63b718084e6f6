"""The report of a benchmark, as people meet it: the measurements, with their text and their HTML."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from octavo._benchmark_report import BenchmarkReport, FormResult, FormSpeedup
from octavo._candidate_names import candidate_name
from octavo._figures import NOTHING, agreement_text, worst_sqnr_text
from octavo._html import CARD, part_html, warnings_html
from octavo._printable import printable
from octavo._report_parts import Part
from octavo._report_text import part_text, warnings_text, wrapped
from octavo._tables import bytes_text

_FEW = 5


class Benchmark(BenchmarkReport):
    """The answer to a benchmark; in a notebook it shows itself."""

    @property
    def forms(self) -> dict[str, FormResult]:
        """Every candidate in every runtime, by its name, such as `resnet18/openvino`."""
        return {form.name: form for candidate in self.candidates for form in candidate.forms}

    def table(self, width: int = 100) -> str:
        """The report as plain text: the conclusion, the candidates, the latencies, what to note."""
        parts = [
            wrapped(self.conclusion, width),
            *(part_text(part, width) for part in _parts(self)),
            warnings_text(self.warnings, width, "What to note"),
        ]
        return printable("\n\n".join(part for part in parts if part))

    def _repr_html_(self) -> str:
        parts = "".join(part_html(part) for part in _parts(self))
        return (
            f'<div style="{CARD}"><b>benchmark</b><p>{escape(self.conclusion)}</p>{parts}'
            f"{warnings_html(self.warnings, 'What to note')}</div>"
        )


def _parts(report: Benchmark) -> Iterator[Part]:
    yield _candidates(report)
    yield _latency(report)
    if any(form.load is not None for form in report.forms.values()):
        yield _loads(report)


def _candidates(report: Benchmark) -> Part:
    first = report.latency[0]
    speedups = {each.name: each for each in first.speedups}
    metric = next((form.quality.metric for form in report.forms.values() if form.quality), None)
    near = "same arg max" if metric is None else metric.name
    rows = [["form", "size", near, "SQNR", "in int8", "speedup (95 % CI)"]]
    for name, form in report.forms.items():
        is_baseline = name == first.baseline
        rows.append(
            [
                candidate_name(name),
                NOTHING if form.size_bytes is None else bytes_text(form.size_bytes),
                *_quality(form),
                _operators(form),
                "baseline" if is_baseline else _speedup(speedups.get(name)),
            ]
        )
    told = [
        f"{candidate_name(name)}: {', '.join(form.labels)}. {form.note or ''}".rstrip()
        for name, form in report.forms.items()
        if form.labels or form.note
    ]
    held = f"held against {candidate_name(report.reference)} on {report.samples} {report.data} samples"
    return Part(f"Candidates, {held}", rows, told, range(1, 6))


def _loads(report: Benchmark) -> Part:
    rows = [["form", "cold", "warm", "memory"]]
    for name, form in report.forms.items():
        if form.load is not None:
            times = [f"{value:.3g} ms" for value in (form.load.cold_ms, form.load.warm_ms)]
            rows.append(
                [
                    candidate_name(name),
                    *times,
                    bytes_text(form.load.resident_bytes) if form.load.resident_bytes else NOTHING,
                ]
            )
    return Part("From opening the file to the first answer", rows, right=range(1, 4))


def _speedup(found: FormSpeedup | None) -> str:
    if found is None:
        return NOTHING
    low, high = found.speedup_ci95
    return f"{found.speedup:.2f}× ({low:.2f}–{high:.2f})"


def _quality(form: FormResult) -> list[str]:
    """The metric or else the agreement, and SQNR."""
    if form.quality is None:
        return [NOTHING] * 2
    metric = form.quality.metric
    if metric is None:
        near = agreement_text(form.quality.fidelity)
    else:
        near = f"{metric.value:.2%}" if metric.name.startswith("top") else f"{metric.value:.4g}"
    return [near, worst_sqnr_text(form.quality.fidelity)]


def _operators(form: FormResult) -> str:
    total = form.int8_operators + form.float_operators
    return f"{form.int8_operators} of {total}" if total else NOTHING


def _latency(report: Benchmark) -> Part:
    """Every form at the first combinations, the fastest first."""
    shown = report.latency[:_FEW]
    at = [f"batch {each.batch_size}, {each.threads} thread{'' if each.threads == 1 else 's'}" for each in shown]
    rows = [["p50", *at]]
    for stats in sorted(shown[0].candidates, key=lambda each: each.p50_ms):
        found = (result.candidate(stats.name) for result in shown)
        medians = [NOTHING if each is None else f"{each.p50_ms:.3g} ms" for each in found]
        rows.append([candidate_name(stats.name), *medians])
    told = [f"{place}: {each.note}" for place, each in zip(at, shown, strict=True) if each.note]
    return Part("Latency of each form", rows, told, range(1, len(shown) + 1))
