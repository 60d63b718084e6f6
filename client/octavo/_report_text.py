"""A report as plain text: the verdict, what to do, the figures, and what stands behind them."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from typing import Any

from octavo._figures import outcome_rows, report_rows
from octavo._job_report import Before, JobReport, ReportWarning
from octavo._report_parts import Part, artifacts_part, report_parts
from octavo._tables import aligned

_LEAST_NAME = 16
_SAMPLE_FILES = {"calibration": "images.npz", "training": "train.npz"}
_NEEDS = {"static": "calibration", "qat": "training"}


def report_text(report: JobReport, *, width: int, job_id: str | None = None) -> str:
    """The whole in lines of at most so many characters, commands and tables apart.

    With a job's id, what to do is a command to type; without, it is a line of Python.
    """
    parts = [
        wrapped(f"{report.method}, {report.verdict.word}: {report.verdict.sentence}", width),
        part_text(artifacts_part(report), width) if report.artifacts else "",
        _advice(report, width, job_id),
        aligned(report_rows(report), right=(1, 2)),
        _doubts(report, width),
        "" if report.before is None else _before(report, report.before, width),
        "" if report.first_wrong is None else wrapped(report.first_wrong.told, width),
        *(part_text(part, width) for part in report_parts(report)),
    ]
    return "\n\n".join(part for part in parts if part)


def what_to_type(report: JobReport, number: int, job_id: str | None) -> str:
    """What applies the suggestion of this warning; data that the new method lacks has a file name to fill in."""
    suggestion = report.warnings[number].suggestion
    patch = {} if suggestion is None else suggestion.patch
    role = _NEEDS.get(str(patch.get("method")), "")
    missing = bool(role) and not {**report.spec, **patch}.get(role)
    if job_id is None:
        return f"job.retry_with({number}{f', {role}=…' if missing else ''})"
    data = f" --{role} {_SAMPLE_FILES[role]}" if missing else ""
    return f"octavo quantize --from {job_id} --apply {number}{data} --wait"


def changes_text(changes: dict[str, Any]) -> str:
    """A patch in one line, such as `seed 3, overrides +1`."""
    words = []
    for name, value in changes.items():
        if name == "overrides" and isinstance(value, list):
            words.append(f"overrides +{len(value)}")
        elif isinstance(value, dict):
            words += [f"{name}.{inner}" for inner in changes_text(value).split(", ")]
        else:
            words.append(f"{name} {value if isinstance(value, str) else json.dumps(value)}")
    return ", ".join(words)


def _doubts(report: JobReport, width: int) -> str:
    """What made the measurements noisy, a line each."""
    lines = [
        f"Noisy at batch {each.batch_size}, {each.threads} thread{'' if each.threads == 1 else 's'}: {doubt.told}"
        for each in report.latency
        if each.noisy
        for doubt in each.doubts
    ]
    return "\n".join(wrapped(line, width, "", "  ") for line in lines)


def _advice(report: JobReport, width: int, job_id: str | None) -> str:
    lines: list[str] = []
    for number, warning in enumerate(report.warnings):
        lines += _warning(warning, f"[{number}] ", width)
        if warning.suggestion is not None:
            lines.append(
                f"    $ {what_to_type(report, number, job_id)}"
                if job_id
                else f"    {what_to_type(report, number, None)}"
            )
    return "\n".join(["What to do", *lines]) if lines else ""


def warnings_text(warnings: Sequence[ReportWarning], width: int, title: str) -> str:
    """Warnings that suggest nothing, under a title."""
    lines = [line for number, each in enumerate(warnings) for line in _warning(each, f"[{number}] ", width)]
    return "\n".join([title, *lines]) if lines else ""


def _warning(warning: ReportWarning, mark: str, width: int) -> list[str]:
    where = f"{warning.layer}: " if warning.layer and warning.layer not in warning.message else ""
    told = [f"{where}{warning.message} [{warning.code}]"]
    if warning.evidence:
        told.append(warning.evidence)
    if warning.suggestion is not None:
        told.append(f"{warning.suggestion.title}. {warning.suggestion.expected or ''}".rstrip())
    elif warning.hint:
        told.append(warning.hint)
    first, *others = told
    return [
        wrapped(first, width, mark, " " * len(mark)),
        *(wrapped(each, width, " " * len(mark), " " * len(mark)) for each in others),
    ]


def _before(report: JobReport, before: Before, width: int) -> str:
    title = f"Before ({before.job}) and now: {changes_text(before.changes) or 'nothing was changed'}"
    rows = outcome_rows([before, report])
    return f"{wrapped(title, width)}\n{aligned([['', 'before', 'now'], *rows])}"


def part_text(part: Part, width: int) -> str:
    """Its table with names as long as the other columns leave room for, its sentences below."""
    lines = [wrapped(part.title, width)]
    if part.rows:
        without = [[""] * part.names + list(row[part.names :]) for row in part.rows]
        room = width - max(map(len, aligned(without, right=part.right).splitlines()))
        lines.append(aligned(part.with_names_of(max(room // part.names, _LEAST_NAME)), right=part.right))
    lines += [wrapped(told, width, "  ", "    ") for told in part.told]
    return "\n".join(lines)


def wrapped(text: str, width: int, first: str = "", others: str = "") -> str:
    """In lines of at most so many characters."""
    return textwrap.fill(
        text, width, initial_indent=first, subsequent_indent=others, break_long_words=False, break_on_hyphens=False
    )
