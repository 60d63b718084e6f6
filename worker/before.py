"""What the report of a job that was made from another says of that one."""

from __future__ import annotations

from pydantic import ValidationError

from shared.database.job_repository import JobRepository
from shared.errors import NotFound
from shared.job_report import Before


def read_before(jobs: JobRepository, job_id: str) -> Before | None:
    """The outcome of the job that this one is based on; None without one, or when it has no outcome to compare with."""
    job = jobs.get(job_id)
    if job.based_on is None:
        return None
    try:
        base = jobs.get(job.based_on, with_report=True)
    except NotFound:
        return None
    if base.report is None:
        return None
    told = {name: base.report.get(name) for name in ("method", "verdict", "quality", "latency", "size")}
    try:
        before = Before.model_validate({**told, "job": base.id, "changes": job.changes or {}})
    except ValidationError:  # of another version of Octavo, whose report had another form
        return None
    for result in before.latency:
        for candidate in result.candidates:
            candidate.samples_ms = []
    return before
