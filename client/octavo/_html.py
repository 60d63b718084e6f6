"""A report as a small HTML card for notebooks. Everything that came from outside is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from octavo._job_report import JobReport
from octavo._tables import report_rows

CARD = "border:1px solid #8884;border-radius:6px;padding:.6em 1em;max-width:46em;font-family:sans-serif"


def report_card(report: JobReport) -> str:
    """The verdict, the figures and the warnings."""
    warnings = "".join(f"<li>{escape(warning.message)}</li>" for warning in report.warnings)
    return (
        f'<div style="{CARD}"><b>{escape(report.method)}: {escape(report.verdict.word)}</b>'
        f"<p>{escape(report.verdict.sentence)}</p>{table(report_rows(report))}"
        f"{f'<ul>{warnings}</ul>' if warnings else ''}</div>"
    )


def table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    lines = ["<tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in head) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in body]
    return f"<table>{''.join(lines)}</table>"
