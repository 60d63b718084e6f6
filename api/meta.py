"""/v1/meta: what runs here, on what, and within which limits."""

from __future__ import annotations

from datetime import datetime
from importlib.metadata import version
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from api.body_limit import MAX_JSON_BYTES
from api.openapi import answer
from api.services import ServicesDependency
from api.wire import utc
from shared.database.records import WorkerDescription, WorkerRecord
from shared.database.worker_repository import WorkerRepository
from shared.job_spec import METHODS

router = APIRouter(prefix="/v1", tags=["meta"])


class Worker(WorkerDescription):
    """A live worker and the CPU that it measures on."""

    id: str
    status: str
    heartbeat_at: datetime


class Limits(BaseModel):
    """What is refused beyond."""

    max_upload_bytes: int
    part_size_bytes: int = Field(description="Of uploads in parts; very large files get larger parts.")
    max_json_bytes: int
    upload_expire_seconds: float
    wall_limit_seconds: float = Field(description="Of one job.")
    max_attempts: int


class Meta(BaseModel):
    """The service."""

    version: str
    api: Literal["v1"] = "v1"
    methods: list[str]
    workers: list[Worker] = Field(description="Those heard of in the last seconds.")
    limits: Limits


@router.get(
    "/meta",
    operation_id="getMeta",
    summary="Versions, workers, limits",
    responses=answer(200, Meta, "What runs here.", "meta"),
)
def get_meta(services: ServicesDependency) -> Meta:
    """Kernels and latency depend on the CPU: the workers say which they have."""
    with services.database.read() as connection:
        workers = WorkerRepository(connection).alive()
    settings = services.settings
    return Meta(
        version=version("octavo-server"),
        methods=list(METHODS),
        workers=[_wire_worker(each) for each in workers],
        limits=Limits(
            max_upload_bytes=settings.uploads.max_bytes,
            part_size_bytes=settings.uploads.part_bytes,
            max_json_bytes=MAX_JSON_BYTES,
            upload_expire_seconds=settings.uploads.expire_seconds,
            wall_limit_seconds=settings.worker.wall_limit_seconds,
            max_attempts=settings.jobs.max_attempts,
        ),
    )


def _wire_worker(record: WorkerRecord) -> Worker:
    return Worker(
        **record.description.model_dump(), id=record.id, status=record.status, heartbeat_at=utc(record.heartbeat_at)
    )
