"""Resumable uploads on the wire."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from api.objects.schemas import Dataset, Model, wire_object
from api.wire import Filename, Name, Sha256, utc
from shared.database.records import ObjectKind, ObjectRecord, UploadRecord

MAX_PARTS = 100_000


class UploadRequest(BaseModel):
    """A file that will be sent in parts."""

    model_config = ConfigDict(extra="forbid")

    kind: ObjectKind
    name: Name | None = Field(default=None, description="What people call it; the file's name when left out.")
    filename: Filename | None = None
    size_bytes: int = Field(gt=0)
    sha256: Sha256 | None = Field(default=None, description="With it, content that is already here need not be sent.")


class CompleteRequest(BaseModel):
    """The end of an upload."""

    model_config = ConfigDict(extra="forbid")

    sha256: Sha256


class Part(BaseModel):
    """A part that has arrived."""

    number: int = Field(ge=1)
    size_bytes: int
    sha256: Sha256


class Upload(BaseModel):
    """An upload and the parts that have arrived."""

    id: str
    kind: ObjectKind
    name: str | None
    filename: str | None
    size_bytes: int
    sha256: Sha256 | None
    part_size_bytes: int = Field(description="Every part but the last has exactly this size.")
    parts: list[Part]
    status: Literal["open", "complete"]
    expires_at: datetime = Field(description="An upload that is not complete by then is swept.")
    object: Model | Dataset | None = Field(description="What it has become.")


def wire_upload(record: UploadRecord, stored: ObjectRecord | None = None) -> Upload:
    """The record as it is shown."""
    return Upload(
        id=record.id,
        kind=record.kind,
        name=record.name,
        filename=record.filename,
        size_bytes=record.size_bytes,
        sha256=record.sha256,
        part_size_bytes=record.part_size_bytes,
        parts=[Part(number=each.number, size_bytes=each.size_bytes, sha256=each.sha256) for each in record.parts],
        status="complete" if record.completed else "open",
        expires_at=utc(record.expires_at),
        object=None if stored is None else wire_object(stored),
    )
