"""Settings, read once in each process's composition root and passed down.

Every setting is an environment variable: `OCTAVO_` and the path with `__`, such as `OCTAVO_DATABASE__URL`. The
defaults are the embedded stack; one setting moves each part to production.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.quantization_spec import LabelName, LabelValue

MIB = 1024**2
GIB = 1024**3


class ApiSettings(BaseModel):
    """The front end."""

    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65535)
    keys: list[SecretStr] = Field(
        default=[], description="Accepted API keys, as a JSON list; the file <data-dir>/api-key counts too."
    )
    ready_needs_worker: bool = Field(default=False, description="/readyz answers 503 until a worker is alive.")


class DatabaseSettings(BaseModel):
    """Job state: SQLite in the data directory, or PostgreSQL."""

    url: SecretStr | None = Field(
        default=None, description="postgresql+psycopg://user:password@host/name; unset: SQLite."
    )


class StorageSettings(BaseModel):
    """Where objects are kept."""

    kind: Literal["local", "s3"] = "local"
    path: Path | None = Field(default=None, description="local: the directory; unset: <data-dir>/objects.")
    bucket: str = "octavo"
    prefix: str = ""
    endpoint_url: str | None = Field(default=None, description="s3: unset is AWS.")
    region: str = "us-east-1"
    access_key_id: SecretStr | None = Field(default=None, description="s3: unset leaves it to boto3's own chain.")
    secret_access_key: SecretStr | None = None
    presign_downloads: bool = Field(default=False, description="s3: artifacts answer 307 to a presigned URL.")


class QueueSettings(BaseModel):
    """The broker that carries hints."""

    broker_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    name: str = "octavo"


class UploadSettings(BaseModel):
    """Limits of what is sent in."""

    max_bytes: int = Field(default=16 * GIB, gt=0)
    part_bytes: int = Field(default=16 * MIB, ge=1024)
    expire_seconds: float = Field(
        default=24 * 3600, gt=0, description="An upload that is not completed by then is swept."
    )
    staging_path: Path | None = Field(
        default=None, description="Where bytes land first; unset: beside the local objects."
    )


class JobSettings(BaseModel):
    """The promises made for a job."""

    lease_seconds: float = Field(default=30, gt=0)
    heartbeat_seconds: float = Field(default=5, gt=0)
    cancel_poll_seconds: float = Field(default=0.25, gt=0)
    reconcile_seconds: float = Field(default=1, gt=0)
    republish_seconds: float = Field(
        default=30, gt=0, description="A hint not acted on is sent again after this, then 2, 4 … times it."
    )
    max_attempts: int = Field(
        default=5, ge=1, description="Attempts before a service's fault becomes the job's failure."
    )
    max_crashes: int = Field(default=2, ge=1, description="Killed processes before the job fails with worker_crashed.")
    retry_base_seconds: float = Field(
        default=5, gt=0, description="First backoff; doubles, with jitter, to at most 600 s."
    )


class WorkerSettings(BaseModel):
    """A node that computes."""

    concurrency: int = Field(default=1, ge=1, le=64, description="Jobs at once on this node.")
    threads: int | None = Field(default=None, ge=1, description="Threads of one job; unset: cores / concurrency.")
    workspace: Path | None = Field(default=None, description="Where job folders live; unset: <data-dir>/workspace.")
    node_dir: Path | None = Field(
        default=None,
        description="Where all workers of a node agree on who measures: on a disk of the node, and their user's alone "
        "(mode 0700); unset: <data-dir>/node.",
    )
    memory_limit_bytes: int | None = Field(
        default=None, gt=0, description="Of one job; unset: 80 % of the memory / concurrency."
    )
    output_limit_bytes: int = Field(default=16 * GIB, gt=0, description="Of everything one job writes.")
    wall_limit_seconds: float = Field(default=6 * 3600, gt=0)
    measure_limit_seconds: float = Field(
        default=1800,
        gt=0,
        description="For which one job may have the node for itself, to measure: all others stand still meanwhile.",
    )
    shutdown_grace_seconds: float = Field(default=20, ge=0)
    min_sandbox_level: Literal["none", "rlimits", "landlock"] = Field(
        default="landlock", description="A node that reaches less refuses to run jobs."
    )
    labels: dict[LabelName, LabelValue] = Field(
        default={}, description='What jobs may ask for by name, as JSON: `{"pool": "edge"}`.'
    )

    @field_validator("labels")
    @classmethod
    def _not_what_is_found(cls, labels: dict[str, str]) -> dict[str, str]:
        for name in labels:
            if name == "arch" or name.startswith(("cpu.", "isa.")):
                raise ValueError(f"the worker finds {name!r} itself; give a label of yours another name")
        return labels


class LogSettings(BaseModel):
    """What the processes write to stderr."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["console", "json"] = "console"


class Settings(BaseSettings):
    """Everything that an operator can set."""

    model_config = SettingsConfigDict(env_prefix="OCTAVO_", env_nested_delimiter="__", extra="ignore")

    data_dir: Path = Path("octavo-data")
    api: ApiSettings = ApiSettings()
    database: DatabaseSettings = DatabaseSettings()
    storage: StorageSettings = StorageSettings()
    queue: QueueSettings = QueueSettings()
    uploads: UploadSettings = UploadSettings()
    jobs: JobSettings = JobSettings()
    worker: WorkerSettings = WorkerSettings()
    log: LogSettings = LogSettings()

    @model_validator(mode="after")
    def _lease_outlives_heartbeat(self) -> Self:
        if self.jobs.lease_seconds < 2 * self.jobs.heartbeat_seconds:
            raise ValueError("jobs.lease_seconds must be at least twice jobs.heartbeat_seconds")
        return self

    @property
    def database_url(self) -> str:
        """The SQLAlchemy URL."""
        if self.database.url is not None:
            return self.database.url.get_secret_value()
        return f"sqlite:///{(self.data_dir / 'octavo.sqlite3').absolute()}"

    @property
    def storage_path(self) -> Path:
        """Directory of the local object store."""
        return (self.storage.path or self.data_dir / "objects").absolute()

    @property
    def staging_path(self) -> Path:
        """Directory that uploads are streamed into before they are stored."""
        if self.uploads.staging_path is not None:
            return self.uploads.staging_path.absolute()
        # Beside the local objects, so that storing is a link and not a copy.
        return self.storage_path / "staging" if self.storage.kind == "local" else (self.data_dir / "staging").absolute()

    @property
    def workspace_path(self) -> Path:
        """Directory of the job folders."""
        return (self.worker.workspace or self.data_dir / "workspace").absolute()

    @property
    def node_path(self) -> Path:
        """Directory by which the workers of one node make way for each other's measurements."""
        return (self.worker.node_dir or self.data_dir / "node").absolute()
