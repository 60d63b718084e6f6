"""/v1/plan: ask what a job would do."""

from __future__ import annotations

import hashlib
from typing import Annotated

from fastapi import APIRouter, Body, Request, Response

from api import examples
from api.idempotency import IdempotencyKeyHeader, Once
from api.openapi import answer, problems
from api.plan import service
from api.services import ServicesDependency
from shared import errors
from shared.job_plan import JobPlan, PlanQuestion

router = APIRouter(prefix="/v1", tags=["jobs"])


@router.post(
    "/plan",
    operation_id="planJob",
    summary="Ask what a job would do",
    responses={
        **answer(200, JobPlan, "The plan; nothing is stored, and no job is made.", "plan"),
        **problems(
            errors.MalformedJson,
            errors.SpecInvalid,
            errors.WrongKind,
            errors.NotFound,
            errors.ModelIsOnnx,
            errors.DatasetMismatch,
            errors.LabelsUnusable,
            errors.DataRequired,
            errors.NothingToQuantize,
            errors.ModelCorrupt,
            errors.ModelUnsafe,
            errors.ModelUnsupported,
            errors.JobOutOfMemory,
            errors.OutputTooLarge,
            errors.RuntimeNotInstalled,
            errors.PlanUnavailable,
            errors.IdempotencyKeyReused,
            errors.BodyTooLarge,
            errors.UnsupportedMediaType,
        ),
    },
)
async def plan_job(
    request: Request,
    services: ServicesDependency,
    question: Annotated[PlanQuestion, Body(openapi_examples=examples.PLAN_REQUESTS)],
    idempotency_key: IdempotencyKeyHeader = None,
) -> Response:
    """The spec of a job, of which the data may be left out. A worker answers in seconds, from the model alone.

    Which operators will be quantized and which not, and why; what share of the arithmetic that is, in each runtime;
    whether the CPU has the instructions for it; and how long the job will take. Where the spec asks for hardware, a
    worker that has it answers.
    """
    body_sha256 = hashlib.sha256(await request.body()).hexdigest()
    once = Once.of(request, idempotency_key, body_sha256)
    found = await service.plan(services, question, once, request.is_disconnected)
    return found.response()
