"""A model, one of others, and a dataset; and how the first is uploaded."""

from __future__ import annotations

from typing import Any

from api.examples.wire import ARTIFACT_SHA256, STARTED, wire
from api.objects.schemas import wire_object
from api.uploads.schemas import Part, wire_upload
from shared.database.records import ObjectRecord, PartRecord, UploadRecord

MODEL_SHA256 = "8f434346648f6b96df89dda901c5176b10a6d83961dd3c1ac88b59b2dc327aa4"
DATASET_SHA256 = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"
UPLOAD_ID = "upl_019abc5d0b0e7a33c49d20aa"

MODEL_RECORD = ObjectRecord(
    id="mdl_019abc5d1f0e7a33c49d2011",
    kind="model",
    name="digits",
    filename="digits.pt2",
    size_bytes=104_857,
    sha256=MODEL_SHA256,
    description={
        "format": "pt2",
        "inputs": [{"name": "x", "shape": [None, 1, 8, 8], "dtype": "float32"}],
        "outputs": 1,
        "parameters": 24_010,
    },
    created_at=STARTED,
)
ONNX_RECORD = ObjectRecord(
    **{
        **vars(MODEL_RECORD),
        "id": "mdl_019abc5d2a0e7a33c49d2033",
        "name": "digits of others",
        "filename": "others.onnx",
        "description": {**MODEL_RECORD.description, "format": "onnx"},
    }
)
DATASET_RECORD = ObjectRecord(
    id="dst_019abc5d20c17a3391be0422",
    kind="dataset",
    name="digits, held out",
    filename="evaluation.npz",
    size_bytes=94_412,
    sha256=DATASET_SHA256,
    description={
        "samples": 360,
        "arrays": {
            "x": {"shape": [360, 1, 8, 8], "dtype": "float32"},
            "labels": {"shape": [360], "dtype": "int64"},
        },
        "labels": True,
    },
    created_at=STARTED + 2,
)
MODEL: dict[str, Any] = wire(wire_object(MODEL_RECORD))
DATASET: dict[str, Any] = wire(wire_object(DATASET_RECORD))

_upload = UploadRecord(
    id=UPLOAD_ID,
    kind="model",
    name="digits",
    filename="digits.pt2",
    size_bytes=MODEL_RECORD.size_bytes,
    sha256=MODEL_SHA256,
    part_size_bytes=65_536,
    completed=False,
    object_id=None,
    created_at=STARTED,
    expires_at=STARTED + 86_400,
    parts=[],
)
_part = PartRecord(number=1, size_bytes=65_536, sha256=ARTIFACT_SHA256)

UPLOAD_REQUESTS: dict[str, Any] = {
    "model": {
        "summary": "A model of 100 kB",
        "value": {
            "kind": "model",
            "name": "digits",
            "filename": "digits.pt2",
            "size_bytes": MODEL_RECORD.size_bytes,
            "sha256": MODEL_SHA256,
        },
    }
}
COMPLETE_REQUESTS: dict[str, Any] = {"whole": {"summary": "The hash of the file", "value": {"sha256": MODEL_SHA256}}}
OPEN_UPLOAD: dict[str, Any] = wire(wire_upload(_upload))
PARTIAL_UPLOAD: dict[str, Any] = wire(wire_upload(UploadRecord(**{**vars(_upload), "parts": [_part]})))
COMPLETE_UPLOAD: dict[str, Any] = wire(
    wire_upload(UploadRecord(**{**vars(_upload), "completed": True, "object_id": MODEL_RECORD.id}), MODEL_RECORD)
)
PART: dict[str, Any] = wire(Part(number=1, size_bytes=_part.size_bytes, sha256=_part.sha256))
