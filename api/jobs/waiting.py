"""Why queued jobs cannot run now: it follows from the workers that are alive, so it is found when a job is shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection

from shared.database.records import JobRecord
from shared.database.worker_repository import WorkerRepository
from shared.hardware import waiting_for
from shared.job import JobStatus
from shared.quantization_spec import Hardware


def reasons(connection: Connection, jobs: Sequence[JobRecord]) -> dict[str, str]:
    """The reason in words by the job's id, for those that no live worker may run."""
    queued = [each for each in jobs if each.status is JobStatus.QUEUED]
    if not queued:
        return {}
    alive = WorkerRepository(connection).alive()
    found = {each.id: waiting_for(_hardware(each.spec), alive) for each in queued}
    return {job_id: reason for job_id, reason in found.items() if reason is not None}


def _hardware(spec: dict[str, Any]) -> Hardware | None:
    asked = spec.get("hardware")  # specs of older versions do not have it
    return None if asked is None else Hardware.model_validate(asked)
