"""Whether this process lives, whether it can serve, and what it measures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from typing import Literal

from fastapi import APIRouter, Response
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from pydantic import BaseModel, Field

from api import examples
from api.openapi import answer
from api.services import Services, ServicesDependency
from shared.database import Database, metrics
from shared.database.worker_repository import ALIVE_SECONDS, WorkerRepository
from shared.errors import OctavoError
from shared.task_queue import TaskQueue

router = APIRouter(tags=["health"])

_CHECK_SECONDS = 1.5


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Check(BaseModel):
    """One thing that the service needs."""

    ok: bool
    detail: str | None = Field(default=None, description="What is wrong, or what was found.")


class Readiness(BaseModel):
    """What works."""

    status: Literal["ready", "degraded", "unavailable"] = Field(
        description="`degraded`: jobs are accepted and will run later; `unavailable`: requests would fail."
    )
    checks: dict[Literal["database", "object_store", "broker", "workers"], Check]


@router.get(
    "/healthz",
    operation_id="getHealth",
    summary="Whether the process lives",
    responses=answer(200, Health, "It does.", "healthy"),
)
async def get_health() -> Health:
    """Asks nothing of the database, the object store or the broker."""
    return Health()


@router.get(
    "/readyz",
    operation_id="getReadiness",
    summary="Whether requests can be served",
    responses={
        **answer(200, Readiness, "They can.", "ready"),
        **answer(503, Readiness, "They cannot now.", "not_ready"),
    },
)
async def get_readiness(services: ServicesDependency, response: Response) -> Readiness:
    """A lost broker is reported and not fatal: it costs time, never a job."""
    database, store, broker, workers = await asyncio.gather(
        _check(services.database.check),
        _check(services.store.check),
        _check(lambda: _require_broker(services)),
        _check(lambda: _count_workers(services)),
    )
    usable = database.ok and store.ok and (workers.ok or not services.settings.api.ready_needs_worker)
    response.status_code = 200 if usable else 503
    return Readiness(
        status="unavailable" if not usable else "ready" if broker.ok and workers.ok else "degraded",
        checks={"database": database, "object_store": store, "broker": broker, "workers": workers},
    )


@router.get(
    "/metrics",
    operation_id="getMetrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={
        200: {
            "description": "Text format; what concerns jobs comes from the database, so that all replicas agree.",
            "content": {"text/plain": {"schema": {"type": "string"}, "example": examples.METRICS}},
        }
    },
)
def get_metrics(services: ServicesDependency) -> Response:
    """HTTP metrics are of this process."""
    return Response(generate_latest(services.metrics), media_type=CONTENT_TYPE_LATEST)


class ServiceMetrics(Collector):
    """Asks at each scrape: the broker whether it answers, the database for jobs, workers and outcomes."""

    def __init__(self, database: Database, queue: TaskQueue) -> None:
        self._database = database
        self._queue = queue

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not ask the database."""
        return []

    def collect(self) -> Iterator[Metric]:
        """One family a metric."""
        build = GaugeMetricFamily("octavo_build_info", "Always 1; the label is the version.", labels=["version"])
        build.add_metric([version("octavo-server")], 1)
        yield build
        broker = "Whether the broker answered this scrape."
        yield GaugeMetricFamily("octavo_broker_up", broker, value=int(self._queue.check()))
        up = GaugeMetricFamily("octavo_database_up", "Whether the database answered this scrape.")
        try:
            with self._database.read() as connection:
                gauges = metrics.live_samples(connection, worker_timeout_seconds=ALIVE_SECONDS)
                counters, histograms = metrics.stored_series(connection)
        except OctavoError:
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        yield from _families(gauges, GaugeMetricFamily)
        yield from _families(counters, CounterMetricFamily)
        yield from _histograms(histograms)


def _families(samples: list[metrics.Sample], make: type[GaugeMetricFamily | CounterMetricFamily]) -> Iterator[Metric]:
    families: dict[str, GaugeMetricFamily | CounterMetricFamily] = {}
    for sample in samples:
        labels = sorted(sample.labels)
        family = families.get(sample.metric)
        if family is None:
            family = families[sample.metric] = make(sample.metric, metrics.HELP[sample.metric], labels=labels)
        family.add_metric([sample.labels[label] for label in labels], sample.value)
    yield from families.values()


def _histograms(histograms: list[metrics.Histogram]) -> Iterator[Metric]:
    families: dict[str, HistogramMetricFamily] = {}
    for each in histograms:
        labels = sorted(each.labels)
        family = families.get(each.metric)
        if family is None:
            family = HistogramMetricFamily(each.metric, metrics.HELP[each.metric], labels=labels)
            families[each.metric] = family
        family.add_metric([each.labels[label] for label in labels], each.buckets, each.sum)
    yield from families.values()


def new_registry(database: Database, queue: TaskQueue) -> CollectorRegistry:
    """A registry of this application's own, with the metrics of the whole service in it."""
    registry = CollectorRegistry()
    registry.register(ServiceMetrics(database, queue))
    return registry


def _require_broker(services: Services) -> None:
    if not services.queue.check():
        raise OctavoError("The broker does not answer; jobs are found without it, some seconds later.")


def _count_workers(services: Services) -> str:
    with services.database.read() as connection:
        alive = len(WorkerRepository(connection).alive())
    if not alive:
        raise OctavoError("No worker is alive; jobs wait for one.")
    return f"{alive} alive"


async def _check(ask: Callable[[], str | None]) -> Check:
    loop = asyncio.get_running_loop()
    try:
        # Not the pool that requests run in: a check that hangs must not take their threads.
        detail = await asyncio.wait_for(loop.run_in_executor(None, ask), _CHECK_SECONDS)
    except OctavoError as error:
        return Check(ok=False, detail=error.message)
    except TimeoutError:
        return Check(ok=False, detail=f"No answer within {_CHECK_SECONDS:.0f} s.")
    return Check(ok=True, detail=detail)
