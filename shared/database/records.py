"""What the repositories return: rows as frozen values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, Field

from shared.errors import JobError
from shared.job import Artifact, JobStatus, Progress, Step
from shared.quantization_spec import Hardware


@dataclass(frozen=True)
class JobRecord:
    """A job as the database has it; `report` only where it was asked for."""

    id: str
    status: JobStatus
    spec: dict[str, Any]
    name: str | None
    created_at: float
    started_at: float | None
    finished_at: float | None
    step: Step | None
    progress: Progress
    attempt: int
    crashes: int
    fence: int
    worker_id: str | None
    cancel_requested: bool
    sandbox_level: str | None
    not_before: float
    error: JobError | None
    artifacts: list[Artifact]
    event_seq: int
    based_on: str | None = None
    changes: dict[str, Any] | None = None
    report: dict[str, Any] | None = None


@dataclass(frozen=True)
class Claim:
    """A worker's right to write a job, until another claim raises the fence."""

    job_id: str
    fence: int
    attempt: int
    spec: dict[str, Any]


class DueJob(NamedTuple):
    """A queued job that a hint is to be sent for, and the hardware that it asks for."""

    id: str
    hardware: Hardware | None


class MeasurementRecord(NamedTuple):
    """A benchmark of a job's artifacts that the job asked for."""

    hardware: Hardware
    job: str
    status: JobStatus


ObjectKind = Literal["model", "dataset"]


@dataclass(frozen=True)
class ObjectRecord:
    """An uploaded model or dataset; its bytes are under `shared.object_store.blob_key(sha256)`."""

    id: str
    kind: ObjectKind
    name: str | None
    filename: str | None
    size_bytes: int
    sha256: str
    description: dict[str, Any]
    created_at: float


@dataclass(frozen=True)
class PartRecord:
    """A part of an upload that has arrived."""

    number: int
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class UploadRecord:
    """A resumable upload."""

    id: str
    kind: ObjectKind
    name: str | None
    filename: str | None
    size_bytes: int
    sha256: str | None
    part_size_bytes: int
    completed: bool
    object_id: str | None
    created_at: float
    expires_at: float
    parts: list[PartRecord]


class WorkerDescription(BaseModel):
    """What a worker says of itself when it starts."""

    hostname: str
    cpu_model: str
    isa: list[str] = Field(description="Of avx2, avx512, avx512_vnni, avx_vnni, amx_int8, amx_bf16 …")
    cores: int
    torch: str
    sandbox_level: str
    concurrency: int
    runtimes: dict[str, str] = Field(
        default={}, description="Beside torch: those of `onnxruntime` and `openvino` that it has, with their versions."
    )
    labels: dict[str, str] = Field(
        default={}, description="The operator's, and `arch`, `cpu.vendor`, `cpu.family`, `cpu.model`."
    )


@dataclass(frozen=True)
class WorkerRecord:
    """A worker that has been heard of lately."""

    id: str
    description: WorkerDescription
    status: str
    started_at: float
    heartbeat_at: float
