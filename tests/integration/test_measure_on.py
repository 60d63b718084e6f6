"""Artifacts measured on several kinds of node: benchmarks that a job asks for, on real workers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api.jobs.waiting import reasons
from server.broker import Broker
from shared.benchmark_report import BenchmarkReport
from shared.database.job_repository import JobRepository
from shared.database.records import Claim
from shared.errors import StaleFence
from shared.job import JobStatus
from tests.api_server import Api, PretendedWorker
from tests.integration.test_target_hardware import AT_EDGE, EDGE, IN_LAB
from tests.services.node import Node
from tests.services.small_inputs import write_dataset, write_model
from tests.unit.worker.benchmarks import forms

NOWHERE: dict[str, Any] = {"labels": {"pool": "nowhere"}}


@pytest.fixture
def node(request: pytest.FixtureRequest, broker: Broker, tmp_path: Path) -> Iterator[Node]:
    url = None if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    node = Node(tmp_path, broker, database_url=url)
    yield node
    node.close()


def measured_by(node: Node, job_id: str) -> list[str]:
    with node.database.read() as connection:
        found = JobRepository(connection).measurements_of([job_id]).get(job_id, [])
    return [each.job for each in sorted(found, key=lambda each: each.hardware.labels.get("pool", ""))]


@pytest.mark.parametrize("node", ["postgresql"], indirect=True)
def test_each_entry_is_measured_where_it_says_and_one_without_a_worker_waits(node: Node, tmp_path: Path) -> None:
    model = node.add("model", write_model(tmp_path / "net.pt2"))
    data = node.add("dataset", write_dataset(tmp_path / "data.npz"))
    with node.worker("worker1", **IN_LAB):
        [in_lab] = node.workers()
        with node.worker("worker2", **AT_EDGE):
            [at_edge] = set(node.workers()) - {in_lab}
            made = node.submit(
                method="static", model=model, calibration=data, name="net", runtimes=["torch", "onnxruntime"], seed=5,
                hardware={"labels": {"pool": "lab"}}, measure_on=[EDGE, NOWHERE], benchmark={"max_seconds": 0.3},
            )  # fmt: skip
            job = node.wait_finished(made)
            assert (job.status, job.worker_id) == (JobStatus.SUCCEEDED, in_lab), node.logs()
            elsewhere, waiting = measured_by(node, made)
            found = node.wait_finished(elsewhere)
    assert (found.status, found.worker_id) == (JobStatus.SUCCEEDED, at_edge), (found.error, node.logs())
    assert found.name == "net on pool=edge"
    assert found.spec["metadata"] == {"measures": made}
    assert (found.spec["evaluation"], found.spec["seed"]) == (data, 5)
    report = BenchmarkReport.model_validate(found.report)
    assert [each.source for each in report.candidates] == [model, f"{made}/model_int8.pt", f"{made}/model_int8.onnx"]
    assert {label for form in forms(report).values() for label in form.labels} == set()

    job = node.job(waiting)
    assert (job.status, job.attempt) == (JobStatus.QUEUED, 0)
    with node.database.read() as connection:
        assert "pool=nowhere" in reasons(connection, [job])[waiting]


@pytest.mark.parametrize("node", ["sqlite"], indirect=True)
def test_a_result_that_is_not_accepted_queues_nothing(node: Node, tmp_path: Path) -> None:
    """The benchmarks are created in the transaction that finishes the job, or not at all."""
    from api.examples import SUCCEEDED_JOB

    model = node.add("model", write_model(tmp_path / "net.pt2"))
    made = node.submit(method="dynamic", model=model, measure_on=[EDGE], hint=False)
    stale = Claim(job_id=made, fence=7, attempt=1, spec=node.job(made).spec)
    with pytest.raises(StaleFence), node.database.write() as connection:
        JobRepository(connection).succeed(stale, SUCCEEDED_JOB["report"], [])
    assert measured_by(node, made) == []


def test_measurements_are_told_with_the_job_and_their_progress_is_part_of_its_etag(api: Api, small_net: Path) -> None:
    """They go on when the job has ended, and are cancelled one by one."""
    model = api.add_model(small_net)
    job = api.submit(method="dynamic", model=model, measure_on=[NOWHERE, EDGE])
    path = f"/v1/jobs/{job['id']}"
    assert job["measurements"] == []
    PretendedWorker(api, job["id"]).succeed({"model_int8.pt": b"int8"})
    answer = api.client.get(path)
    told = answer.json()["measurements"]
    assert [(each["hardware"]["labels"], each["status"]) for each in told] == [
        ({"pool": "nowhere"}, "queued"), ({"pool": "edge"}, "queued")
    ]  # fmt: skip
    spec = api.client.get(f"/v1/jobs/{told[0]['job']}").json()["spec"]
    assert spec["candidates"][0] == {"model": model, "job": None, "artifact": None, "name": "float"}
    assert {each["artifact"] for each in spec["candidates"][1:]} == {"model_int8.pt", "model_int8.onnx"}
    etag = answer.headers["ETag"]
    assert api.client.get(path, headers={"If-None-Match": etag}).status_code == 304

    assert api.client.post(f"{path}/cancel").json()["code"] == "job_already_finished"
    api.client.post(f"/v1/jobs/{told[0]['job']}/cancel").raise_for_status()
    again = api.client.get(path, headers={"If-None-Match": etag})
    assert [each["status"] for each in again.json()["measurements"]] == ["cancelled", "queued"]
    listed = {each["id"]: each for each in api.client.get("/v1/jobs").json()["data"]}
    assert listed[job["id"]]["measurements"] == again.json()["measurements"]
    assert api.client.delete(f"/v1/models/{model}").json()["code"] == "object_in_use"


@pytest.mark.parametrize(
    ("measure_on", "told"),
    [
        ([{}], "asks for nothing"),
        ([EDGE, EDGE], "asked for twice"),
        ([{"labels": {"n": str(number)}} for number in range(9)], "at most 8"),
        ([{"isa": ["sse9"]}], "avx2"),
    ],
)
def test_what_cannot_be_measured_on_is_refused(api: Api, small_net: Path, measure_on: list[Any], told: str) -> None:
    model = api.add_model(small_net)
    answer = api.client.post("/v1/jobs", json={"method": "dynamic", "model": model, "measure_on": measure_on})
    assert (answer.status_code, answer.json()["code"]) == (422, "spec_invalid")
    [error] = answer.json()["errors"]
    assert error["pointer"].startswith("/measure_on")
    assert told in error["detail"]


def test_a_benchmark_is_measured_where_it_asks_and_takes_no_measure_on(api: Api, small_net: Path) -> None:
    model = api.add_model(small_net)
    answer = api.client.post(
        "/v1/jobs", json={"method": "benchmark", "candidates": [{"model": model}], "measure_on": [EDGE]}
    )
    assert [(each["pointer"], each["code"]) for each in answer.json()["errors"]] == [("/measure_on", "unknown_field")]
