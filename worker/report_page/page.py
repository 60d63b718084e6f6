"""The whole page: its head, its contents, its sections in order."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from importlib.resources import files

from shared.benchmark_report import BenchmarkReport
from shared.job_report import JobReport
from worker.candidate_names import candidate_name
from worker.report_page.layout import Section, name
from worker.report_page.markup import Html, element, join, shorten
from worker.report_page.sections import benchmark
from worker.report_page.sections.advice import advice
from worker.report_page.sections.artifacts import artifacts
from worker.report_page.sections.calibration import calibration
from worker.report_page.sections.graphs import graphs
from worker.report_page.sections.histograms import histograms
from worker.report_page.sections.latency import latency
from worker.report_page.sections.layer_times import layer_times
from worker.report_page.sections.layers import layers
from worker.report_page.sections.provenance import provenance
from worker.report_page.sections.quality import quality, size
from worker.report_page.sections.sensitivity import sensitivity
from worker.report_page.sections.structure import structure
from worker.report_page.sections.training import training
from worker.report_page.sections.verdict import verdict

# Read when the module is: a job that runs locked down need not.
_STYLE = files(__package__).joinpath("page.css").read_text("utf-8")
_SCRIPT = files(__package__).joinpath("page.js").read_text("utf-8")

_MAX_TITLE = 300
_METHODS = {
    "dynamic": "Dynamic quantization", "static": "Static quantization", "qat": "Quantization-aware training",
    "benchmark": "Benchmark",
}  # fmt: skip


MAX_BYTES = 2_000_000
_ROOMS = (500_000, 250_000, 120_000, 60_000, 30_000, 15_000)
"""Bytes that each list of the page may take. There are some twenty that grow with the model: at the least room no model
whatever makes a page of more than MAX_BYTES."""


def render_page(report: JobReport | BenchmarkReport, *, job_id: str) -> str:
    """The report as one HTML page that needs nothing else: no network, and no script but for sorting and searching.

    It has less than MAX_BYTES: of a model too large for it each list shows as much as all have room for, and says what
    it leaves out.
    """
    for room in _ROOMS:
        page = _render(report, job_id, room)
        if len(page.encode()) < MAX_BYTES:
            break
    return page


def _render(report: JobReport | BenchmarkReport, job_id: str, room: int) -> str:
    if isinstance(report, BenchmarkReport):
        sections, absent = _benchmark_sections(report, job_id, room), join(None)
        outcome = shorten(candidate_name(report.fastest), _MAX_TITLE)
    else:
        sections, titles = _sections(report, job_id, room)
        absent, outcome = _absent(titles, report), report.verdict.word.replace("_", " ")
    title = shorten(f"{report.spec.get('name') or _METHODS[report.method]}", _MAX_TITLE)
    head = element(
        "head",
        element("meta", charset="utf-8"),
        # Only this very style and script: were a name of a layer ever taken for markup, it still could do nothing.
        element("meta", http_equiv="Content-Security-Policy", content=_policy()),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{title}: {outcome} – Octavo"),
        element("style", Html(_STYLE)),
    )
    header = element(
        "header",
        element("p", f"Octavo report · {_METHODS[report.method]} · ", name(job_id), class_="eyebrow"),
        element("h1", title),
    )
    contents = element("ol", [element("li", element("a", each.title, href=f"#{each.anchor}")) for each in sections])
    main = element("main", header, [each.render() for each in sections], absent, id="main", tabindex=-1)
    body = element(
        "body",
        element("a", "Skip to the report", href="#main", class_="skip"),
        element("nav", element("p", "Contents"), contents, aria_label="Contents"),
        main,
        element("script", Html(_SCRIPT)),
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def _sections(report: JobReport, job_id: str, room: int) -> tuple[list[Section], list[str]]:
    """What there is to tell, in order, and the titles of what there is not."""
    asked: list[tuple[str, Section | None]] = [
        ("verdict", verdict(report)),
        ("artifacts", artifacts(report)),
        ("what to do", advice(report, job_id, room)),
        ("quality", quality(report, room)),
        ("latency", latency(report, room)),
        ("time by layer", layer_times(report, room)),
        ("size", size(report)),
        ("layers", layers(report, room)),
        ("sensitivity", sensitivity(report, room)),
        ("quant boundaries and fusions", structure(report, room)),
        ("histograms", histograms(report, room)),
        ("calibration, ranges, recovery and kernels", calibration(report, room)),
        ("training", training(report, room)),
        ("FX graph", graphs(report, room)),
        ("provenance", provenance(report, room)),
    ]
    return [section for _, section in asked if section], [title for title, section in asked if section is None]


def _benchmark_sections(report: BenchmarkReport, job_id: str, room: int) -> list[Section]:
    return [
        benchmark.conclusion(report),
        benchmark.candidates(report, room),
        benchmark.comparisons(report, room),
        benchmark.notes(report, job_id, room),
        provenance(report, room),
    ]


def _absent(titles: list[str], report: JobReport) -> Html:
    if not titles:
        return join(None)
    why = f"because it was not asked for or {report.method} quantization has none"
    return element("p", f"Not in this report, {why}: {'; '.join(titles)}.", class_="note")


def _policy() -> str:
    return (
        f"default-src 'none'; style-src '{_digest(_STYLE)}'; script-src '{_digest(_SCRIPT)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return f"sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
