"""/v1/jobs/{id}/artifacts/{name}: the bytes of a result."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncIterator
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Header, Path, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from api import examples
from api.artifacts.ranges import wanted_range
from api.error_responses import problem_response, request_id_of
from api.openapi import problems
from api.services import Services, ServicesDependency
from shared import errors
from shared.database.job_repository import JobRepository
from shared.job import Artifact
from shared.object_store import ObjectReader, artifact_key

router = APIRouter(prefix="/v1/jobs/{job_id}/artifacts", tags=["artifacts"])

_PRESIGNED_SECONDS = 600
_PATH = "/{name}"
_BYTES = {
    "application/octet-stream": {
        "schema": {"type": "string", "format": "binary"},
        "example": "(the bytes of the file)",
    }
}


@router.head(_PATH, include_in_schema=False)
@router.get(
    _PATH,
    operation_id="getArtifact",
    summary="Download a result",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "The bytes; ETag is the SHA-256 in hex, Repr-Digest the same in base64.",
            "content": _BYTES,
        },
        206: {"description": "The range that was asked for.", "content": _BYTES},
        304: {"description": "You have it."},
        307: {"description": "The bytes are at this presigned URL for some minutes; follow it without the API key."},
        **problems(errors.NotFound, errors.RangeNotSatisfiable, errors.ObjectMissing, errors.StorageUnavailable),
    },
)
async def get_artifact(
    *,
    request: Request,
    services: ServicesDependency,
    job_id: Annotated[str, Path(max_length=60, description="`job_…`", examples=[examples.JOB_ID])],
    name: Annotated[str, Path(max_length=255, examples=["model_int8.pt"])],
    range_: Annotated[
        str | None, Header(alias="Range", description="One range of bytes.", examples=["bytes=0-1023"])
    ] = None,
    if_range: Annotated[str | None, Header(description="The ETag that the range is of.")] = None,
    if_none_match: Annotated[str | None, Header(description="The ETag that you have.")] = None,
) -> Response:
    """A broken download goes on with Range; the hash tells whether it is whole."""
    artifact, key = await run_in_threadpool(_find, services, job_id, name)
    etag = f'"{artifact.sha256}"'
    if if_none_match is not None and etag in if_none_match:
        return Response(status_code=304, headers={"ETag": etag})
    if services.settings.storage.presign_downloads:
        url = await run_in_threadpool(_presigned_url, services, key, artifact)
        if url is not None:
            return Response(status_code=307, headers={"Location": url, "Cache-Control": "no-store"})
    headers = {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Repr-Digest": f"sha-256=:{b64encode(bytes.fromhex(artifact.sha256)).decode()}:",
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(artifact.name)}",
        "X-Content-Type-Options": "nosniff",
        # A worker's sandbox wrote it: should a browser ever show it, it is nobody's page, and runs nothing.
        "Content-Security-Policy": "default-src 'none'; sandbox",
    }
    size = artifact.size_bytes
    try:
        wanted = wanted_range(range_ if if_range in {None, etag} else None, size)
    except ValueError:
        error = errors.RangeNotSatisfiable(f"{name} has {size} bytes; the range {range_!r} has none of them.")
        return problem_response(error, request_id_of(request.scope), {"Content-Range": f"bytes */{size}"})
    start, end = wanted or (0, size)
    headers["Content-Length"] = str(end - start)
    if wanted is not None:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    status = 200 if wanted is None else 206
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=artifact.media_type)
    reader = await run_in_threadpool(services.store.open, key, start, end)
    return StreamingResponse(_chunks(reader), status_code=status, headers=headers, media_type=artifact.media_type)


def _find(services: Services, job_id: str, name: str) -> tuple[Artifact, str]:
    with services.database.read() as connection:
        job = JobRepository(connection).get(job_id)
    for artifact in job.artifacts:
        if artifact.name == name:
            return artifact, artifact_key(job.id, job.fence, name)
    there = ", ".join(each.name for each in job.artifacts) or f"none: it is {job.status}"
    raise errors.NotFound(f"The job has no artifact {name!r}; it has {there}.")


def _presigned_url(services: Services, key: str, artifact: Artifact) -> str | None:
    return services.store.presigned_url(
        key, filename=artifact.name, media_type=artifact.media_type, expires_seconds=_PRESIGNED_SECONDS
    )


async def _chunks(reader: ObjectReader) -> AsyncIterator[bytes]:
    try:
        while chunk := await run_in_threadpool(next, reader, b""):
            yield chunk
    finally:
        reader.close()
