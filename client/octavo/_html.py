"""Jobs and reports as small HTML cards for notebooks. Everything that came from outside is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from octavo._report import Report
from octavo._tables import report_rows
from octavo._types import JobData

_CARD = "border:1px solid #8884;border-radius:6px;padding:.6em 1em;max-width:46em;font-family:sans-serif"


def report_card(report: Report) -> str:
    """The verdict, the figures and the warnings."""
    warnings = "".join(f"<li>{escape(warning.message)}</li>" for warning in report.warnings)
    return (
        f'<div style="{_CARD}"><b>{escape(report.method)}: {escape(report.verdict.word)}</b>'
        f"<p>{escape(report.verdict.sentence)}</p>{_table(report_rows(report))}"
        f"{f'<ul>{warnings}</ul>' if warnings else ''}</div>"
    )


def job_card(job: JobData) -> str:
    """Status, progress, and the error or the report once there is one."""
    title = f"{escape(job.name or job.id)}: {escape(job.status)}"
    body = ""
    if job.error is not None:
        hint = f"<p>Hint: {escape(job.error.hint)}</p>" if job.error.hint else ""
        body = f"<p>{escape(job.error.message)} <code>{escape(job.error.code)}</code></p>{hint}"
    elif not job.finished:
        body = (
            f'<p><progress max="1" value="{job.progress.fraction:.3f}"></progress> {job.progress.fraction:.0%} '
            f"{escape(job.step or '')} {escape(job.progress.message)}</p>"
        )
    elif job.report is not None:
        body = report_card(job.report)
    return f'<div style="{_CARD}"><b>{title}</b> <code>{escape(job.id)}</code>{body}</div>'


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    lines = ["<tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in head) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in body]
    return f"<table>{''.join(lines)}</table>"
