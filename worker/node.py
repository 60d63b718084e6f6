"""This worker's presence: it says who it is, that it lives, and looks after the queue, each in a thread of its own."""

from __future__ import annotations

import logging
import os
import platform
import threading
from importlib.metadata import version

from shared.database import Database
from shared.database.job_repository import JobRepository
from shared.database.records import WorkerDescription
from shared.database.worker_repository import WorkerRepository
from shared.errors import ServiceError
from shared.settings import WorkerSettings
from worker.environment import cpu, cpu_labels, runtimes_beside_torch

_LOG = logging.getLogger(__name__)
_HEARTBEAT_SECONDS = 5.0


def describe_worker(settings: WorkerSettings, sandbox_level: str) -> WorkerDescription:
    """What is told of this worker in /v1/meta."""
    cpu_model, isa = cpu()
    return WorkerDescription(
        hostname=platform.node(),
        cpu_model=cpu_model,
        isa=isa,
        cores=len(os.sched_getaffinity(0)),
        torch=version("torch"),
        sandbox_level=sandbox_level,
        concurrency=settings.concurrency,
        runtimes=runtimes_beside_torch(),
        labels=cpu_labels() | settings.labels,
    )


class Presence:
    """Registers the worker and keeps its heartbeat, until it is stopped."""

    def __init__(self, database: Database, worker_id: str, description: WorkerDescription) -> None:
        self._database = database
        self._worker_id = worker_id
        self._description = description
        self._running = 0
        self._lock = threading.Lock()

    def job_began(self) -> None:
        """A job runs here."""
        with self._lock:
            self._running += 1
        self._say()

    def job_ended(self) -> None:
        """It runs no more."""
        with self._lock:
            self._running -= 1
        self._say()

    def free_slots(self) -> int:
        """How many more jobs could run here now."""
        return max(self._description.concurrency - self._running, 0)

    def run(self, stop: threading.Event) -> None:
        """Say that the worker lives, every 5 s, until `stop` is set; then that it is gone."""
        while True:
            self._say()
            if stop.wait(_HEARTBEAT_SECONDS):
                break
        try:
            with self._database.write() as connection:
                WorkerRepository(connection).unregister(self._worker_id)
        except ServiceError as error:
            _LOG.warning("The end of this worker was not recorded: %s", error)

    def _say(self) -> None:
        status = "busy" if self._running else "idle"
        try:
            with self._database.write() as connection:
                workers = WorkerRepository(connection)
                if not workers.heartbeat(self._worker_id, status):
                    workers.register(self._worker_id, self._description)
                    JobRepository(connection).publish_again()
        except ServiceError as error:
            _LOG.warning("The heartbeat of this worker was not recorded: %s", error)
