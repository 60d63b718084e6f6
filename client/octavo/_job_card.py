"""A job as a small HTML card for notebooks. Everything that came from outside is escaped."""

from __future__ import annotations

from html import escape

from octavo._html import CARD
from octavo._types import JobData


def job_card(job: JobData) -> str:
    """Status, progress, and the error or the report once there is one."""
    title = f"{escape(job.name or job.id)}: {escape(job.status)}"
    body = ""
    if job.error is not None:
        hint = f"<p>Hint: {escape(job.error.hint)}</p>" if job.error.hint else ""
        body = f"<p>{escape(job.error.message)} <code>{escape(job.error.code)}</code></p>{hint}"
    elif job.waiting_for is not None:
        body = f"<p>{escape(job.waiting_for)}</p>"
    elif not job.finished:
        body = (
            f'<p><progress max="1" value="{job.progress.fraction:.3f}"></progress> {job.progress.fraction:.0%} '
            f"{escape(job.step or '')} {escape(job.progress.message)}</p>"
        )
    elif job.report is not None:
        body = job.report._repr_html_()  # what a notebook calls
    return f'<div style="{CARD}"><b>{title}</b> <code>{escape(job.id)}</code>{body}</div>'
