"""Following a job: its representation, long polls, and its history as JSON or as server-sent events."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from fastapi import Response
from fastapi.responses import StreamingResponse
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from starlette.concurrency import run_in_threadpool

from api.jobs.schemas import EventPage, wire_event, wire_job
from api.jobs.waiting import reasons
from api.services import Services
from shared.database.job_repository import JobRepository
from shared.database.records import JobRecord, MeasurementRecord
from shared.job import FINISHED, JobEvent

_BATCH = 500
_KEEPALIVE_SECONDS = 15.0


async def job_response(services: Services, job_id: str, *, wait_seconds: float, if_none_match: str | None) -> Response:
    """The job as it is, or after it has changed, or 304."""
    shown = await run_in_threadpool(_read_shown, services, job_id)
    known = if_none_match is None or _matches(if_none_match, shown.etag)
    if wait_seconds and known and shown.job.status not in FINISHED:
        await services.watch.wait(job_id, shown.job.event_seq, wait_seconds)
        shown = await run_in_threadpool(_read_shown, services, job_id)
    etag = shown.etag
    if if_none_match is not None and _matches(if_none_match, etag):
        return Response(status_code=304, headers={"ETag": etag})
    body = wire_job(shown.job, shown.reason, shown.measurements).model_dump_json(warnings=False)
    return Response(body, headers={"ETag": etag}, media_type="application/json")


def event_page(services: Services, job_id: str, *, after: int, limit: int) -> EventPage:
    """A page of the job's history; blocks."""
    found, has_more = _read_events(services, job_id, after, limit)
    return EventPage(
        data=[wire_event(each) for each in found], has_more=has_more, next=found[-1].seq if found else None
    )


async def event_stream(services: Services, job_id: str, *, after: int) -> Response:
    """The history after `after`, and what follows, until the job is finished; NotFound before the first byte."""
    await run_in_threadpool(_read_job, services, job_id)
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(_stream(services, job_id, after), headers=headers, media_type="text/event-stream")


async def _stream(services: Services, job_id: str, seen: int) -> AsyncIterator[bytes]:
    while True:
        # First the state, then the events: whatever belongs to that state is then among them.
        job = await run_in_threadpool(_read_job, services, job_id)
        has_more = True
        while has_more:
            found, has_more = await run_in_threadpool(_read_events, services, job_id, seen, _BATCH)
            for event in found:
                seen = event.seq
                data = wire_event(event).model_dump_json()
                yield format_sse_event(id=str(event.seq), event=event.kind, data_str=data)
        if job.status in FINISHED or services.watch.closed:
            return
        if not await services.watch.wait(job_id, job.event_seq, _KEEPALIVE_SECONDS):
            yield KEEPALIVE_COMMENT


@dataclass(frozen=True)
class _Shown:
    """A job, and what is shown with it that its own row does not hold."""

    job: JobRecord
    reason: str | None
    """What it waits for: workers come and go without any change of the job."""
    measurements: list[MeasurementRecord]
    """Which go on when it has ended."""

    @property
    def etag(self) -> str:
        beside = "".join([self.reason or "", *(f"{each.job} {each.status}" for each in self.measurements)])
        return f'"{self.job.event_seq}-{zlib.crc32(beside.encode()):08x}"' if beside else f'"{self.job.event_seq}"'


def _read_shown(services: Services, job_id: str) -> _Shown:
    with services.database.read() as connection:
        jobs = JobRepository(connection)
        job = jobs.get(job_id, with_report=True)
        measurements = jobs.measurements_of([job_id]).get(job_id, [])
        return _Shown(job, reasons(connection, [job]).get(job_id), measurements)


def _read_job(services: Services, job_id: str) -> JobRecord:
    with services.database.read() as connection:
        return JobRepository(connection).get(job_id, with_report=True)


def _read_events(services: Services, job_id: str, after: int, limit: int) -> tuple[list[JobEvent], bool]:
    with services.database.read() as connection:
        repository = JobRepository(connection)
        repository.get(job_id)
        return repository.events(job_id, after=after, limit=limit)


def _matches(if_none_match: str, etag: str) -> bool:
    tags = {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}
    return "*" in tags or etag in tags
