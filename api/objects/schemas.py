"""Models and datasets on the wire."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from api.wire import Sha256, utc
from shared.database.records import ObjectKind, ObjectRecord


class ModelInput(BaseModel):
    """An input of the model's forward, in order."""

    name: str = Field(description="The key of the dataset array that feeds it.")
    shape: list[int | None] = Field(description="null where the exported program takes any size, as for the batch.")
    dtype: str


class Array(BaseModel):
    """An array of a dataset; the first axis is the sample."""

    shape: list[int]
    dtype: str


class _StoredFile(BaseModel):
    id: str
    name: str | None
    filename: str | None
    size_bytes: int
    sha256: Sha256
    created_at: datetime


class Model(_StoredFile):
    """An uploaded exported program, or an ONNX file."""

    kind: Literal["model"] = "model"
    format: Literal["pt2", "onnx"] = Field(default="pt2", description="`onnx` can be measured, not quantized.")
    inputs: list[ModelInput]
    outputs: int = Field(description="How many outputs the model has.")
    parameters: int = Field(description="How many numbers its parameters hold.")


class Dataset(_StoredFile):
    """An uploaded set of named arrays."""

    kind: Literal["dataset"] = "dataset"
    samples: int
    arrays: dict[str, Array]
    labels: bool = Field(description="Whether there is an array of labels.")


def wire_object(record: ObjectRecord) -> Model | Dataset:
    """The record as it is shown."""
    known = {
        "id": record.id,
        "name": record.name,
        "filename": record.filename,
        "size_bytes": record.size_bytes,
        "sha256": record.sha256,
        "created_at": utc(record.created_at),
    }
    schema: type[Model | Dataset] = Model if record.kind == "model" else Dataset
    return schema.model_validate({**record.description, **known})


PREFIXES: dict[ObjectKind, str] = {"model": "mdl_", "dataset": "dst_"}
