"""Every SQL statement about jobs.

Transitions are single conditional UPDATEs. A claim raises `fence`; every write of a running job carries its claim, and
a stale one raises StaleFence. Every change raises `event_seq` and appends an event in the same transaction, so
`event_seq` is the version of the job that long polls and ETags go by.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Connection, Row, and_, case, func, insert, literal, null, or_, select, update

from shared.benchmark_spec import BenchmarkSpec
from shared.database import metrics
from shared.database.records import Claim, DueJob, JobRecord, MeasurementRecord, WorkerDescription
from shared.database.tables import job_events, job_objects, job_reports, jobs, now
from shared.errors import JobAlreadyFinished, JobError, NotFound, StaleFence, WorkerLost
from shared.hardware import lacks, stored_hardware
from shared.job import FINISHED, TRANSITIONS, Artifact, EventKind, JobEvent, JobStatus, Progress, Step, new_id
from shared.job_spec import Spec, job_spec_adapter, objects_of
from shared.measuring_elsewhere import measurements
from shared.quantization_spec import Hardware

_MAX_BACKOFF_SECONDS = 600.0
_REPUBLISH_DOUBLINGS = 5
_MAX_DEMANDS = 1000  # in one statement; the rest have their turn when these have had theirs


class JobRepository:
    """Jobs, within one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    # --- for the API ---

    def create(
        self,
        spec: Spec,
        *,
        based_on: str | None = None,
        changes: dict[str, Any] | None = None,
        measures: str | None = None,
        waiting_for: str | None = None,
    ) -> JobRecord:
        """Insert a queued job; the caller has checked that the spec's objects exist.

        `based_on` is the job whose spec was patched with `changes`, `measures` the one whose artifacts it is to
        measure; `waiting_for` says why no live worker may run it.
        """
        job_id = new_id("job")
        self._connection.execute(
            insert(jobs).values(
                id=job_id,
                method=spec.method,
                status=JobStatus.QUEUED,
                name=spec.name,
                spec=spec.model_dump(mode="json"),
                hardware=None if spec.hardware is None else spec.hardware.model_dump_json(),
                based_on=based_on,
                changes=null() if changes is None else changes,
                measures=measures,
                created_at=now(),
                not_before=now(),
                next_publish_at=now(),
            )
        )
        objects = [{"job_id": job_id, "object_id": each} for each in objects_of(spec)]
        if objects:  # none where artifacts are measured on random inputs
            self._connection.execute(insert(job_objects), objects)
        reason = {} if waiting_for is None else {"waiting_for": waiting_for}
        self._append_event(job_id, "status", {"status": JobStatus.QUEUED, "attempt": 0, **reason})
        return self.get(job_id)

    def get(self, job_id: str, *, with_report: bool = False) -> JobRecord:
        """The job, or NotFound."""
        row = self._connection.execute(select(jobs).where(jobs.c.id == job_id)).one_or_none()
        if row is None:
            raise NotFound(f"No job has the id {job_id!r}.")
        report = None
        if with_report:
            report = self._connection.scalar(select(job_reports.c.report).where(job_reports.c.job_id == job_id))
        return _record(row, report)

    def versions(self, job_ids: Collection[str]) -> dict[str, int]:
        """`event_seq` of each of these jobs that exist: what long polls and event streams ask again and again."""
        found = self._connection.execute(select(jobs.c.id, jobs.c.event_seq).where(jobs.c.id.in_(job_ids)))
        return {row.id: row.event_seq for row in found}

    def unfinished_of(self, job_ids: Collection[str]) -> set[str]:
        """Those of these jobs that have not ended."""
        query = select(jobs.c.id).where(jobs.c.id.in_(job_ids), jobs.c.status.not_in(FINISHED))
        return set(self._connection.scalars(query))

    def measurements_of(self, job_ids: Collection[str]) -> dict[str, list[MeasurementRecord]]:
        """The benchmarks that these jobs asked for."""
        query = select(jobs.c.id, jobs.c.measures, jobs.c.hardware, jobs.c.status).where(jobs.c.measures.in_(job_ids))
        found: dict[str, list[MeasurementRecord]] = {}
        for row in self._connection.execute(query):
            hardware = stored_hardware(row.hardware) or Hardware()
            found.setdefault(row.measures, []).append(MeasurementRecord(hardware, row.id, JobStatus(row.status)))
        return found

    def page(self, *, status: JobStatus | None, limit: int, after: str | None) -> tuple[list[JobRecord], bool]:
        """The newest jobs first, those before the id `after`; and whether there are more."""
        query = select(jobs).order_by(jobs.c.id.desc()).limit(limit + 1)
        if status is not None:
            query = query.where(jobs.c.status == status)
        if after is not None:
            query = query.where(jobs.c.id < after)
        rows = self._connection.execute(query).all()
        return [_record(row) for row in rows[:limit]], len(rows) > limit

    def events(self, job_id: str, *, after: int, limit: int) -> tuple[list[JobEvent], bool]:
        """The events after `after`, oldest first; and whether there are more."""
        rows = self._connection.execute(
            select(job_events)
            .where(job_events.c.job_id == job_id, job_events.c.seq > after)
            .order_by(job_events.c.seq)
            .limit(limit + 1)
        ).all()
        found = [JobEvent(seq=row.seq, kind=row.kind, created_at=row.created_at, data=row.data) for row in rows[:limit]]
        return found, len(rows) > limit

    def request_cancel(self, job_id: str) -> JobRecord:
        """Cancel a queued job at once, ask a running one to stop; JobAlreadyFinished when there is nothing to stop."""
        cancelled = self._transition(
            job_id, JobStatus.CANCELLED, jobs.c.status == JobStatus.QUEUED, finished_at=now(), cancel_requested_at=now()
        )
        if cancelled is not None:
            self._append_event(job_id, "status", {"status": JobStatus.CANCELLED, "attempt": cancelled.attempt})
            metrics.record_finish(self._connection, cancelled, reason="user", report=None)
            return self.get(job_id)
        asked = self._connection.execute(
            update(jobs)
            .where(jobs.c.id == job_id, jobs.c.status == JobStatus.RUNNING, jobs.c.cancel_requested_at.is_(None))
            .values(cancel_requested_at=now())
        )
        if asked.rowcount:
            self._append_event(job_id, "log", {"message": "Cancel requested."})
        job = self.get(job_id, with_report=True)
        if job.status is not JobStatus.RUNNING:
            raise JobAlreadyFinished(f"The job has already {_past(job.status)} and cannot be cancelled.")
        return job

    # --- for the worker that runs it ---

    def claim(self, job_id: str, *, worker_id: str, worker: WorkerDescription, lease_seconds: float) -> Claim | None:
        """Take a due queued job for this worker; None when it is not to be had: the hint was old, or led astray."""
        hardware = self._connection.scalar(select(jobs.c.hardware).where(jobs.c.id == job_id))
        if lacks(
            worker, stored_hardware(hardware)
        ):  # it never changes, so that nothing comes between this and the update
            return None
        row = self._transition(
            job_id,
            JobStatus.RUNNING,
            and_(jobs.c.status == JobStatus.QUEUED, jobs.c.not_before <= now()),
            fence=jobs.c.fence + 1,
            attempt=jobs.c.attempt + 1,
            worker_id=worker_id,
            lease_expires_at=now() + lease_seconds,
            started_at=now(),
            sandbox_level=worker.sandbox_level,
            step=None,
            fraction=0.0,
            message="",
            eta_seconds=None,
        )
        if row is None:
            return None
        self._append_event(job_id, "status", {"status": JobStatus.RUNNING, "attempt": row.attempt, "worker": worker_id})
        return Claim(job_id=job_id, fence=row.fence, attempt=row.attempt, spec=row.spec)

    def renew_lease(self, claim: Claim, lease_seconds: float) -> None:
        """Keep the claim; StaleFence when it is lost."""
        self._update_claimed(claim, lease_expires_at=now() + lease_seconds)

    def cancel_requested(self, claim: Claim) -> bool:
        """Whether somebody asked to cancel; StaleFence when the claim is lost."""
        row = self._connection.execute(
            select(jobs.c.cancel_requested_at).where(jobs.c.id == claim.job_id, _holds(claim))
        ).one_or_none()
        if row is None:
            raise StaleFence
        return row.cancel_requested_at is not None

    def record_progress(self, claim: Claim, step: Step, progress: Progress) -> None:
        """Say how far the job is."""
        values = {"step": step, **progress.model_dump()}
        self._update_claimed(claim, **values)
        self._append_event(claim.job_id, "progress", values)

    def record_event(self, claim: Claim, kind: EventKind, data: dict[str, Any]) -> None:
        """Append to the job's history."""
        self._update_claimed(claim, step=jobs.c.step)
        self._append_event(claim.job_id, kind, data)

    def succeed(self, claim: Claim, report: dict[str, Any], artifacts: Sequence[Artifact]) -> None:
        """Accept this attempt's result, and queue the benchmarks that the spec asks for on other hardware."""
        word = report.get("verdict", {"word": "measured"})["word"]  # a benchmark gives no verdict
        row = self._finish(
            claim,
            JobStatus.SUCCEEDED,
            {},
            artifacts=[each.model_dump() for each in artifacts],
            fraction=1.0,
            message=word,  # lists of jobs are without reports
            eta_seconds=0.0,
        )
        self._connection.execute(insert(job_reports).values(job_id=claim.job_id, report=report))
        spec = job_spec_adapter.validate_python(claim.spec)
        if not isinstance(spec, BenchmarkSpec):
            for each in measurements(claim.job_id, spec, report):
                self.create(each, measures=claim.job_id)
        metrics.record_finish(self._connection, row, reason=word, report=report)

    def fail(self, claim: Claim, error: JobError) -> None:
        """Give the job up for good."""
        values = {"error": error.model_dump(), "eta_seconds": None}
        row = self._finish(claim, JobStatus.FAILED, {"error": error.model_dump()}, **values)
        metrics.record_finish(self._connection, row, reason=error.code, report=None)

    def cancel(self, claim: Claim) -> None:
        """The job was stopped because somebody asked for it."""
        row = self._finish(claim, JobStatus.CANCELLED, {}, eta_seconds=None)
        metrics.record_finish(self._connection, row, reason="user", report=None)

    def retry_later(self, claim: Claim, error: JobError, *, base_seconds: float, crashed: bool = False) -> None:
        """Queue the job again after a service's fault, with backoff (doubling, jittered, at most 600 s)."""
        delay = backoff_seconds(claim.attempt, base_seconds)
        row = self._requeue(claim, not_before=now() + delay, crashes=jobs.c.crashes + int(crashed))
        data = {"error": error.model_dump(), "retry_in_seconds": delay, "attempt": row.attempt}
        self._append_event(claim.job_id, "status", {"status": JobStatus.QUEUED, **data})

    def release(self, claim: Claim, reason: str) -> None:
        """Queue the job again because this worker shuts down: at once, and the attempt does not count."""
        row = self._requeue(claim, not_before=now(), attempt=jobs.c.attempt - 1)
        data = {"status": JobStatus.QUEUED, "attempt": row.attempt, "reason": reason}
        self._append_event(claim.job_id, "status", data)

    # --- for the reconciler ---

    def due_for_publish(self, *, republish_seconds: float, limit: int) -> list[DueJob]:
        """Queued jobs whose hint was never sent, or long ago; marked as sent now, oldest first."""
        # Doubling keeps thousands of waiting jobs from being hinted at again and again.
        wait = literal(republish_seconds) * func.power(2.0, _least(jobs.c.publish_count, _REPUBLISH_DOUBLINGS))
        due = (
            select(jobs.c.id, jobs.c.hardware)
            .where(jobs.c.status == JobStatus.QUEUED, jobs.c.next_publish_at <= now(), jobs.c.not_before <= now())
            .order_by(jobs.c.next_publish_at, jobs.c.id)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        found = [DueJob(row.id, stored_hardware(row.hardware)) for row in self._connection.execute(due)]
        if found:
            values = {"next_publish_at": now() + wait, "publish_count": jobs.c.publish_count + 1}
            self._connection.execute(update(jobs).where(jobs.c.id.in_([each.id for each in found])).values(**values))
        return found

    def publish_again(self) -> None:
        """Let jobs that ask for hardware be hinted at soon: a worker has come, and may be what they wait for."""
        asks = and_(jobs.c.status == JobStatus.QUEUED, jobs.c.hardware.is_not(None))
        self._connection.execute(update(jobs).where(asks).values(next_publish_at=now()))

    def oldest_waiting(self, limit: int, worker: WorkerDescription) -> list[str]:
        """The queued jobs that this worker should look at first when it is idle, wherever their hints are."""
        waits = and_(jobs.c.status == JobStatus.QUEUED, jobs.c.not_before <= now())
        demands = (
            select(jobs.c.hardware)
            .where(jobs.c.status == JobStatus.QUEUED, jobs.c.hardware.is_not(None))
            .group_by(jobs.c.hardware)
            .order_by(func.min(jobs.c.id))
        )
        met = [each for each in self._connection.scalars(demands) if not lacks(worker, stored_hardware(each))]
        mine = or_(jobs.c.hardware.is_(None), jobs.c.hardware.in_(met[:_MAX_DEMANDS]))
        return list(self._connection.scalars(select(jobs.c.id).where(waits, mine).order_by(jobs.c.id).limit(limit)))

    def expire_leases(self, *, max_attempts: int, base_seconds: float) -> list[str]:
        """Free the jobs whose worker went away: run again, or cancelled if asked, or failed after too many attempts."""
        lost = (
            select(jobs.c.id, jobs.c.fence, jobs.c.attempt, jobs.c.spec, jobs.c.cancel_requested_at)
            .where(jobs.c.status == JobStatus.RUNNING, jobs.c.lease_expires_at < now())
            .with_for_update(skip_locked=True)
        )
        expired = []
        for row in self._connection.execute(lost).all():
            claim = Claim(job_id=row.id, fence=row.fence, attempt=row.attempt, spec=row.spec)
            error = WorkerLost().to_job_error()
            if row.cancel_requested_at is not None:
                self.cancel(claim)
            elif row.attempt >= max_attempts:
                self.fail(claim, error)
            else:
                self.retry_later(claim, error, base_seconds=base_seconds)
            metrics.increment(self._connection, "octavo_lease_expired_total", {})
            expired.append(row.id)
        return expired

    # --- the parts of a transition ---

    def _transition(self, job_id: str, to: JobStatus, condition: Any, **values: Any) -> Row[Any] | None:
        sources = [status for status, following in TRANSITIONS.items() if to in following]
        statement = update(jobs).where(jobs.c.id == job_id, jobs.c.status.in_(sources), condition)
        return self._connection.execute(statement.values(status=to, **values).returning(jobs)).one_or_none()

    def _finish(self, claim: Claim, to: JobStatus, data: dict[str, Any], **values: Any) -> Row[Any]:
        row = self._transition(claim.job_id, to, _holds(claim), finished_at=now(), lease_expires_at=None, **values)
        if row is None:
            raise StaleFence
        self._append_event(claim.job_id, "status", {"status": to, "attempt": claim.attempt, **data})
        return row

    def _requeue(self, claim: Claim, **values: Any) -> Row[Any]:
        row = self._transition(
            claim.job_id,
            JobStatus.QUEUED,
            _holds(claim),
            lease_expires_at=None,
            worker_id=None,
            next_publish_at=values["not_before"],
            publish_count=0,
            step=None,
            fraction=0.0,
            message="",
            eta_seconds=None,
            **values,
        )
        if row is None:
            raise StaleFence
        return row

    def _update_claimed(self, claim: Claim, **values: Any) -> None:
        statement = update(jobs).where(jobs.c.id == claim.job_id, _holds(claim)).values(**values)
        if not self._connection.execute(statement).rowcount:
            raise StaleFence

    def _append_event(self, job_id: str, kind: EventKind, data: dict[str, Any]) -> None:
        raised = update(jobs).where(jobs.c.id == job_id).values(event_seq=jobs.c.event_seq + 1)
        seq = self._connection.scalar(raised.returning(jobs.c.event_seq))
        self._connection.execute(
            insert(job_events).values(job_id=job_id, seq=seq, kind=kind, created_at=now(), data=data)
        )


def backoff_seconds(attempt: int, base_seconds: float) -> float:
    """Delay before the attempt after `attempt`: base · 2^(attempt-1), at most 600 s, times a jitter in 0.5..1."""
    delay = min(base_seconds * 2.0 ** (attempt - 1), _MAX_BACKOFF_SECONDS)
    return delay * random.uniform(0.5, 1.0)  # noqa: S311 - jitter


def unfinished_jobs_of(connection: Connection, object_id: str) -> list[str]:
    """Queued and running jobs that name the object."""
    query = select(jobs.c.id).join(job_objects, job_objects.c.job_id == jobs.c.id)
    unfinished = or_(jobs.c.status == JobStatus.QUEUED, jobs.c.status == JobStatus.RUNNING)
    return list(connection.scalars(query.where(job_objects.c.object_id == object_id, unfinished)))


def _holds(claim: Claim) -> Any:
    return and_(jobs.c.status == JobStatus.RUNNING, jobs.c.fence == claim.fence)


def _least(column: Any, bound: int) -> Any:
    return case((column < bound, column), else_=bound)


def _past(status: JobStatus) -> str:
    return {JobStatus.SUCCEEDED: "succeeded", JobStatus.FAILED: "failed"}.get(status, "been cancelled")


def _record(row: Row[Any], report: dict[str, Any] | None = None) -> JobRecord:
    return JobRecord(
        id=row.id,
        status=JobStatus(row.status),
        spec=row.spec,
        name=row.name,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        step=Step(row.step) if row.step else None,
        progress=Progress(fraction=row.fraction, message=row.message, eta_seconds=row.eta_seconds),
        attempt=row.attempt,
        crashes=row.crashes,
        fence=row.fence,
        worker_id=row.worker_id,
        cancel_requested=row.cancel_requested_at is not None,
        sandbox_level=row.sandbox_level,
        not_before=row.not_before,
        error=JobError.model_validate(row.error) if row.error else None,
        artifacts=[Artifact.model_validate(each) for each in row.artifacts],
        event_seq=row.event_seq,
        based_on=row.based_on,
        changes=row.changes,
        report=report,
    )
