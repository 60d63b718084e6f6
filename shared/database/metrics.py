"""Metrics that outlive a process: raised where something happens, read at each scrape.

Counters and histograms live in `metric_values` and are raised in the transaction that does what they count, so restarts
lose nothing and every replica answers alike; gauges are counted from the tables.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, case, func, select
from sqlalchemy.dialects import postgresql, sqlite

from shared.database.records import WorkerDescription
from shared.database.tables import jobs, metric_values, now, workers
from shared.hardware import lacks, stored_hardware
from shared.job import JobStatus
from shared.job_spec import METHODS

_SECONDS = (0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 7200)
BUCKETS: dict[str, tuple[float, ...]] = {
    "octavo_job_queue_seconds": (0.1, 0.25, *_SECONDS),
    "octavo_job_run_seconds": _SECONDS,
    "octavo_job_speedup_ratio": (0.5, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2, 2.5, 3, 4, 6, 8),
    "octavo_job_accuracy_drop": (-0.01, -0.001, 0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
}
"""Upper bounds of the histograms' buckets; seconds, ratio, absolute top-1 or top-5 drop."""

HELP: dict[str, str] = {
    "octavo_jobs": "Jobs by status and method.",
    "octavo_oldest_queued_age_seconds": "Age of the oldest job that is due and waits for a worker that there is.",
    "octavo_jobs_waiting_for_hardware": "Queued jobs that ask for hardware which no live worker has.",
    "octavo_workers": "Live workers by sandbox level.",
    "octavo_jobs_finished_total": "Finished jobs by outcome and reason: the verdict, of a benchmark `measured`, the "
    "error code, or who cancelled.",
    "octavo_upload_bytes_total": "Bytes of the models and datasets that were stored, by kind.",
    "octavo_lease_expired_total": "Attempts that ended because their worker went away.",
    "octavo_job_queue_seconds": "From creation to the start of the last attempt.",
    "octavo_job_run_seconds": "Of the last attempt.",
    "octavo_job_speedup_ratio": "Float p50 / int8 p50 at the first benchmark setting.",
    "octavo_job_accuracy_drop": "Absolute drop of top-1 or top-5.",
}


@dataclass(frozen=True)
class Sample:
    """One value of a gauge or counter."""

    metric: str
    labels: dict[str, str]
    value: float


@dataclass(frozen=True)
class Histogram:
    """One labelled histogram: cumulative counts by upper bound, `+Inf` last."""

    metric: str
    labels: dict[str, str]
    buckets: list[tuple[str, float]]
    sum: float


def record_finish(connection: Connection, job: Row[Any], *, reason: str, report: dict[str, Any] | None) -> None:
    """Count a finished job, within the transaction that finishes it; `job` is the row as it stands now."""
    labels = {"method": job.method}
    increment(connection, "octavo_jobs_finished_total", {**labels, "outcome": job.status, "reason": reason})
    if job.started_at is not None:
        _observe(connection, "octavo_job_queue_seconds", labels, max(job.started_at - job.created_at, 0.0))
        _observe(connection, "octavo_job_run_seconds", labels, max(job.finished_at - job.started_at, 0.0))
    if report is None or job.method == "benchmark":  # which holds no int8 against float
        return
    if report["latency"]:
        _observe(connection, "octavo_job_speedup_ratio", labels, report["latency"][0]["speedup"])
    metric = report["quality"]["metric"]
    if metric is not None and metric["name"] in {"top1", "top5"}:
        _observe(connection, "octavo_job_accuracy_drop", labels, metric["drop"])


def increment(connection: Connection, metric: str, labels: dict[str, str], *, by: float = 1.0) -> None:
    """Raise a counter."""
    _add(connection, metric, labels, {"": by})


def live_samples(connection: Connection, *, worker_timeout_seconds: float) -> list[Sample]:
    """Gauges, counted from the tables."""
    by_status = {
        (status, method): count
        for status, method, count in connection.execute(
            select(jobs.c.status, jobs.c.method, func.count()).group_by(jobs.c.status, jobs.c.method)
        )
    }
    methods = sorted({method for _, method in by_status} | set(METHODS))
    samples = [
        Sample("octavo_jobs", {"status": status, "method": method}, by_status.get((status, method), 0))
        for status in JobStatus
        for method in methods
    ]
    found = select(workers.c.description).where(workers.c.heartbeat_at > now() - worker_timeout_seconds)
    alive = [WorkerDescription.model_validate(each) for each in connection.scalars(found)]
    samples.extend(_queued(connection, alive))
    levels: dict[str, int] = {}
    for worker in alive:
        levels[worker.sandbox_level] = levels.get(worker.sandbox_level, 0) + 1
    samples.extend(
        Sample("octavo_workers", {"sandbox_level": level}, n) for level, n in (levels or {"none": 0}).items()
    )
    return samples


def _queued(connection: Connection, alive: list[WorkerDescription]) -> list[Sample]:
    """How long jobs have waited, and how many wait for hardware that is not there; these do not count as the oldest."""
    due_since = case((jobs.c.not_before <= now(), jobs.c.created_at))
    by_hardware = connection.execute(
        select(jobs.c.hardware, func.count(), now() - func.min(due_since))
        .where(jobs.c.status == JobStatus.QUEUED)
        .group_by(jobs.c.hardware)
    )
    oldest, unmet = 0.0, 0
    for stored, count, age in by_hardware:
        hardware = stored_hardware(stored)
        if hardware is None or any(not lacks(each, hardware) for each in alive):
            oldest = max(oldest, age or 0.0)
        else:
            unmet += count
    return [
        Sample("octavo_oldest_queued_age_seconds", {}, oldest),
        Sample("octavo_jobs_waiting_for_hardware", {}, unmet),
    ]


def stored_series(connection: Connection) -> tuple[list[Sample], list[Histogram]]:
    """Counters and histograms, as they were raised."""
    counters: list[Sample] = []
    cells: dict[tuple[str, str], dict[str, float]] = {}
    for row in connection.execute(select(metric_values)):
        if row.bucket == "":
            counters.append(Sample(row.metric, json.loads(row.labels), row.value))
        else:
            cells.setdefault((row.metric, row.labels), {})[row.bucket] = row.value
    histograms = []
    for (metric, labels), cell in sorted(cells.items()):
        cumulative, buckets = 0.0, []
        for bound in [*map(_bound, BUCKETS[metric]), "+Inf"]:
            cumulative += cell.get(bound, 0.0)
            buckets.append((bound, cumulative))
        histograms.append(Histogram(metric, json.loads(labels), buckets, cell.get("sum", 0.0)))
    return counters, histograms


def _observe(connection: Connection, metric: str, labels: dict[str, str], value: float) -> None:
    bound = next((_bound(each) for each in BUCKETS[metric] if value <= each), "+Inf")
    _add(connection, metric, labels, {bound: 1.0, "sum": value})


def _add(connection: Connection, metric: str, labels: dict[str, str], cells: dict[str, float]) -> None:
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    key = json.dumps(labels, sort_keys=True)
    for bucket, by in sorted(cells.items()):  # sorted: two transactions lock the same rows in the same order
        statement = dialect.insert(metric_values).values(metric=metric, labels=key, bucket=bucket, value=by)
        total = metric_values.c.value + statement.excluded.value
        connection.execute(
            statement.on_conflict_do_update(index_elements=["metric", "labels", "bucket"], set_={"value": total})
        )


def _bound(value: float) -> str:
    return repr(float(value))
