"""What travels on the wire: models, datasets, jobs, events, the server's description of itself.

Unknown fields are kept and new words are accepted: a newer server must not break an older client.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from octavo._benchmark import Benchmark
from octavo._report import Report

FINISHED = frozenset({"succeeded", "failed", "cancelled"})


class _Wire(BaseModel):
    model_config = ConfigDict(extra="allow", protected_namespaces=())


class TensorSpec(_Wire):
    """An input of a model; `None` in the shape is a dynamic dimension."""

    name: str
    shape: list[int | None]
    dtype: str


class ArraySpec(_Wire):
    """An array of a dataset; the first dimension counts the samples."""

    shape: list[int]
    dtype: str


class Model(_Wire):
    """A stored .pt2 or .onnx."""

    id: str
    name: str | None = None
    filename: str | None = None
    size_bytes: int
    sha256: str
    created_at: datetime
    format: str = Field(default="pt2", description="`pt2`, or `onnx`, which can be measured but not quantized.")
    inputs: list[TensorSpec] = []
    outputs: int | None = None
    parameters: int | None = None


class Dataset(_Wire):
    """Stored named arrays."""

    id: str
    name: str | None = None
    filename: str | None = None
    size_bytes: int
    sha256: str
    created_at: datetime
    samples: int | None = None
    arrays: dict[str, ArraySpec] = {}
    labels: bool = False


class UploadPart(_Wire):
    """A part that has arrived; numbers start at 1."""

    number: int
    size_bytes: int
    sha256: str


class Upload(_Wire):
    """An upload in parts; `object` is filled once the server has the content."""

    id: str | None = None
    part_size_bytes: int = 0
    parts: list[UploadPart] = []
    status: str = "open"
    object: dict[str, Any] | None = None


class Progress(_Wire):
    """How far a running job is."""

    fraction: float = 0.0
    message: str = ""
    eta_seconds: float | None = None


class JobError(_Wire):
    """Why a job failed, and who can mend it."""

    code: str
    message: str
    hint: str | None = None
    owner: str = Field(default="user", description="`user` or `service`.")
    step: str | None = None


class Artifact(_Wire):
    """A result file."""

    name: str
    kind: str = ""
    media_type: str = ""
    size_bytes: int
    sha256: str
    url: str


class JobEvent(_Wire):
    """One line of a job's history; `kind` is `status`, `progress`, `metric`, `warning` or `log`."""

    seq: int
    kind: str
    created_at: datetime
    data: dict[str, Any] = {}


class Measurement(_Wire):
    """A benchmark of a job's artifacts on other hardware."""

    hardware: dict[str, Any]
    job: str
    status: str


def _kind(report: Any) -> str:
    """Which report it is; of a method that only a newer server knows it is taken for one of quantization."""
    method = report.get("method") if isinstance(report, dict) else getattr(report, "method", None)
    return "benchmark" if method == "benchmark" else "quantization"


class JobData(_Wire):
    """A job as the server tells it at one moment."""

    id: str
    status: str
    waiting_for: str | None = None
    step: str | None = None
    progress: Progress = Progress()
    attempt: int = 0
    spec: dict[str, Any] = {}
    report: (
        Annotated[Annotated[Report, Tag("quantization")] | Annotated[Benchmark, Tag("benchmark")], Discriminator(_kind)]
        | None
    ) = None
    error: JobError | None = None
    artifacts: list[Artifact] = []
    sandbox_level: str | None = None
    cancel_requested: bool = False
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    name: str | None = None
    metadata: dict[str, str] = {}
    based_on: str | None = None
    changes: dict[str, Any] | None = None
    measurements: list[Measurement] = []

    @property
    def finished(self) -> bool:
        """Whether the status is final."""
        return self.status in FINISHED


class WorkerInfo(_Wire):
    """A worker that the server has heard of."""

    id: str
    hostname: str | None = None
    cpu_model: str | None = None
    isa: list[str] = []
    cores: int | None = None
    torch: str | None = None
    sandbox_level: str | None = None
    concurrency: int | None = None
    status: str | None = None
    runtimes: dict[str, str] = Field(default={}, description="Beside torch, with their versions.")
    labels: dict[str, str] = {}
    heartbeat_at: datetime | None = None


class Meta(_Wire):
    """The server about itself."""

    version: str
    api: str
    workers: list[WorkerInfo] = []
    limits: dict[str, Any] = {}
    methods: list[str] = []
