"""What to do: each warning with its cause, its evidence and the change that is expected to help; and what one did."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from shared.job_report import Before, JobReport, ReportWarning, Suggestion
from worker.closeness import worst_output
from worker.report_page.figures import byte_size, decibels, milliseconds, signed, times
from worker.report_page.layout import Column, Section, as_json, fitting, left_out, name, note, subheading, table
from worker.report_page.markup import Content, Html, element, join, shorten
from worker.report_page.sections.verdict import METRIC_NAMES, metric_value, verdict_title

_MAX_TEXT = 1000
_NEEDS = {"static": ("calibration", "images.npz"), "qat": ("training", "train.npz")}
"""The dataset that a method cannot do without, and a name to stand for its file."""


def advice(report: JobReport, job_id: str, room: int) -> Section:
    """The warnings, the most telling first, and the effect of the change that made this job of another."""
    listed = listed_warnings(report.warnings, job_id, report.spec, room)
    again = "The machine was noisy while it was measured, see Latency: measure again before you rely on its figures."
    noisy = element("p", again) if any(each.noisy for each in report.latency) else ""
    return Section("advice", "What to do", join([listed, noisy, _before(report, report.before, room)]))


def listed_warnings(warnings: Sequence[ReportWarning], job_id: str, spec: dict[str, Any], room: int) -> Html:
    """One item a warning, counted from zero, as the API and the command do."""
    every = [_warning(number, each, job_id, spec, room // 4) for number, each in enumerate(warnings)]
    items = fitting(every, room)
    listed = element("ol", items, class_="advice") if every else element("p", "Nothing: no warning was raised.")
    return join([listed, left_out(len(every), len(items), "warning")])


def _warning(number: int, warning: ReportWarning, job_id: str, spec: dict[str, Any], room: int) -> Html:
    suggestion = warning.suggestion
    layer = () if warning.layer is None else (" in ", name(warning.layer))
    said: list[Content] = [
        element(
            "h3", element("span", f"[{number}] ", class_="count"), warning.code.replace("_", " ").capitalize(), layer
        ),
        element("p", _prose(warning.message)),
    ]
    if warning.evidence is not None:
        said.append(element("p", element("b", "Evidence: "), _prose(warning.evidence)))
    if warning.hint is not None:
        said.append(element("p", element("b", "Hint: "), _prose(warning.hint)))
    if suggestion is not None:
        said += [
            element("p", element("b", "Suggestion: "), shorten(suggestion.title, _MAX_TEXT)),
            None
            if suggestion.expected is None
            else element("p", element("b", "Expected: "), shorten(suggestion.expected, _MAX_TEXT)),
            element("p", "Apply it:", class_="label"),
            element("pre", _command(number, suggestion, job_id, spec), class_="command", tabindex=0),
            element("p", "which changes the spec by:", class_="label"),
            as_json(suggestion.patch, room),
        ]
    return element("li", said, class_="act" if suggestion else None)


def _prose(text: str) -> list[Content]:
    """What stands between backticks as code."""
    text = shorten(text, _MAX_TEXT)
    *pairs, last = text.split("`")
    if len(pairs) % 2:  # one without another
        return [text]
    return [*(element("code", part) if index % 2 else part for index, part in enumerate(pairs)), last]


def _command(number: int, suggestion: Suggestion, job_id: str, spec: dict[str, Any]) -> str:
    """What applies the suggestion; data that the new method needs and the job lacks has a file name to fill in."""
    role, file = _NEEDS.get(str(suggestion.patch.get("method")), ("", ""))
    missing = role and not (spec | suggestion.patch).get(role)
    data = f" --{role} {file}" if missing else ""
    return f"octavo quantize --from {shlex.quote(job_id)} --apply {number}{data} --wait"


def _before(report: JobReport, before: Before | None, room: int) -> Content:
    if before is None:
        return None
    columns = [Column("Figure"), Column("Before", "number"), Column("After", "number"), Column("Change", "number")]
    return join(
        [
            subheading("Before and after"),
            note("This job was made from ", name(before.job), f" ({before.method}) by these changes of its spec:"),
            as_json(before.changes, room),
            table("Before and after", columns, [*_quality_rows(report, before), *_other_rows(report, before)]),
        ]
    )


def _quality_rows(report: JobReport, before: Before) -> list[list[Content]]:
    rows: list[list[Content]] = [
        ["Verdict", *(verdict_title(each) for each in (before.verdict.word, report.verdict.word)), None]
    ]
    old, new = before.quality.metric, report.quality.metric
    if old is not None and new is not None and old.name == new.name:
        change = new.int8_value - old.int8_value
        shown = signed(change, 4) if new.name == "mse" else f"{signed(100 * change, 2)} points"
        cells = [metric_value(each.name, each.int8_value) for each in (old, new)]
        rows.append([f"{METRIC_NAMES[new.name]}, int8", *cells, shown])
    worst_old, worst_new = worst_output(before.quality.fidelity), worst_output(report.quality.fidelity)
    if worst_old is not None and worst_new is not None and not worst_new.discrete:
        both = (worst_old.sqnr_db, worst_new.sqnr_db)
        gain = None if None in both else f"{signed((both[1] or 0.0) - (both[0] or 0.0))} dB"
        rows.append(["SQNR, worst output", *map(decibels, both), gain])
    return rows


def _other_rows(report: JobReport, before: Before) -> list[list[Content]]:
    rows: list[list[Content]] = []
    if before.latency and report.latency:
        old, new = before.latency[0], report.latency[0]
        p50 = [{each.name: each.p50_ms for each in one.candidates}.get("int8") for one in (old, new)]
        rows.append(["int8 latency, p50", *map(milliseconds, p50), None])
        rows.append(["Speedup", times(old.speedup), times(new.speedup), signed(new.speedup - old.speedup, 2)])
    change = report.size.int8_bytes - before.size.int8_bytes
    share = signed(100 * change / before.size.int8_bytes) if before.size.int8_bytes else None
    sizes = (byte_size(before.size.int8_bytes), byte_size(report.size.int8_bytes))
    rows.append(["int8 size", *sizes, None if share is None else f"{share} %"])
    methods = (before.method, report.method)
    if methods[0] != methods[1]:
        rows.append(["Method", *methods, None])
    return rows
