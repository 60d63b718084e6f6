"""Brings the world back to what the database says; run by every worker, safe to run by many at once.

Each pass frees the jobs of workers that went away, and sends the hints that were never sent or were lost with the
broker: so Redis may be wiped at any moment, and it costs time, never a job. Now and then it sweeps what is over:
uploads past their time with the parts they left, checkpoints of jobs that have ended, old Idempotency-Keys, workers
long gone, and plans that nobody waits for.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from shared.database import Database, idempotency
from shared.database.job_repository import JobRepository
from shared.database.object_repository import ObjectRepository
from shared.database.plan_repository import PlanRepository
from shared.database.records import WorkerDescription
from shared.database.worker_repository import WorkerRepository
from shared.errors import ServiceError
from shared.hardware import recipients
from shared.object_store import ObjectStore, checkpoint_prefix, upload_prefix
from shared.settings import JobSettings

_LOG = logging.getLogger(__name__)
_BATCH = 100
_SWEEP_EVERY = 60  # passes


class Reconciler:
    """One pass after another, until it is stopped."""

    def __init__(
        self,
        database: Database,
        store: ObjectStore,
        publish: Callable[[str, str | None], bool],
        settings: JobSettings,
        *,
        worker_id: str,
        worker: WorkerDescription,
        free_slots: Callable[[], int],
    ) -> None:
        self._database = database
        self._store = store
        self._publish = publish
        self._settings = settings
        self._worker_id = worker_id
        self._worker = worker
        self._free_slots = free_slots
        self._passes = 0

    def run(self, stop: threading.Event) -> None:
        """Reconcile every `jobs.reconcile_seconds` until `stop` is set; faults are logged and tried again."""
        while not stop.wait(self._settings.reconcile_seconds):
            try:
                self.reconcile()
            except ServiceError as error:
                _LOG.warning("Reconciling failed and is tried again: %s", error)
            except Exception:  # noqa: BLE001 - the next pass may do better
                _LOG.exception("Reconciling failed and is tried again")

    def reconcile(self) -> None:
        """One pass."""
        with self._database.write() as connection:
            repository = JobRepository(connection)
            expired = repository.expire_leases(
                max_attempts=self._settings.max_attempts, base_seconds=self._settings.retry_base_seconds
            )
            due = repository.due_for_publish(republish_seconds=self._settings.republish_seconds, limit=_BATCH)
            alive = WorkerRepository(connection).alive()
            hints = [(each.id, worker_id) for each in due for worker_id in recipients(each.hardware, alive)]
            # An idle worker does not wait for a hint that may be lost: it looks at the oldest jobs itself.
            if free := self._free_slots():
                hinted = {job_id for job_id, _ in hints}
                oldest = repository.oldest_waiting(free, self._worker)
                hints += [(each, self._worker_id) for each in oldest if each not in hinted]
        for job_id in expired:
            _LOG.warning("The worker of %s went away; its lease has expired", job_id)
        for job_id, worker_id in hints:
            if not self._publish(job_id, worker_id):
                break  # the broker is down; idle workers ask for the oldest rows as soon as it is back
        if self._passes % _SWEEP_EVERY == 0:
            self._sweep()
        self._passes += 1

    def _sweep(self) -> None:
        with self._database.write() as connection:
            idempotency.forget_old(connection)
            WorkerRepository(connection).sweep()
            PlanRepository(connection).sweep()
            expired = ObjectRepository(connection).expired_uploads(_BATCH)
        for upload_id in expired:
            # Not only the parts that are recorded: a request that was killed leaves one that is not.
            for part in list(self._store.list(upload_prefix(upload_id))):
                self._store.delete(part.key)
            with self._database.write() as connection:
                ObjectRepository(connection).forget_upload(upload_id)
        self._sweep_checkpoints()

    def _sweep_checkpoints(self) -> None:
        """Delete those of jobs that have ended while no worker held them, as when a queued job is cancelled."""
        by_job: dict[str, list[str]] = {}
        for each in self._store.list(checkpoint_prefix()):
            by_job.setdefault(each.key.split("/")[1], []).append(each.key)
        if not by_job:
            return
        with self._database.read() as connection:
            unfinished = JobRepository(connection).unfinished_of(by_job.keys())
        for job_id in by_job.keys() - unfinished:
            for key in by_job[job_id]:
                self._store.delete(key)
