"""/v1/jobs: submit, list, follow, cancel."""

from __future__ import annotations

import hashlib
from typing import Annotated

from fastapi import APIRouter, Body, Header, Path, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from api import examples
from api.idempotency import IdempotencyKeyHeader, Once
from api.jobs import following, service
from api.jobs.requests import JobRequest
from api.jobs.schemas import EventPage, Job
from api.openapi import answer, problems, reference
from api.services import ServicesDependency
from api.wire import After, Limit, Page, id_behind
from shared import errors
from shared.job import JobStatus

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

JobIdPath = Annotated[str, Path(max_length=60, description="`job_…`", examples=[examples.JOB_ID])]
_MAX_SEQ = 2**31 - 1  # what the databases' integers hold
_ETAG = {"ETag": {"description": "Changes with the job.", "schema": {"type": "string"}, "example": '"7"'}}


@router.post(
    "",
    operation_id="createJob",
    summary="Submit a job",
    status_code=202,
    responses={
        **answer(
            202,
            Job,
            "Accepted: the job is stored and will run.",
            "queued_job",
            headers={
                "Location": {"schema": {"type": "string"}, "example": f"/v1/jobs/{examples.JOB_ID}"},
                "Retry-After": {"schema": {"type": "integer"}, "example": 2},
            },
        ),
        **problems(
            errors.MalformedJson,
            errors.SpecInvalid,
            errors.DataRequired,
            errors.WrongKind,
            errors.NotFound,
            errors.ModelIsOnnx,
            errors.NoArtifact,
            errors.CandidatesMismatch,
            errors.DatasetMismatch,
            errors.LabelsUnusable,
            errors.NoReport,
            errors.JobNotSucceeded,
            errors.NoSuggestion,
            errors.SuggestionRefused,
            errors.IdempotencyKeyReused,
            errors.BodyTooLarge,
            errors.UnsupportedMediaType,
        ),
    },
)
async def create_job(
    request: Request,
    services: ServicesDependency,
    job_request: Annotated[JobRequest, Body(openapi_examples=examples.JOB_REQUESTS)],
    idempotency_key: IdempotencyKeyHeader = None,
) -> Response:
    """Only `method` and `model`, or `candidates`, are always needed; the answer echoes the spec with every default.

    Or `based_on` takes the spec of another job, as it was asked; `apply` and `changes` say what shall differ.

    What can be checked beforehand is: that the ids exist, that the datasets fit the model, that there are labels where
    the metric or the loss needs them; of a benchmark that the candidates are there and take the same inputs.
    """
    body_sha256 = hashlib.sha256(await request.body()).hexdigest()
    found = await run_in_threadpool(
        service.submit, services, job_request, Once.of(request, idempotency_key, body_sha256)
    )
    return found.response()


@router.get(
    "",
    operation_id="listJobs",
    summary="List jobs, newest first",
    responses={
        **answer(200, Page[Job], "A page of jobs, without their reports.", "jobs"),
        **problems(errors.RequestInvalid),
    },
)
def list_jobs(
    services: ServicesDependency,
    status: Annotated[JobStatus | None, Query(description="Only jobs that stand here.")] = None,
    limit: Limit = 20,
    after: After = None,
) -> Response:
    """Newest first; `report` is null here."""
    page = service.page(services, status=status, limit=limit, after=id_behind(after, "job_"))
    return Response(page.model_dump_json(warnings=False), media_type="application/json")


@router.get(
    "/{job_id}",
    operation_id="getJob",
    summary="Show a job, now or when it changes",
    responses={
        **answer(200, Job, "The job.", "succeeded_job", "succeeded_benchmark", headers=_ETAG),
        304: {"description": "It is as your If-None-Match says.", "headers": _ETAG},
        **problems(errors.NotFound, errors.RequestInvalid),
    },
)
async def get_job(
    services: ServicesDependency,
    job_id: JobIdPath,
    wait: Annotated[float, Query(ge=0, le=60, description="Seconds to wait for a change.", examples=[30])] = 0,
    if_none_match: Annotated[str | None, Header(description="The ETag that you have.", examples=['"6"'])] = None,
) -> Response:
    """With `wait` the answer comes when the job has changed, has finished, or the time is up.

    What counts as a change: with If-None-Match, a job other than that; without, one other than it is now. Of a finished
    job only `measurements` go on changing, so it is answered at once.
    """
    return await following.job_response(services, job_id, wait_seconds=wait, if_none_match=if_none_match)


@router.get(
    "/{job_id}/events",
    operation_id="listJobEvents",
    summary="Read or follow a job's history",
    responses={
        200: {
            "model": EventPage,
            "description": "A page of events, or all of them as they come.",
            "content": {
                "application/json": {"examples": reference("events")},
                "text/event-stream": {"schema": {"type": "string"}, "example": examples.EVENT_STREAM},
            },
        },
        **problems(errors.NotFound, errors.RequestInvalid),
    },
)
async def list_job_events(
    *,
    services: ServicesDependency,
    job_id: JobIdPath,
    accept: Annotated[str, Header(description="`text/event-stream` for a stream.", examples=["application/json"])] = "",
    last_event_id: Annotated[
        str | None,
        Header(max_length=20, description="Where a broken stream goes on; wins over `after`.", examples=["6"]),
    ] = None,
    after: Annotated[
        int, Query(ge=0, le=_MAX_SEQ, description="The `seq` of the last event that you have.", examples=[0])
    ] = 0,
    limit: Annotated[int, Query(ge=1, le=1000, description="How many at most; a stream has no limit.")] = 100,
) -> Response:
    """Append-only and numbered. A stream first replays what you do not have, and ends with the job."""
    # isdecimal, not isdigit: a superscript is a digit, and int() refuses it.
    if last_event_id is not None and last_event_id.isdecimal():
        after = min(int(last_event_id), _MAX_SEQ)
    if "text/event-stream" in accept:
        return await following.event_stream(services, job_id, after=after)
    page = await run_in_threadpool(following.event_page, services, job_id, after=after, limit=limit)
    return Response(page.model_dump_json(), media_type="application/json")


@router.post(
    "/{job_id}/cancel",
    operation_id="cancelJob",
    summary="Cancel a job",
    status_code=202,
    responses={
        **answer(202, Job, "A queued job is cancelled, a running one is asked to stop.", "cancelled_job"),
        **problems(errors.NotFound, errors.JobAlreadyFinished, errors.IdempotencyKeyReused),
    },
)
async def cancel_job(
    request: Request, services: ServicesDependency, job_id: JobIdPath, idempotency_key: IdempotencyKeyHeader = None
) -> Response:
    """May be repeated while the job is unfinished; a finished job answers 409."""
    body_sha256 = hashlib.sha256(await request.body()).hexdigest()
    once = Once.of(request, idempotency_key, body_sha256)
    found = await run_in_threadpool(service.cancel, services, job_id, once)
    return found.response()
