"""Jobs over HTTP: checked before they are accepted, listed, followed, cancelled."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from server.broker import Broker
from shared.database import Database
from shared.database.worker_repository import WorkerRepository
from shared.settings import QueueSettings
from shared.task_queue import make_celery
from tests.api_server import Api, PretendedWorker, images, npz, running_api
from tests.services.workers import described


@pytest.fixture
def model(api: Api, small_net: Path) -> str:
    return api.add_model(small_net)


@pytest.fixture
def dataset(api: Api) -> str:
    return api.add_dataset(images())


@pytest.fixture
def static_spec(model: str, dataset: str) -> dict[str, Any]:
    return {"method": "static", "model": model, "calibration": dataset}


def refused(api: Api, spec: Any) -> dict[str, Any]:
    # The client's own encoder refuses lone surrogates, which a hostile one would send.
    headers = {"Content-Type": "application/json"}
    answer = api.client.post("/v1/jobs", content=json.dumps(spec), headers=headers)
    assert answer.status_code >= 400, answer.text
    assert api.client.get("/v1/jobs").json()["data"] == []
    problem: dict[str, Any] = answer.json()
    return problem


def test_an_accepted_job_is_stored_with_every_default_echoed(api: Api, model: str) -> None:
    answer = api.client.post("/v1/jobs", json={"method": "dynamic", "model": model, "metadata": {"a": "b"}})
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["Location"] == f"/v1/jobs/{job['id']}"
    assert int(answer.headers["Retry-After"]) > 0
    assert (job["object"], job["status"], job["attempt"]) == ("job", "queued", 0)
    assert job["spec"]["benchmark"] == {"batch_sizes": [1], "threads": [1], "max_seconds": 5.0}
    assert job["metadata"] == {"a": "b"}
    assert api.client.get(answer.headers["Location"]).json() == job


EDGE = {"isa": ["avx512_vnni"], "labels": {"pool": "edge"}}


def add_worker(api: Api, worker_id: str, **changes: Any) -> None:
    with api.database.write() as connection:
        WorkerRepository(connection).register(worker_id, described(**changes))


def test_a_job_for_hardware_that_no_live_worker_has_says_so_at_once_and_as_long_as_it_waits(
    api: Api, model: str
) -> None:
    """In the answer, in lists, in its history; with another ETag when workers have changed what it waits for."""
    add_worker(api, "wrk_1", hostname="node-1", labels={"pool": "lab"})
    job = api.submit(method="dynamic", model=model, hardware=EDGE)
    path = f"/v1/jobs/{job['id']}"
    reason = "No live worker has avx512_vnni and pool=edge: node-1 (a CPU) lacks avx512_vnni and pool=edge."
    assert (job["status"], job["waiting_for"]) == ("queued", reason)
    assert job["spec"]["hardware"] == {**EDGE, "cpu": None}
    shown = api.client.get(path)
    assert shown.json() == job
    assert [each["waiting_for"] for each in api.client.get("/v1/jobs").json()["data"]] == [reason]
    [event] = api.client.get(f"{path}/events").json()["data"]
    assert event["data"] == {"status": "queued", "attempt": 0, "waiting_for": reason}
    add_worker(api, "wrk_2", isa=["avx512_vnni"], labels={"pool": "edge"})
    again = api.client.get(path, headers={"If-None-Match": shown.headers["ETag"]})
    assert again.json()["waiting_for"] is None
    PretendedWorker(api, api.submit(method="dynamic", model=model)["id"])
    assert [each["waiting_for"] for each in api.client.get("/v1/jobs").json()["data"]] == [None, None]


def test_a_job_that_any_worker_may_run_waits_while_none_is_alive(api: Api, model: str) -> None:
    job = api.submit(method="dynamic", model=model, hardware={"isa": [], "labels": {}})
    assert job["spec"]["hardware"] is None
    assert job["waiting_for"] == "No worker is alive."
    cancelled = api.client.post(f"/v1/jobs/{job['id']}/cancel").json()
    assert (cancelled["status"], cancelled["waiting_for"]) == ("cancelled", None)


@pytest.mark.parametrize(
    ("hardware", "pointer", "words"),
    [
        ({"isa": ["avx512_vnni", "sse5"]}, "/hardware/isa/1", "'avx2', 'avx512', 'avx512_vnni'"),
        ({"cpu": ""}, "/hardware/cpu", "at least 1 character"),
        ({"labels": {"pool": 3}}, "/hardware/labels/pool", "valid string"),
        ({"cores": 8}, "/hardware/cores", "is not a field"),
        ("avx2", "/hardware", "must be a JSON object"),
    ],
)
def test_hardware_that_cannot_be_asked_for_is_refused(
    api: Api, model: str, hardware: Any, pointer: str, words: str
) -> None:
    problem = refused(api, {"method": "dynamic", "model": model, "hardware": hardware})
    assert problem["code"] == "spec_invalid"
    assert problem["errors"][0]["pointer"] == pointer
    assert words in problem["errors"][0]["detail"]


def test_the_hint_for_a_job_that_asks_for_hardware_waits_in_the_queue_of_a_worker_that_has_it(
    tmp_path: Path, small_net: Path, broker: Broker
) -> None:
    """Not in the one that all workers share, where it could reach another."""
    queue = {"broker_url": broker.url, "name": "octavo-hardware-hints"}
    with running_api(tmp_path / "data", queue=queue) as api:
        add_worker(api, "wrk_1")
        add_worker(api, "wrk_2", labels={"pool": "edge"})
        job = api.submit(method="dynamic", model=api.add_model(small_net), hardware={"labels": {"pool": "edge"}})
        with make_celery(QueueSettings.model_validate(queue)).connection_for_read() as connection:
            name = "octavo-hardware-hints.wrk_2"
            wait_until(lambda: connection.default_channel.client.llen(name) == 1)
            message = json.loads(connection.default_channel.client.lindex(name, 0))
            assert job["id"] in message["headers"]["argsrepr"]
            assert 0 < connection.default_channel.client.pttl(name) <= 3_600_000, "it goes when its worker is gone"
            assert connection.default_channel.client.exists("octavo-hardware-hints", f"{name[:-1]}1") == 0


def test_a_broker_that_is_down_delays_no_answer_and_loses_no_job(api: Api, model: str) -> None:
    """The fixture's broker does not answer; the row is there all the same."""
    job = api.submit(method="dynamic", model=model)
    assert api.client.get(f"/v1/jobs/{job['id']}").json()["status"] == "queued"


def test_a_hint_of_the_job_reaches_the_broker(tmp_path: Path, broker: Broker, small_net: Path) -> None:
    queue = QueueSettings(broker_url=broker.url, name="hints-of-the-api")
    with running_api(tmp_path / "data", queue=queue) as api:
        job = api.submit(method="dynamic", model=api.add_model(small_net))
        with make_celery(queue).connection_for_read() as connection:
            message = connection.SimpleQueue(queue.name).get(timeout=30)
    assert message.payload[0] == [job["id"]]


@pytest.mark.parametrize(
    ("change", "code", "pointer"),
    [
        ({"calibration": None}, "data_required", "/calibration"),
        ({"colour": "red"}, "spec_invalid", "/colour"),
        ({"benchmark": {"batch_sizes": [1, 0]}}, "spec_invalid", "/benchmark/batch_sizes/1"),
        ({"activation": {"reduce_range": "perhaps"}}, "spec_invalid", "/activation/reduce_range"),
        ({"overrides": [{"layer": "a", "precision": "int4"}]}, "spec_invalid", "/overrides/0/precision"),
        ({"method": "magic"}, "spec_invalid", ""),
        ({"method": None}, "spec_invalid", ""),
        ({"max_accuracy_drop": -1}, "spec_invalid", "/max_accuracy_drop"),
        ({"seed": "x"}, "spec_invalid", "/seed"),
        ({"name": "\ud800"}, "spec_invalid", "/name"),
        ({"name": "a\u0000b"}, "spec_invalid", "/name"),
        ({"metadata": {"a": "\u0000"}}, "spec_invalid", "/metadata/a"),
        ({"a/b~c": 1}, "spec_invalid", "/a~1b~0c"),
        ({"model": "mdl_0000000000000000000000"}, "not_found", "/model"),
        ({"calibration": "dst_0000000000000000000000"}, "not_found", "/calibration"),
    ],
)
def test_a_wrong_spec_points_at_what_is_wrong_and_makes_no_job(
    api: Api, static_spec: dict[str, Any], change: dict[str, Any], code: str, pointer: str
) -> None:
    problem = refused(api, {**static_spec, **change})
    assert (problem["code"], problem["errors"][0]["pointer"]) == (code, pointer)
    assert problem["status"] == (404 if code == "not_found" else 422)


def test_a_dataset_used_as_a_model_is_the_wrong_kind_and_so_is_the_reverse(api: Api, model: str, dataset: str) -> None:
    problem = refused(api, {"method": "static", "model": dataset, "calibration": model})
    assert problem["code"] == "wrong_kind"
    assert {each["pointer"] for each in problem["errors"]} == {"/model", "/calibration"}
    assert "names a dataset; this field takes a model" in problem["errors"][0]["detail"]


def test_a_method_without_its_data_says_which_dataset_it_needs(api: Api, model: str) -> None:
    for method, role in (("static", "calibration"), ("qat", "training")):
        problem = refused(api, {"method": method, "model": model})
        assert problem["code"] == "data_required"
        assert role in problem["detail"]
        assert role in problem["hint"]


def test_a_field_of_another_method_is_named_as_such(api: Api, model: str) -> None:
    problem = refused(api, {"method": "dynamic", "model": model, "qat": {}})
    assert problem["errors"][0]["detail"] == "`qat` is not a field of the method dynamic."


@pytest.mark.parametrize("body", [[], "text", 3, None])
def test_a_body_that_is_no_object_is_invalid(api: Api, body: Any) -> None:
    assert refused(api, body)["code"] == "spec_invalid"


def test_data_that_does_not_fit_the_model_is_refused_key_by_key(api: Api, model: str) -> None:
    other = api.add_dataset(npz(picture=np.zeros((2, 3, 9, 9), dtype=np.float32)))
    problem = refused(api, {"method": "static", "model": model, "calibration": other})
    assert (problem["code"], problem["errors"][0]["pointer"]) == ("dataset_mismatch", "/calibration")
    assert "picture" in problem["detail"]
    assert "x: expected float32 [N, 3, 8, 8]" in problem["detail"]


def test_a_metric_without_any_data_is_refused(api: Api, model: str) -> None:
    problem = refused(api, {"method": "dynamic", "model": model, "metric": "top1"})
    assert (problem["code"], problem["errors"][0]["pointer"]) == ("data_required", "/evaluation")


@pytest.mark.parametrize(
    ("labels", "metric", "accepted"),
    [
        (None, "auto", True),
        (None, "top1", False),
        (np.arange(4), "top1", True),
        (np.zeros(4, dtype=np.float32), "top5", False),
        (np.zeros((4, 10), dtype=np.int64), "top1", False),
        (np.zeros((4, 10), dtype=np.float32), "mse", True),
    ],
)
def test_a_metric_needs_labels_that_fit_it(api: Api, model: str, labels: Any, metric: str, accepted: bool) -> None:
    data = api.add_dataset(images(labels=labels))
    spec = {"method": "dynamic", "model": model, "evaluation": data, "metric": metric}
    if accepted:
        api.submit(**spec)
    else:
        problem = refused(api, spec)
        assert (problem["code"], problem["errors"][0]["pointer"]) == ("labels_unusable", "/evaluation")


def test_a_loss_that_needs_labels_needs_them_in_the_training_data(api: Api, model: str, dataset: str) -> None:
    spec = {"method": "qat", "model": model, "training": dataset}
    problem = refused(api, {**spec, "qat": {"loss": "cross_entropy"}})
    assert (problem["code"], problem["errors"][0]["pointer"]) == ("labels_unusable", "/training")
    api.submit(**spec, qat={"loss": "distillation"})


def test_the_same_key_submits_once_also_when_both_come_at_once(api: Api, model: str) -> None:
    def post(_: int) -> Any:
        spec = {"method": "dynamic", "model": model}
        return api.client.post("/v1/jobs", json=spec, headers={"Idempotency-Key": "submit-1"})

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(post, range(4)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sum("Idempotent-Replayed" in answer.headers for answer in answers) == 3
    assert {answer.headers["Location"] for answer in answers} == {f"/v1/jobs/{answers[0].json()['id']}"}
    assert len(api.client.get("/v1/jobs").json()["data"]) == 1


def test_a_key_used_for_another_path_is_409(api: Api, model: str) -> None:
    headers = {"Idempotency-Key": "once"}
    job = api.client.post("/v1/jobs", json={"method": "dynamic", "model": model}, headers=headers).json()
    answer = api.client.post(f"/v1/jobs/{job['id']}/cancel", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_key_reused")


def test_jobs_are_listed_newest_first_by_status_and_without_reports(api: Api, model: str) -> None:
    ids = [api.submit(method="dynamic", model=model, seed=seed)["id"] for seed in range(3)]
    PretendedWorker(api, ids[0]).succeed({})
    everything = api.client.get("/v1/jobs").json()
    assert [each["id"] for each in everything["data"]] == ids[::-1]
    done = api.client.get("/v1/jobs?status=succeeded").json()["data"]
    assert [(each["id"], each["report"]) for each in done] == [(ids[0], None)]
    page = api.client.get("/v1/jobs?limit=2").json()
    rest = api.client.get("/v1/jobs", params={"limit": 2, "after": page["next"]}).json()
    assert [each["id"] for each in page["data"] + rest["data"]] == ids[::-1]
    assert api.client.get("/v1/jobs?status=asleep").json()["code"] == "request_invalid"


def test_a_finished_job_carries_its_report_and_artifacts(api: Api, model: str) -> None:
    job = api.submit(method="dynamic", model=model)
    PretendedWorker(api, job["id"]).succeed({"model_int8.pt": b"int8"})
    done = api.client.get(f"/v1/jobs/{job['id']}").json()
    assert done["status"] == "succeeded"
    assert done["report"]["verdict"]["word"] == "recommended"
    assert done["artifacts"][0]["url"] == f"/v1/jobs/{job['id']}/artifacts/model_int8.pt"
    assert done["sandbox_level"] == "landlock"


def test_a_queued_job_is_cancelled_at_once_and_then_has_finished(api: Api, model: str) -> None:
    path = f"/v1/jobs/{api.submit(method='dynamic', model=model)['id']}/cancel"
    answer = api.client.post(path)
    assert (answer.status_code, answer.json()["status"]) == (202, "cancelled")
    again = api.client.post(path)
    assert (again.status_code, again.json()["code"]) == (409, "job_already_finished")


def test_a_running_job_is_asked_to_stop_any_number_of_times(api: Api, model: str) -> None:
    job = api.submit(method="dynamic", model=model)
    PretendedWorker(api, job["id"])
    for _ in range(2):
        answer = api.client.post(f"/v1/jobs/{job['id']}/cancel")
        assert answer.status_code == 202
        assert (answer.json()["status"], answer.json()["cancel_requested"]) == ("running", True)


def test_an_unknown_job_is_not_found(api: Api) -> None:
    for method, path in (("GET", ""), ("GET", "?wait=1"), ("GET", "/events"), ("POST", "/cancel")):
        answer = api.client.request(method, f"/v1/jobs/job_nothing{path}")
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    stream = api.client.get("/v1/jobs/job_nothing/events", headers={"Accept": "text/event-stream"})
    assert (stream.status_code, stream.json()["code"]) == (404, "not_found")


def test_an_unchanged_job_is_304_and_a_changed_one_has_another_etag(api: Api, model: str) -> None:
    path = f"/v1/jobs/{api.submit(method='dynamic', model=model)['id']}"
    etag = api.client.get(path).headers["ETag"]
    same = api.client.get(path, headers={"If-None-Match": etag})
    assert (same.status_code, same.content, same.headers["ETag"]) == (304, b"", etag)
    api.client.post(f"{path}/cancel")
    changed = api.client.get(path, headers={"If-None-Match": etag})
    assert changed.status_code == 200
    assert changed.headers["ETag"] != etag


def test_a_long_poll_returns_when_the_job_changes(api: Api, model: str) -> None:
    job = api.submit(method="dynamic", model=model)
    answers: list[Any] = []
    waiting = threading.Thread(target=lambda: answers.append(api.client.get(f"/v1/jobs/{job['id']}?wait=60")))
    waiting.start()
    wait_until(lambda: len(api.app.state.services.watch._waiters) == 1)
    assert connections_in_use(api.database) == 0
    PretendedWorker(api, job["id"])
    waiting.join(30)
    assert answers[0].json()["status"] == "running"


def test_a_long_poll_that_sees_no_change_answers_what_is(api: Api, model: str) -> None:
    path = f"/v1/jobs/{api.submit(method='dynamic', model=model)['id']}"
    first = api.client.get(f"{path}?wait=0.3")
    assert (first.status_code, first.json()["status"]) == (200, "queued")
    unchanged = api.client.get(f"{path}?wait=0.3", headers={"If-None-Match": first.headers["ETag"]})
    assert unchanged.status_code == 304


@pytest.mark.timeout(40)
def test_a_long_poll_of_a_finished_or_already_changed_job_does_not_wait(api: Api, model: str) -> None:
    path = f"/v1/jobs/{api.submit(method='dynamic', model=model)['id']}"
    old = api.client.get(path).headers["ETag"]
    api.client.post(f"{path}/cancel")
    for headers in ({}, {"If-None-Match": old}):
        # Nobody changes the job: if the request waited, this test would take a minute and time out.
        answer = api.client.get(f"{path}?wait=60", headers=headers)
        assert answer.json()["status"] == "cancelled"
    assert api.client.get(f"{path}?wait=61").json()["code"] == "request_invalid"


def connections_in_use(database: Database) -> int:
    return int(database.engine.pool.checkedout())  # type: ignore[attr-defined]  # QueuePool has it


def wait_until(condition: Any, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
