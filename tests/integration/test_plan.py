"""POST /v1/plan: the API, a real worker and its runner, beside whatever else the worker does."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from server.broker import Broker
from shared.database.plan_repository import PlanRepository
from shared.database.tables import plans
from shared.job import JobStatus
from shared.quantization_spec import Hardware
from tests.api_server import Api, running_api
from tests.integration.test_worker_faults import LONG_TRAINING
from tests.services.node import Node
from tests.services.process import wait_until
from tests.services.small_inputs import write_dataset, write_model
from worker.node_sharing import NodeSharing


@pytest.fixture
def served(broker: Broker, tmp_path: Path) -> Iterator[Api]:
    with running_api(tmp_path, queue={"broker_url": broker.url}) as started:
        yield started


@pytest.fixture
def node(served: Api, broker: Broker, tmp_path: Path) -> Iterator[Node]:
    """Of the same data directory."""
    node = Node(tmp_path, broker)
    yield node
    node.close()


@pytest.fixture
def model(node: Node, tmp_path: Path) -> str:
    return node.add("model", write_model(tmp_path / "net.pt2"))


@pytest.fixture
def data(node: Node, tmp_path: Path) -> str:
    return node.add("dataset", write_dataset(tmp_path / "data.npz", samples=64))


_HARDWARE = Hardware(labels={"pool": "moon"})


def plan(api: Api, key: str | None = None, **question: Any) -> tuple[int, dict[str, Any]]:
    headers = {} if key is None else {"Idempotency-Key": key}
    answer = api.client.post("/v1/plan", json={"runtimes": ["torch"], **question}, headers=headers)
    return answer.status_code, answer.json()


def questions(node: Node) -> int:
    with node.database.read() as connection:
        return connection.scalar(select(func.count()).select_from(plans)) or 0


def test_a_worker_answers_and_nothing_is_left(served: Api, node: Node, model: str, data: str) -> None:
    with node.worker():
        status, found = plan(served, method="static", model=model, calibration=data)
        assert status == 200, found
        assert [(each["layer"], each["precision"]) for each in found["layers"] if each["macs"]] == [
            ("body.0", "int8"), ("body.3", "int8"), ("head", "int8"),
        ]  # fmt: skip
        [worker] = node.live_workers()
        assert found["worker"] == {
            "hostname": worker.description.hostname, "cpu_model": worker.description.cpu_model,
        }  # fmt: skip
        assert "assumed" not in found["duration"]["basis"], "the dataset says how many samples there are"
        assert questions(node) == 0
        status, found = plan(served, method="dynamic", model=model)
        assert (status, found["method"], found["int8_layers"]) == (200, "dynamic", 1)
    assert served.client.get("/v1/jobs").json()["data"] == []


def test_it_is_answered_while_a_job_runs(served: Api, node: Node, model: str, data: str) -> None:
    with node.worker():
        long = node.submit(model=model, training=data, **LONG_TRAINING)
        node.wait_for(long, lambda job: job.step == "train")
        status, found = plan(served, method="static", model=model)
        assert status == 200, found
        assert node.job(long).status is JobStatus.RUNNING
        node.cancel(long)
        node.wait_finished(long)


def test_what_is_wrong_is_said_with_the_code_that_a_job_would_fail_with(served: Api, node: Node, model: str) -> None:
    in_float = [{"layer": "*", "precision": "float32"}]
    with node.worker():
        status, found = plan(served, method="static", model=model, overrides=in_float)
        assert (status, found["code"]) == (422, "nothing_to_quantize")
        status, found = plan(served, method="static", model=model, overrides=[{"layer": "nowhere"}])
        assert (status, found["code"]) == (422, "spec_invalid")
        assert "no layer 'nowhere'" in found["detail"]
    assert questions(node) == 0


@pytest.mark.parametrize(
    ("question", "refused"),
    [
        ({"method": "magic"}, (422, "spec_invalid", "")),
        ({"method": "static", "seed": -1}, (422, "spec_invalid", "/seed")),
        ({"method": "static", "calibration": "mdl_00000000000000000000"}, (422, "wrong_kind", "/calibration")),
        ({"method": "static", "calibration": "dst_00000000000000000000"}, (404, "not_found", "/calibration")),
        ({"method": "static", "model": "mdl_00000000000000000000"}, (404, "not_found", "/model")),
    ],
)
def test_a_question_is_checked_before_it_is_asked(
    served: Api, node: Node, model: str, question: dict[str, Any], refused: tuple[int, str, str]
) -> None:
    found = plan(served, **{"model": model, **question})
    assert (found[0], found[1]["code"], found[1]["errors"][0]["pointer"]) == refused
    assert questions(node) == 0


def test_without_a_worker_that_may_answer_it_is_said_at_once(served: Api, node: Node, model: str) -> None:
    began_at = time.monotonic()
    status, found = plan(served, method="static", model=model)
    assert (status, found["code"], found["detail"]) == (503, "plan_unavailable", "No worker is alive.")
    with node.worker():
        status, found = plan(served, method="static", model=model, hardware={"labels": {"pool": "moon"}})
        assert (status, found["code"]) == (503, "plan_unavailable")
        assert "No live worker has pool=moon" in found["detail"]
    assert time.monotonic() - began_at < 30
    assert questions(node) == 0


def test_a_worker_with_the_hardware_answers(served: Api, node: Node, model: str) -> None:
    labels = "OCTAVO_WORKER__LABELS"
    edge = {"labels": {"pool": "edge"}}
    with node.worker("worker1", **{labels: '{"pool": "lab"}'}), node.worker("worker2", **{labels: '{"pool": "edge"}'}):
        assert plan(served, method="static", model=model, hardware=edge)[0] == 200
        assert "Plan pln_" in (node.directory / "worker2.log").read_text()
        assert "Plan pln_" not in (node.directory / "worker1.log").read_text()


def test_under_the_same_key_the_answer_is_the_same_and_no_worker_is_asked(served: Api, node: Node, model: str) -> None:
    with node.worker():
        first = plan(served, "one", method="static", model=model)
        assert first[0] == 200
    assert plan(served, "one", method="static", model=model) == first
    status, found = plan(served, "one", method="dynamic", model=model)
    assert (status, found["code"]) == (409, "idempotency_key_reused")


def test_many_questions_at_once_are_answered_one_by_one_and_too_many_refused(
    served: Api, node: Node, model: str
) -> None:
    with node.worker(), ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda seed: plan(served, method="static", model=model, seed=seed), range(4)))
        assert [status for status, _ in found] == [200] * 4
        with node.database.write() as connection:
            for _ in range(20):
                # For hardware that nobody has, so that they go on waiting.
                PlanRepository(connection).ask({}, _HARDWARE)
        status, refused = plan(served, method="static", model=model)
        assert (status, refused["code"]) == (503, "plan_unavailable")
        assert "20 others wait" in refused["detail"]


def test_a_question_whose_worker_dies_is_told_to_be_asked_again(
    served: Api, node: Node, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.plan.service.PATIENCE_SECONDS", 6.0)
    with node.worker() as worker, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(plan, served, method="static", model=model)
        wait_until(lambda: _taken(node), "the worker to take the question")
        worker.kill()
        status, found = answer.result(timeout=30)
    assert (status, found["code"]) == (503, "plan_unavailable")
    assert "not done" in found["detail"]
    assert questions(node) == 0


def _taken(node: Node) -> bool:
    with node.database.read() as connection:
        return connection.scalar(select(plans.c.taken_at)) is not None


def test_a_worker_whose_node_is_measured_leaves_the_question_to_others(
    served: Api, node: Node, model: str, tmp_path: Path
) -> None:
    there = tmp_path / "measured"
    sharing = NodeSharing(there)
    with node.worker("worker1", OCTAVO_WORKER__NODE_DIR=str(there)), ThreadPoolExecutor(1) as pool:
        with (
            sharing.computing(pause=lambda: None, resume=lambda: None) as share,
            share.alone(lambda: None),
        ):
            answer = pool.submit(plan, served, method="static", model=model)
            wait_until(lambda: questions(node) == 1, "the question to be asked")
            time.sleep(2)  # four looks of the worker
            assert not _taken(node)
            with node.worker("worker2"):
                assert answer.result(timeout=60)[0] == 200
        assert "Plan pln_" not in (node.directory / "worker1.log").read_text()
        assert plan(served, method="static", model=model)[0] == 200


def test_a_question_that_nobody_waits_for_any_more_is_dropped(served: Api, node: Node, model: str) -> None:
    with node.worker() as worker:
        with node.database.write() as connection:
            spec = {"method": "static", "model": model}
            asked = PlanRepository(connection).ask(spec, None)
        wait_until(lambda: _taken(node), "the worker to take the question")
        with node.database.write() as connection:
            PlanRepository(connection).withdraw(asked)
        log = node.directory / "worker.log"
        wait_until(lambda: f"{asked}: " in log.read_text(), "the worker to be done with it")
        assert "nobody waits for it" in log.read_text()
        assert worker.poll() is None
