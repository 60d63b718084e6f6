"""A job: its five states, the one table of transitions, its steps, progress and events.

    queued ──claim──▶ running ──▶ succeeded | failed | cancelled
      ▲  └──cancel──▶ cancelled
      └────retry───── running

A cancel request is a column, a retry is `queued` with a not-before time, the step is progress: none of them is a state.
"""

from __future__ import annotations

import secrets
import time
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field


class JobStatus(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"  #: accepted and stored; waits for a worker, or for its retry's time
    RUNNING = "running"  #: a worker holds its lease
    SUCCEEDED = "succeeded"  #: the report and the artifacts are there; says nothing of the accuracy target
    FAILED = "failed"  #: `error` says why and who can mend it
    CANCELLED = "cancelled"  #: somebody asked for it


TRANSITIONS: dict[JobStatus, frozenset[JobStatus]] = {
    JobStatus.QUEUED: frozenset({JobStatus.RUNNING, JobStatus.CANCELLED}),
    JobStatus.RUNNING: frozenset({JobStatus.QUEUED, JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED}),
    JobStatus.SUCCEEDED: frozenset(),
    JobStatus.FAILED: frozenset(),
    JobStatus.CANCELLED: frozenset(),
}
FINISHED = frozenset(status for status, following in TRANSITIONS.items() if not following)


class Step(StrEnum):
    """A named part of an attempt, in the order they run; a method leaves out what it does not need."""

    FETCH = "fetch"  #: inputs come from the object store into the job's folder
    LOAD = "load"  #: the model, or every candidate, is read, raised to modules, and compared with the original
    PREPARE = "prepare"  #: observers or fake quantize are inserted
    CALIBRATE = "calibrate"  #: ranges are observed on representative data
    TRAIN = "train"  #: QAT
    CONVERT = "convert"  #: int8 operators are emitted
    EVALUATE = "evaluate"  #: float and int8 on the same data
    ANALYSE = "analyse"  #: errors layer by layer, sensitivity, quant boundaries
    PACKAGE = "package"  #: the torch artifact is written and loaded again
    EXPORT = "export"  #: files for other runtimes are written
    VERIFY = "verify"  #: a fresh process opens every file in its runtime and holds it against the reference
    BENCHMARK = "benchmark"  #: latency of all candidates, interleaved
    STORE = "store"  #: artifacts go to the object store


class Progress(BaseModel):
    """How far a running job is."""

    fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    message: str = Field(
        default="",
        description="What it is at; of a job that succeeded the word of its verdict, or of a benchmark `measured`.",
    )
    eta_seconds: float | None = Field(default=None, description="Estimate of the time left; null until there is one.")


EventKind = Literal["status", "progress", "metric", "warning", "log"]


class JobEvent(BaseModel):
    """One line of a job's append-only history.

    `status`: data has status, attempt, and error, reason or waiting_for. `progress`: data has step, fraction, message,
    eta_seconds.
    `metric`: data has name, value and what it belongs to, such as epoch. `warning` and `log`: data has message.
    """

    seq: int = Field(description="Counts up within a job; give it as `after` or `Last-Event-ID` to go on from here.")
    kind: EventKind
    created_at: float = Field(description="Seconds since the epoch, by the database's clock.")
    data: dict[str, Any]


class Artifact(BaseModel):
    """A stored result file."""

    name: str
    kind: Literal["model", "report", "page", "example", "manifest"]
    media_type: str
    size_bytes: int
    sha256: str


def new_id(prefix: Literal["job", "mdl", "dst", "upl", "req", "wrk", "pln"]) -> str:
    """An id such as `job_019abc5d1f0e7a33c49d20`: 44 bits of milliseconds, then 48 random bits: ids sort by time."""
    return f"{prefix}_{int(time.time() * 1000):011x}{secrets.token_hex(6)}"
