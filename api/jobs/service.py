"""Submitting, listing and cancelling jobs; every function blocks, so it runs in a thread."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection

from api.idempotency import Answer, Once, do_once, recalled
from api.jobs.candidates import settle
from api.jobs.checks import check_spec
from api.jobs.requests import Revision
from api.jobs.revising import revise
from api.jobs.schemas import Job, wire_job
from api.jobs.waiting import reasons
from api.services import Services
from api.wire import Page, cursor_of
from shared.benchmark_spec import BenchmarkSpec
from shared.database.job_repository import JobRepository
from shared.database.object_repository import ObjectRepository
from shared.database.worker_repository import WorkerRepository
from shared.hardware import recipients, waiting_for
from shared.job import JobStatus
from shared.job_spec import Spec
from shared.model_file import TensorDescription

RETRY_AFTER_SECONDS = 2


@dataclass(frozen=True)
class _Wanted:
    """What a request comes to."""

    spec: Spec
    inputs: list[TensorDescription] | None = None
    """What the candidates of a benchmark take."""
    based_on: str | None = None
    changes: dict[str, Any] | None = None


def submit(services: Services, request: Spec | Revision, once: Once) -> Answer:
    """Accept the job: its row is committed when this returns, and its hint is on the way."""
    hints: list[tuple[str, str | None]] = []
    # While nobody waits to write: what another job was asked, and what it made, do not change any more.
    with services.database.read() as connection:
        known = recalled(connection, once)
        if known is not None:
            return known
        wanted = _wanted(connection, request)

    def effect(connection: Connection) -> Answer:
        spec = wanted.spec
        check_spec(ObjectRepository(connection), spec, wanted.inputs)
        alive = WorkerRepository(connection).alive()
        reason = waiting_for(spec.hardware, alive)
        job = JobRepository(connection).create(
            spec, waiting_for=reason, based_on=wanted.based_on, changes=wanted.changes
        )
        hints[:] = [(job.id, worker_id) for worker_id in recipients(spec.hardware, alive)]
        headers = {"Location": f"/v1/jobs/{job.id}", "Retry-After": str(RETRY_AFTER_SECONDS)}
        return Answer.of(202, wire_job(job, reason), headers)

    found = do_once(services.database, once, effect)
    if not found.replayed:
        for job_id, worker_id in hints:
            services.hints.hint(job_id, worker_id)
    return found


def _wanted(connection: Connection, request: Spec | Revision) -> _Wanted:
    if isinstance(request, Revision):
        spec, changes = revise(JobRepository(connection), request)
        wanted = _Wanted(spec, based_on=request.based_on, changes=changes)
    else:
        wanted = _Wanted(request)
    if isinstance(wanted.spec, BenchmarkSpec):
        settled = settle(connection, wanted.spec)
        return replace(wanted, spec=settled.spec, inputs=settled.inputs)
    return wanted


def cancel(services: Services, job_id: str, once: Once) -> Answer:
    """Cancel a queued job, ask a running one to stop; JobAlreadyFinished when there is nothing to stop."""

    def effect(connection: Connection) -> Answer:
        return Answer.of(202, wire_job(JobRepository(connection).request_cancel(job_id)))

    return do_once(services.database, once, effect)


def page(services: Services, *, status: JobStatus | None, limit: int, after: str | None) -> Page[Job]:
    """The newest jobs before the id `after`, without their reports."""
    with services.database.read() as connection:
        jobs, has_more = JobRepository(connection).page(status=status, limit=limit, after=after)
        waiting = reasons(connection, jobs)
        measured = JobRepository(connection).measurements_of([each.id for each in jobs])
    following = cursor_of(jobs[-1].id) if has_more else None
    data = [wire_job(each, waiting.get(each.id), measured.get(each.id, ())) for each in jobs]
    return Page[Job].model_construct(data=data, has_more=has_more, next=following)
