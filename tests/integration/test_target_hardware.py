"""Jobs that ask for hardware, on real workers, a real broker and both databases: who has it runs them, nobody else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from server.broker import Broker
from shared.hardware import waiting_for
from shared.job import JobStatus
from shared.quantization_spec import Hardware
from tests.services.node import Node
from tests.services.process import wait_until
from tests.services.small_inputs import write_model

QUICK: dict[str, Any] = {"method": "dynamic", "benchmark": {"max_seconds": 0.1}}
EDGE: dict[str, Any] = {"labels": {"pool": "edge"}}
_LABELS = "OCTAVO_WORKER__LABELS"
IN_LAB, AT_EDGE = {_LABELS: '{"pool": "lab"}'}, {_LABELS: '{"pool": "edge"}'}


@pytest.fixture
def node(request: pytest.FixtureRequest, broker: Broker, tmp_path: Path) -> Iterator[Node]:
    url = None if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    node = Node(tmp_path, broker, database_url=url)
    yield node
    node.close()


@pytest.fixture
def model(node: Node, tmp_path: Path) -> str:
    return node.add("model", write_model(tmp_path / "net.pt2"))


@pytest.mark.parametrize("node", ["postgresql"], indirect=True)  # of claims test_database.py tries both
def test_only_the_worker_with_the_label_takes_the_jobs_that_ask_for_it(node: Node, model: str) -> None:
    """However its hints go: to the right worker, to all, or to none."""
    with node.worker("worker1", **IN_LAB):
        [in_lab] = node.workers()
        with node.worker("worker2", **AT_EDGE):
            [at_edge] = set(node.workers()) - {in_lab}
            asking = node.submit(model=model, hardware=EDGE, **QUICK)
            astray = node.submit(model=model, hardware=EDGE, hint=False, **QUICK)
            node.queue.publish_hint(astray)
            node.queue.publish_hint(astray, in_lab)
            elsewhere = node.submit(model=model, hardware={"labels": {"pool": "lab"}}, **QUICK)
            found = [node.wait_finished(job_id) for job_id in (asking, astray)]
            assert [(job.status, job.worker_id, job.attempt) for job in found] == [
                (JobStatus.SUCCEEDED, at_edge, 1)
            ] * 2, node.logs()
            assert node.wait_finished(elsewhere).worker_id == in_lab


@pytest.mark.parametrize("node", ["sqlite"], indirect=True)
def test_a_job_waits_until_a_worker_with_its_hardware_starts(node: Node, model: str) -> None:
    """Others run meanwhile what they can, and an idle one does not take it."""
    with node.worker("worker1", **IN_LAB):
        [in_lab] = node.workers()
        asking = node.submit(model=model, hardware=EDGE, **QUICK)
        others = [node.submit(model=model, **QUICK) for _ in range(2)]
        assert {node.wait_finished(job_id).worker_id for job_id in others} == {in_lab}
        job = node.job(asking)
        assert (job.status, job.attempt) == (JobStatus.QUEUED, 0)
        assert "No live worker has pool=edge" in str(waiting_for(Hardware(**EDGE), node.live_workers()))
        with node.worker("worker2", **AT_EDGE):
            assert waiting_for(Hardware(**EDGE), node.live_workers()) is None
            job = node.wait_finished(asking)
            assert job.status is JobStatus.SUCCEEDED, node.logs()
            assert job.worker_id != in_lab


@pytest.mark.parametrize("node", ["sqlite"], indirect=True)
def test_a_worker_that_is_never_idle_still_gets_to_the_jobs_that_only_it_may_run(node: Node, model: str) -> None:
    """They have a queue of their own, which has its turn beside the one that all workers share."""
    with node.worker("worker1", **AT_EDGE):
        others = [node.submit(model=model, **QUICK) for _ in range(5)]
        wait_until(lambda: node.job(others[0]).status is JobStatus.RUNNING, "the worker to be busy")
        asking = node.submit(model=model, hardware=EDGE, **QUICK)
        assert node.wait_finished(asking).status is JobStatus.SUCCEEDED
        assert node.job(others[-1]).status is JobStatus.QUEUED, "the last of the others still waits"
