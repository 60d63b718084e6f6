"""While one job of a node measures, the others stand still: real workers, real runners."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from shared.database.job_repository import JobRepository
from shared.job import JobStatus, Step
from tests.integration.test_worker_faults import LONG_TRAINING, busy_runner_of, training
from tests.services.node import Node
from tests.services.process import is_alive, wait_until
from tests.services.small_inputs import write_dataset, write_model

MEASURED: dict[str, Any] = {"method": "dynamic", "benchmark": {"batch_sizes": [64, 65, 66, 67], "max_seconds": 2}}


@pytest.fixture
def model(node: Node, tmp_path: Path) -> str:
    return node.add("model", write_model(tmp_path / "net.pt2"))


@pytest.fixture
def data(node: Node, tmp_path: Path) -> str:
    return node.add("dataset", write_dataset(tmp_path / "data.npz"))


def stands_still(runner: int) -> bool:
    """Whether all of a runner's processes are stopped."""
    children = Path(f"/proc/{runner}/task/{runner}/children").read_text().split()
    states = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] for pid in (runner, *children)]
    return len(states) > 1 and set(states) == {"T"}


def told(node: Node, job_id: str) -> int:
    """How much a job has told of itself."""
    with node.database.read() as connection:
        return len(JobRepository(connection).events(job_id, after=0, limit=10_000)[0])


@dataclass
class Measuring:
    """One job trains on a worker, and stands still because another worker measures another job."""

    long: str
    runner: int
    """Of the job that trains."""
    short: str
    worker: Any
    """The one that measures."""


@pytest.fixture
def measuring(node: Node, model: str, data: str) -> Iterator[Measuring]:
    with node.worker("worker1") as first:
        long = node.submit(model=model, training=data, **LONG_TRAINING)
        node.wait_for(long, training)
        runner = busy_runner_of(first)
        with node.worker("worker2") as second:
            short = node.submit(model=model, evaluation=data, **MEASURED)
            node.wait_for(short, lambda job: job.step is Step.BENCHMARK)
            wait_until(lambda: stands_still(runner), "the job that trains to stand still", timeout_seconds=10)
            yield Measuring(long, runner, short, second)


def test_a_job_that_trains_stands_still_while_another_measures_and_goes_on_afterwards(
    node: Node, measuring: Measuring
) -> None:
    heard = told(node, measuring.long)
    assert node.job(measuring.short).status is JobStatus.RUNNING
    assert node.wait_finished(measuring.short).status is JobStatus.SUCCEEDED
    wait_until(lambda: not stands_still(measuring.runner), "the job to go on")
    wait_until(lambda: told(node, measuring.long) > heard, "the job to train on")
    node.cancel(measuring.long)
    assert node.wait_finished(measuring.long).status is JobStatus.CANCELLED


def test_a_job_that_stands_still_can_be_cancelled(node: Node, measuring: Measuring) -> None:
    node.cancel(measuring.long)
    assert node.wait_finished(measuring.long, timeout_seconds=20).status is JobStatus.CANCELLED
    assert not is_alive(measuring.runner)
    assert node.job(measuring.short).status is JobStatus.RUNNING
    assert node.wait_finished(measuring.short).status is JobStatus.SUCCEEDED


def test_the_death_of_the_worker_that_measures_frees_the_others(node: Node, measuring: Measuring) -> None:
    measuring.worker.kill()
    wait_until(lambda: not stands_still(measuring.runner), "the job to go on", timeout_seconds=10)
    node.cancel(measuring.short)
    node.cancel(measuring.long)
    assert node.wait_finished(measuring.long).status is JobStatus.CANCELLED
