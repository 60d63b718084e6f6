"""The API under load: POST /v1/jobs at 50 requests/s while the worker computes; 10,000 queued jobs against 100."""

from __future__ import annotations

import queue
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from inputs import digits_dataset, digits_network
from measuring import Result, median, percentile
from running_stack import RunningStack, running_stack

from shared.database import Database, migrate
from shared.database.job_repository import JobRepository
from shared.database.records import WorkerDescription
from shared.quantization_spec import DynamicSpec

RATE_PER_SECOND = 50
SECONDS = 20
SENDERS = 16
FEW, MANY = 100, 10_000
CLAIMS = 60
_WORKER = WorkerDescription(
    hostname="node", cpu_model="a CPU", isa=[], cores=2, torch="", sandbox_level="landlock", concurrency=1
)


def open_loop(stack: RunningStack, body: dict[str, Any]) -> list[float]:
    """Send at a fixed rate whatever the answers; seconds from the time a request was due to its answer."""
    due: queue.SimpleQueue[float | None] = queue.SimpleQueue()
    seconds: list[float] = []

    def send() -> None:
        connection = stack.connect()
        connection.connect()
        while (due_at := due.get()) is not None:
            stack.request("POST", "/v1/jobs", body, connection=connection)
            seconds.append(time.perf_counter() - due_at)

    senders = [threading.Thread(target=send) for _ in range(SENDERS)]
    for sender in senders:
        sender.start()
    started_at = time.perf_counter() + 0.5
    for number in range(RATE_PER_SECOND * SECONDS):
        due_at = started_at + number / RATE_PER_SECOND
        time.sleep(max(0.0, due_at - time.perf_counter()))
        due.put(due_at)
    for _ in senders:
        due.put(None)
    for sender in senders:
        sender.join()
    return seconds


def measure_posts(result: Result) -> None:
    """POST latency beside a worker that trains."""
    with tempfile.TemporaryDirectory() as directory, running_stack() as stack:
        model = stack.upload("models", digits_network(Path(directory) / "digits.pt2"))
        data = stack.upload("datasets", digits_dataset(Path(directory) / "digits.npz"))
        training = {"method": "qat", "model": model, "training": data, "qat": {"epochs": 1000}}
        busy = stack.request("POST", "/v1/jobs", training)["id"]
        while stack.request("GET", f"/v1/jobs/{busy}")["step"] != "train":
            time.sleep(0.2)
        seconds = open_loop(stack, {"method": "dynamic", "model": model})
        still = stack.request("GET", f"/v1/jobs/{busy}")["status"]
    if still != "running":
        raise RuntimeError(f"the worker was not busy all along: the job has {still}")
    result.samples["post_seconds"] = seconds
    result.add(f"POST /v1/jobs at {RATE_PER_SECOND}/s, worker busy, p50", 1000 * median(seconds), "ms")
    result.add(
        f"POST /v1/jobs at {RATE_PER_SECOND}/s, worker busy, p99", 1000 * percentile(seconds, 0.99), "ms", limit=50
    )


def measure_backlog(result: Result) -> None:
    """Listing and claiming, on SQLite, with few and with many queued jobs; interleaved."""
    with tempfile.TemporaryDirectory() as directory:
        databases = {count: filled_database(Path(directory) / f"{count}.sqlite3", count) for count in (FEW, MANY)}
        samples: dict[str, dict[int, list[float]]] = {name: {FEW: [], MANY: []} for name in ("list", "due", "claim")}
        for _ in range(CLAIMS):
            for count, database in databases.items():
                samples["list"][count].append(timed(lambda database=database: list_page(database)))
                samples["due"][count].append(timed(lambda database=database: due_hints(database)))
                samples["claim"][count].append(timed(lambda database=database: claim_one(database)))
        for database in databases.values():
            database.close()
    result.samples["backlog_seconds"] = samples
    for name, by_count in samples.items():
        few, many = median(by_count[FEW]), median(by_count[MANY])
        result.add(f"{name}, {MANY} queued jobs", 1000 * many, "ms")
        limit = None if name == "due" else 1.5
        result.add(f"{name}, {MANY} queued jobs / {FEW}", many / few, "×", limit=limit)


def filled_database(path: Path, count: int) -> Database:
    """A database with this many queued jobs."""
    url = f"sqlite:///{path}"
    migrate(url)
    database = Database(url)
    spec = DynamicSpec(method="dynamic", model="mdl_0000000000000000000000")
    with database.write() as connection:
        repository = JobRepository(connection)
        for _ in range(count):
            repository.create(spec)
    return database


def list_page(database: Database) -> None:
    """What GET /v1/jobs asks the database."""
    with database.read() as connection:
        jobs, more = JobRepository(connection).page(status=None, limit=20, after=None)
    assert len(jobs) == 20
    assert more


def due_hints(database: Database) -> None:
    """What the reconciler asks, every second."""
    with database.write() as connection:
        JobRepository(connection).due_for_publish(republish_seconds=0.001, limit=20)


def claim_one(database: Database) -> None:
    """The oldest waiting job is claimed."""
    with database.write() as connection:
        repository = JobRepository(connection)
        [job_id] = repository.oldest_waiting(1, _WORKER)
        claim = repository.claim(job_id, worker_id="wrk_benchmark", worker=_WORKER, lease_seconds=600)
    assert claim is not None


def timed(action: Callable[[], None]) -> float:
    """Seconds that the action takes."""
    started_at = time.perf_counter()
    action()
    return time.perf_counter() - started_at


def main() -> None:
    """Measure, print and keep."""
    result = Result("api_load")
    measure_backlog(result)
    measure_posts(result)
    result.save()


if __name__ == "__main__":
    main()
