"""Worker processes on a real broker, database and object store, without an API in front: what fault tests need."""

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from server.broker import Broker
from shared.database import Database, migrate
from shared.database.job_repository import JobRepository
from shared.database.object_repository import ObjectRepository
from shared.database.records import JobRecord, ObjectKind, WorkerRecord
from shared.database.worker_repository import WorkerRepository
from shared.dataset_file import inspect_dataset
from shared.hardware import recipients
from shared.job import FINISHED
from shared.job_spec import job_spec_adapter
from shared.model_file import inspect_model
from shared.object_store import blob_key, open_store
from shared.settings import Settings
from shared.task_queue import TaskQueue
from tests.services.process import log_tail, running, wait_until

# Promises with shorter times: the same code paths, sooner.
QUICK_PROMISES = {
    "OCTAVO_JOBS__LEASE_SECONDS": "3",
    "OCTAVO_JOBS__HEARTBEAT_SECONDS": "0.5",
    "OCTAVO_JOBS__RECONCILE_SECONDS": "0.2",
    "OCTAVO_JOBS__RETRY_BASE_SECONDS": "0.2",
    "OCTAVO_JOBS__MAX_ATTEMPTS": "3",
    "OCTAVO_WORKER__SHUTDOWN_GRACE_SECONDS": "0",
}


@dataclass
class Node:
    """A database, a store and a broker that worker processes share, seen through Octavo's own repositories."""

    directory: Path
    broker: Broker
    environment: dict[str, str] = field(default_factory=dict)
    database_url: str | None = None

    def __post_init__(self) -> None:
        self.settings = Settings(
            data_dir=self.directory, queue={"broker_url": self.broker.url}, database={"url": self.database_url}
        )
        migrate(self.settings.database_url)
        self.database = Database(self.settings.database_url)
        self.store = open_store(self.settings)
        self.store.prepare()
        self.queue = TaskQueue(self.settings.queue)

    @contextlib.contextmanager
    def worker(self, name: str = "worker", **environment: str) -> Iterator[Any]:
        """A worker process, alive; its log is <directory>/<name>.log."""
        known = set(self.workers())
        values = {
            **{key: value for key, value in os.environ.items() if not key.startswith("OCTAVO_")},
            **QUICK_PROMISES,
            "OCTAVO_DATA_DIR": str(self.directory),
            "OCTAVO_QUEUE__BROKER_URL": self.broker.url,
            "OCTAVO_DATABASE__URL": self.settings.database_url,
            **self.environment,
            **environment,
        }
        with running(
            [sys.executable, "-m", "worker"],
            ready=lambda: bool(set(self.workers()) - known),
            log=self.directory / f"{name}.log",
            environment=values,
        ) as process:
            yield process

    def freeze(self, process: subprocess.Popen[bytes]) -> None:
        """Stop a worker by SIGSTOP while it holds no lock on SQLite, which nobody could take from it."""
        with self.database.write():
            process.send_signal(signal.SIGSTOP)

    def workers(self) -> list[str]:
        """Ids of the live workers."""
        return [each.id for each in self.live_workers()]

    def live_workers(self) -> list[WorkerRecord]:
        """The live workers, with what they say of themselves."""
        with self.database.read() as connection:
            return WorkerRepository(connection).alive()

    def add(self, kind: ObjectKind, path: Path) -> str:
        """Store a file as an uploaded model or dataset; returns its id."""
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        inspect = inspect_model if kind == "model" else inspect_dataset
        description = inspect(path).model_dump(mode="json")
        self.store.put_file(blob_key(sha256), path, sha256)
        with self.database.write() as connection:
            record, _ = ObjectRepository(connection).add(
                kind=kind,
                name=None,
                filename=path.name,
                size_bytes=path.stat().st_size,
                sha256=sha256,
                description=description,
            )
        return record.id

    def submit(self, *, hint: bool = True, **spec: Any) -> str:
        """Insert a job, as the API does, and send its hint; returns its id. It is for torch alone: that is quicker."""
        checked = job_spec_adapter.validate_python({"runtimes": ["torch"], **spec})
        with self.database.write() as connection:
            job_id = JobRepository(connection).create(checked).id
            alive = WorkerRepository(connection).alive()
        for worker_id in recipients(checked.hardware, alive) if hint else ():
            self.queue.publish_hint(job_id, worker_id)
        return job_id

    def job(self, job_id: str) -> JobRecord:
        """The job as it stands."""
        with self.database.read() as connection:
            return JobRepository(connection).get(job_id, with_report=True)

    def cancel(self, job_id: str) -> None:
        """Ask to cancel."""
        with self.database.write() as connection:
            JobRepository(connection).request_cancel(job_id)

    def statuses(self, job_id: str) -> list[str]:
        """The states that the job went through, in order."""
        with self.database.read() as connection:
            events, _ = JobRepository(connection).events(job_id, after=0, limit=10_000)
        return [event.data["status"] for event in events if event.kind == "status"]

    def wait_for(self, job_id: str, what: Any, *, timeout_seconds: float = 60) -> JobRecord:
        """Wait until `what(job)` holds; returns the job then."""
        wait_until(
            lambda: what(self.job(job_id)),
            f"{job_id}, which is {self.job(job_id)}\n{self.logs()}",
            timeout_seconds=timeout_seconds,
        )
        return self.job(job_id)

    def wait_finished(self, job_id: str, *, timeout_seconds: float = 120) -> JobRecord:
        """Wait until the job has succeeded, failed, or was cancelled."""
        return self.wait_for(job_id, lambda job: job.status in FINISHED, timeout_seconds=timeout_seconds)

    def logs(self) -> str:
        """The ends of all workers' logs."""
        return "\n".join(f"--- {path.name}\n{log_tail(path)}" for path in sorted(self.directory.glob("worker*.log")))

    def close(self) -> None:
        """Let go of connections."""
        self.queue.close()
        self.store.close()
        self.database.close()
