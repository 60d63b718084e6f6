"""Jobs and their events on the wire."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from api.wire import utc
from shared.benchmark_report import BenchmarkReport
from shared.database.records import JobRecord, MeasurementRecord
from shared.errors import JobError
from shared.job import Artifact, EventKind, JobEvent, JobStatus, Progress, Step
from shared.job_report import JobReport
from shared.job_spec import JobSpec
from shared.quantization_spec import Hardware

_SAME = (
    "id",
    "status",
    "step",
    "progress",
    "attempt",
    "spec",
    "report",
    "error",
    "sandbox_level",
    "cancel_requested",
    "name",
    "based_on",
    "changes",
)


Report = Annotated[JobReport | BenchmarkReport, Field(discriminator="method")]


class JobArtifact(Artifact):
    """A result file."""

    url: str = Field(description="Where to GET it, relative to the server.")


class Measurement(BaseModel):
    """A benchmark of a job's artifacts on other hardware, which the job asked for."""

    hardware: Hardware
    job: str = Field(description="The benchmark, a job of its own: its report tells what was measured.")
    status: JobStatus


class Job(BaseModel):
    """One request for an int8 model or a measurement, and what became of it."""

    id: str
    object: Literal["job"] = "job"
    status: JobStatus = Field(description="queued → running → succeeded, failed or cancelled.")
    waiting_for: str | None = Field(
        description="Why no live worker may run it, in words; null when one may, or none is needed any more."
    )
    step: Step | None = Field(description="What runs, or ran last.")
    progress: Progress
    attempt: int = Field(description="How often it was started; the service's own faults are retried.")
    spec: JobSpec = Field(description="As it was asked, every default filled in.")
    report: Report | None = Field(description="What was measured; null until it succeeded, and in lists.")
    error: JobError | None = Field(description="Why it failed, and whose fault it was.")
    artifacts: list[JobArtifact]
    sandbox_level: str | None = Field(description="How far the process that ran it was locked down.")
    cancel_requested: bool
    created_at: datetime
    started_at: datetime | None = Field(description="Of the latest attempt.")
    finished_at: datetime | None
    name: str | None
    metadata: dict[str, str]
    based_on: str | None = Field(description="The job that this one was made from.")
    changes: dict[str, Any] | None = Field(description="The patch that made this spec of that one's.")
    measurements: list[Measurement] = Field(
        description="One for each entry of `measure_on`, once the job has succeeded; they go on when it has ended."
    )


class Event(BaseModel):
    """One line of a job's history."""

    seq: int = Field(description="Counts up within the job; give it as `after` or `Last-Event-ID` to go on from here.")
    kind: EventKind
    created_at: datetime
    data: dict[str, Any] = Field(
        description=(
            "`status`: status, attempt, and error, reason or waiting_for. `progress`: step, fraction, message, "
            "eta_seconds. `metric`: name, value and what it belongs to, such as epoch. `warning`, `log`: message."
        )
    )


class EventPage(BaseModel):
    """Some of a job's events, oldest first."""

    data: list[Event]
    has_more: bool
    next: int | None = Field(description="Give it as `after` for the events that follow; null when there are none yet.")


def wire_job(record: JobRecord, waiting_for: str | None = None, measurements: Sequence[MeasurementRecord] = ()) -> Job:
    """The record as it is shown; `waiting_for` is why it cannot run now, `measurements` what measures its artifacts."""
    # Spec and report were validated when they were stored, perhaps by an older version: they are passed on as they are.
    fields: dict[str, Any] = {
        **{name: getattr(record, name) for name in _SAME},
        "waiting_for": waiting_for,
        "artifacts": [
            JobArtifact(**each.model_dump(), url=f"/v1/jobs/{record.id}/artifacts/{each.name}")
            for each in record.artifacts
        ],
        "created_at": utc(record.created_at),
        "started_at": None if record.started_at is None else utc(record.started_at),
        "finished_at": None if record.finished_at is None else utc(record.finished_at),
        "metadata": record.spec.get("metadata", {}),
        "measurements": _wire_measurements(record, measurements),
    }
    return Job.model_construct(**fields)


def _wire_measurements(record: JobRecord, measurements: Sequence[MeasurementRecord]) -> list[Measurement]:
    """In the order in which they were asked for."""
    asked = [Hardware.model_validate(each) for each in record.spec.get("measure_on", ())]
    ordered = sorted(measurements, key=lambda each: asked.index(each.hardware))
    return [Measurement(hardware=each.hardware, job=each.job, status=each.status) for each in ordered]


def wire_event(event: JobEvent) -> Event:
    """The event as it is shown."""
    return Event(seq=event.seq, kind=event.kind, created_at=utc(event.created_at), data=event.data)
