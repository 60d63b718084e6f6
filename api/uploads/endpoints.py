"""/v1/uploads: files in parts, resumable."""

from __future__ import annotations

import hashlib
from typing import Annotated

from fastapi import APIRouter, Body, Path, Request, Response
from starlette.concurrency import run_in_threadpool

from api import examples
from api.idempotency import IdempotencyKeyHeader, Once
from api.objects.schemas import Dataset, Model
from api.openapi import answer, file_body, problems
from api.services import ServicesDependency
from api.uploads.schemas import MAX_PARTS, CompleteRequest, Part, Upload, UploadRequest
from api.uploads.service import UploadService
from shared import errors

router = APIRouter(prefix="/v1/uploads", tags=["uploads"])

UploadIdPath = Annotated[str, Path(max_length=60, description="`upl_…`", examples=[examples.UPLOAD_ID])]


@router.post(
    "",
    operation_id="createUpload",
    summary="Begin an upload in parts",
    status_code=201,
    responses={
        **answer(201, Upload, "Send the parts.", "open_upload"),
        **answer(200, Upload, "This content is already here: nothing to send.", "complete_upload"),
        **problems(
            errors.MalformedJson,
            errors.RequestInvalid,
            errors.UploadTooLarge,
            errors.IdempotencyKeyReused,
            errors.UnsupportedMediaType,
        ),
    },
)
async def create_upload(
    request: Request,
    services: ServicesDependency,
    wanted: Annotated[UploadRequest, Body(openapi_examples=examples.UPLOAD_REQUESTS)],
    idempotency_key: IdempotencyKeyHeader = None,
) -> Response:
    """Then PUT the parts, in any order and at once if you like, and complete it."""
    once = Once.of(request, idempotency_key, hashlib.sha256(await request.body()).hexdigest())
    found = await run_in_threadpool(UploadService(services).begin, wanted, once)
    return found.response()


@router.get(
    "/{upload_id}",
    operation_id="getUpload",
    summary="Which parts have arrived",
    responses={**answer(200, Upload, "The upload.", "partial_upload"), **problems(errors.NotFound)},
)
def get_upload(services: ServicesDependency, upload_id: UploadIdPath) -> Upload:
    """Resume from here."""
    return UploadService(services).get(upload_id)


@router.put(
    "/{upload_id}/parts/{number}",
    operation_id="putUploadPart",
    summary="Send a part",
    openapi_extra=file_body("The bytes of this part."),
    responses={
        **answer(200, Part, "It has arrived.", "part"),
        **problems(
            errors.NotFound,
            errors.RequestInvalid,
            errors.SizeMismatch,
            errors.ChecksumMismatch,
            errors.UnsupportedMediaType,
            errors.PartConflict,
            errors.UploadClosed,
            errors.DiskFull,
        ),
    },
)
async def put_upload_part(
    request: Request,
    services: ServicesDependency,
    upload_id: UploadIdPath,
    number: Annotated[int, Path(ge=1, le=MAX_PARTS, description="Counts from 1.", examples=[1])],
) -> Part:
    """The same part may be sent again; with other bytes it is refused. `Content-Digest` is checked when it is sent."""
    service = UploadService(services)
    wanted_bytes = await run_in_threadpool(service.part_bytes, upload_id, number)
    async with services.staging.body(request, max_bytes=wanted_bytes, too_large=errors.SizeMismatch) as staged:
        return await run_in_threadpool(service.add_part, upload_id, number, staged)


@router.post(
    "/{upload_id}/complete",
    operation_id="completeUpload",
    summary="Make a model or dataset of the parts",
    status_code=201,
    responses={
        **answer(201, Model | Dataset, "Stored.", "model"),
        **answer(200, Model | Dataset, "This content was already here.", "model"),
        **problems(
            errors.NotFound,
            errors.MalformedJson,
            errors.RequestInvalid,
            errors.ChecksumMismatch,
            errors.PartsMissing,
            errors.UploadClosed,
            errors.ModelIsPickle,
            errors.ModelCorrupt,
            errors.DatasetCorrupt,
            errors.IdempotencyKeyReused,
            errors.DiskFull,
        ),
    },
)
async def complete_upload(
    request: Request,
    services: ServicesDependency,
    upload_id: UploadIdPath,
    wanted: Annotated[CompleteRequest, Body(openapi_examples=examples.COMPLETE_REQUESTS)],
    idempotency_key: IdempotencyKeyHeader = None,
) -> Response:
    """The whole is hashed again and must have this SHA-256; then it is inspected and stored."""
    once = Once.of(request, idempotency_key, hashlib.sha256(await request.body()).hexdigest())
    found = await run_in_threadpool(UploadService(services).complete, upload_id, wanted.sha256, once)
    return found.response()
