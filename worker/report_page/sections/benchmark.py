"""A benchmark: the conclusion, the candidates in all their forms, and their latency."""

from __future__ import annotations

from shared.benchmark_report import BenchmarkReport, CandidateResult, FormLabel, FormResult
from worker.candidate_names import FORM_NAMES, candidate_name, candidate_of
from worker.closeness import worst_output
from worker.report_page.figures import (
    NONE,
    byte_size,
    decibels,
    interval,
    milliseconds,
    percent,
    plural,
    times,
    whole,
)
from worker.report_page.layout import Column, Section, badge, name, note, table
from worker.report_page.markup import Content, Html, element, join, shorten
from worker.report_page.sections.advice import listed_warnings
from worker.report_page.sections.latency import MAX_NOTE, latency_drawings, latency_of_each, speedups_of_each
from worker.report_page.sections.verdict import DATA_NAMES, METRIC_NAMES, figure, metric_value

_MAX_SENTENCE = 2000
_MAX_NOTE = 600
_LABELS: dict[FormLabel, tuple[str, str]] = {
    "missing": ("missing", "flag"),
    "wrong": ("wrong", "flag"),
    "differs": ("differs", "warn"),
}


def conclusion(report: BenchmarkReport) -> Section:
    """The sentence, and the figures of the fastest."""
    fastest = _forms(report)[report.fastest]
    mark, word, kind = "✓", "Fastest", "good"
    if "differs" in fastest.labels:
        mark, word, kind = "≠", "Fastest, and differs", "fair"
    elif not report.latency[0].significant:
        mark, word, kind = "≈", "No clear difference", "fair"
    body = element(
        "div",
        element(
            "p", element("span", mark, aria_hidden="true"), " ", f"{word}: ", _shown(report.fastest), class_="word"
        ),
        element("p", shorten(report.conclusion, _MAX_SENTENCE), class_="sentence"),
        element(
            "dl", _latency(report), _quality(report, fastest), _size(fastest), _measured_on(report), class_="figures"
        ),
        class_=f"verdict {kind}",
    )
    return Section("verdict", "Conclusion", body)


def candidates(report: BenchmarkReport, room: int) -> Section:
    """One row a form, with quality against the reference, load and size; what is wrong with it below."""
    metric = next((each.quality.metric for each in _forms(report).values() if each.quality), None)
    columns = [
        Column("Form"),
        Column("Size", "number", "Of the file that is run"),
        Column("Metric" if metric is None else METRIC_NAMES[metric.name], "number"),
        Column("SQNR", "number", "Of the output that is furthest from the reference"),
        Column("Agreement", "number", "Of the output that is furthest from the reference"),
        Column("Operators in int8", "number", "Of those with weights, as far as the runtime tells"),
        Column("Cold start", "number", "Opened and called once, the first time in a process"),
        Column("Warm start", "number", "The second time"),
        Column("Holds", "number", "Resident memory that it adds once it has answered"),
        Column("At most", "number", "Resident memory that it takes while it is opened and answers"),
        Column("Speedup", "number"),
        Column("95 % interval", "number"),
    ]
    first = report.latency[0]
    speedups = {each.name: each for each in first.speedups}
    rows: list[list[Content]] = []
    for candidate in report.candidates:
        for form in candidate.forms:
            speedup = speedups.get(form.name)
            rows.append(
                [
                    _named(form, is_reference=form.name == report.reference),
                    NONE if form.size_bytes is None else byte_size(form.size_bytes),
                    *_quality_cells(form),
                    _operators(form),
                    *_load_cells(form),
                    NONE if speedup is None else times(speedup.speedup),
                    NONE if speedup is None else interval(speedup.speedup_ci95),
                ]
            )
    notes = [
        element("p", name(form.name), ": ", shorten(form.note, _MAX_NOTE))
        for form in _forms(report).values()
        if form.note
    ]
    told = note(
        f"Outputs are held against those of {candidate_name(report.reference)}, on "
        f"{plural(report.samples, 'sample')} of {DATA_NAMES[report.data]}. The speedup is against "
        f"{candidate_name(first.baseline)} at batch {first.batch_size}, {plural(first.threads, 'thread')}."
    )
    written = table("Candidates in each runtime", columns, rows, find="form", room=room, noun="form")
    return Section("candidates", "Candidates", join([_sources(report.candidates), written, notes, told]))


def comparisons(report: BenchmarkReport, room: int) -> Section:
    """Every batch size and thread count, and how the samples are spread."""
    told = note(
        "The candidates took turns in one process. The speedup is the p50 of the first candidate's fastest form over "
        "that of another; an interval that holds 1 means that no significant difference was shown. “At most” is "
        "MLPerf's bound: with 99 % confidence the percentile is not above it."
    )
    columns = [
        Column("Batch size", "number"),
        Column("Threads", "number"),
        Column("Fastest"),
        Column("First candidate's fastest"),
        Column("Rounds", "number"),
        Column("Cores"),
        Column("Conclusion"),
        Column("To note"),
    ]
    rows: list[list[Content]] = [
        [
            whole(each.batch_size),
            whole(each.threads),
            candidate_name(each.fastest),
            candidate_name(each.baseline),
            whole(each.rounds),
            ", ".join(map(str, each.cores)) or NONE,
            shorten(each.conclusion, MAX_NOTE),
            shorten(each.note or NONE, MAX_NOTE),
        ]
        for each in report.latency
    ]
    compared = table("Comparison", columns, rows, room=room, noun="combination")
    of_each = speedups_of_each("Speedup of each form", report.latency, room)
    drawn = element("div", latency_drawings(report.latency, room), class_="plots")
    parts = [told, compared, of_each, drawn, latency_of_each(report.latency, room)]
    return Section("latency", "Latency", join(parts))


def notes(report: BenchmarkReport, job_id: str, room: int) -> Section:
    """The warnings."""
    return Section("advice", "What to note", listed_warnings(report.warnings, job_id, report.spec, room))


def _forms(report: BenchmarkReport) -> dict[str, FormResult]:
    return {form.name: form for candidate in report.candidates for form in candidate.forms}


def _shown(form: str) -> str:
    return shorten(candidate_name(form), 120)


def _sources(candidates: list[CandidateResult]) -> Html:
    columns = [Column("Candidate"), Column("Is"), Column("File", "number")]
    rows: list[list[Content]] = [[each.name, name(each.source), byte_size(each.size_bytes)] for each in candidates]
    return table("What was given", columns, rows)


def _named(form: FormResult, *, is_reference: bool) -> Html:
    badges = [badge("reference", "yes")] if is_reference else []
    badges += [badge(*_LABELS[label]) for label in form.labels]
    shown = [shorten(candidate_of(form.name), 60), " ", element("small", FORM_NAMES[form.kind])]
    return join([shown, [[" ", each] for each in badges]])


def _quality_cells(form: FormResult) -> list[Content]:
    if form.quality is None:
        return [NONE] * 3
    metric, worst = form.quality.metric, worst_output(form.quality.fidelity)
    value = NONE if metric is None else metric_value(metric.name, metric.value)
    if worst is None:
        return [value, NONE, NONE]
    return [value, NONE if worst.discrete else decibels(worst.sqnr_db), percent(worst.agreement, 2)]


def _operators(form: FormResult) -> str:
    total = form.int8_operators + form.float_operators
    return f"{whole(form.int8_operators)} of {whole(total)}" if total else NONE


def _load_cells(form: FormResult) -> list[Content]:
    load = form.load
    if load is None:
        return [NONE] * 4
    peak = NONE if load.peak_bytes is None else byte_size(load.peak_bytes)
    return [
        milliseconds(load.cold_ms),
        milliseconds(load.warm_ms),
        byte_size(load.resident_bytes) if load.resident_bytes else NONE,
        peak,
    ]


def _latency(report: BenchmarkReport) -> Html:
    first = report.latency[0]
    p50 = {each.name: each.p50_ms for each in first.candidates}
    at = f"at batch {first.batch_size}, {plural(first.threads, 'thread')}{', noisy' if first.noisy else ''}"
    beside = None
    if first.fastest != first.baseline:
        beside = f"{milliseconds(p50.get(first.baseline))}: {_shown(first.baseline)}"
    return figure("Latency, p50", milliseconds(p50.get(first.fastest)), at, beside)


def _quality(report: BenchmarkReport, fastest: FormResult) -> Html:
    if fastest.name == report.reference or fastest.quality is None:
        return figure("Its answers", "the reference", "what the others are held against")
    metric, worst = fastest.quality.metric, worst_output(fastest.quality.fidelity)
    agreement = None if worst is None or worst.agreement is None else f"{percent(worst.agreement)} agreement"
    distance = NONE if worst is None or worst.discrete else decibels(worst.sqnr_db)
    if metric is None:
        return figure("Against the reference (SQNR)", distance, agreement, "No labels: no accuracy")
    return figure(
        METRIC_NAMES[metric.name],
        metric_value(metric.name, metric.value),
        f"reference {metric_value(metric.name, metric.reference)}",
        ", ".join(filter(None, [f"SQNR {distance}", agreement])),
    )


def _size(fastest: FormResult) -> Html:
    return figure("Size", NONE if fastest.size_bytes is None else byte_size(fastest.size_bytes))


def _measured_on(report: BenchmarkReport) -> Html:
    shaky = ": trust it little" if report.data == "synthetic" else ""
    return figure(
        "Measured on",
        whole(report.samples),
        f"samples of {DATA_NAMES[report.data]}{shaky}",
        report.environment.cpu_model,
    )
