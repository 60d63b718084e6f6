"""What probes, scrapes and people ask the service about itself."""

from __future__ import annotations

import shutil
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from server.broker import Broker
from shared.database.records import WorkerDescription
from shared.database.worker_repository import WorkerRepository
from tests.api_server import Api, PretendedWorker, lose_database, running_api

DESCRIPTION = WorkerDescription(
    hostname="node-1",
    cpu_model="a CPU",
    isa=["avx2"],
    cores=2,
    torch="2.13.0",
    sandbox_level="landlock",
    concurrency=1,
    labels={"zone": "a"},
)


def add_worker(api: Api) -> None:
    with api.database.write() as connection:
        WorkerRepository(connection).register("wrk_1", DESCRIPTION)


def samples(api: Api) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Every value of /metrics by name and labels."""
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(api.client.get("/metrics").text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def labels(**given: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(given.items()))


def test_a_process_that_answers_is_healthy(api: Api) -> None:
    assert api.client.get("/healthz").json() == {"status": "ok"}


def test_a_lost_broker_and_missing_workers_are_reported_and_not_fatal(api: Api) -> None:
    answer = api.client.get("/readyz")
    assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
    assert {name: check["ok"] for name, check in answer.json()["checks"].items()} == {
        "database": True,
        "object_store": True,
        "broker": False,
        "workers": False,
    }


def test_with_a_broker_and_a_worker_it_is_ready(tmp_path: Path, broker: Broker) -> None:
    with running_api(tmp_path / "data", queue={"broker_url": broker.url}) as api:
        add_worker(api)
        answer = api.client.get("/readyz")
        assert (answer.status_code, answer.json()["status"]) == (200, "ready")


def test_readiness_can_wait_for_a_worker(tmp_path: Path) -> None:
    settings = {"keys": ["key-of-the-tests"], "ready_needs_worker": True}
    with running_api(tmp_path / "data", api=settings) as api:
        assert api.client.get("/readyz").status_code == 503
        add_worker(api)
        assert api.client.get("/readyz").status_code == 200


def test_a_lost_object_store_is_fatal(api: Api) -> None:
    shutil.rmtree(api.settings.storage_path)
    api.settings.storage_path.write_text("no directory any more")
    answer = api.client.get("/readyz")
    assert (answer.status_code, answer.json()["status"]) == (503, "unavailable")
    assert not answer.json()["checks"]["object_store"]["ok"]


def test_meta_tells_versions_limits_and_the_workers_cpus(api: Api) -> None:
    add_worker(api)
    meta = api.client.get("/v1/meta").json()
    assert meta["api"] == "v1"
    assert meta["methods"] == ["dynamic", "static", "qat", "benchmark"]
    assert meta["limits"]["max_upload_bytes"] == api.settings.uploads.max_bytes
    worker = meta["workers"][0]
    assert {**DESCRIPTION.model_dump(), "id": "wrk_1", "status": "idle"}.items() <= worker.items()
    assert worker["heartbeat_at"].endswith("Z")


def test_http_metrics_are_counted_by_route_and_never_by_id(api: Api) -> None:
    for number in range(3):
        api.client.get(f"/v1/jobs/job_{number}")
    api.client.get("/v1/nowhere/7")
    found = samples(api)
    requests = found["octavo_http_requests_total"]
    assert requests[labels(method="GET", route="/v1/jobs/{job_id}", status="404")] == 3
    assert requests[labels(method="GET", route="unmatched", status="404")] == 1
    assert found["octavo_http_request_seconds_count"][labels(method="GET", route="/v1/jobs/{job_id}")] == 3


def test_job_metrics_come_from_the_database(api: Api, small_net: Path) -> None:
    job = api.submit(method="dynamic", model=api.add_model(small_net))
    api.submit(method="dynamic", model=job["spec"]["model"])
    PretendedWorker(api, job["id"]).succeed({})
    found = samples(api)
    assert found["octavo_database_up"][()] == 1
    assert found["octavo_jobs"][labels(method="dynamic", status="queued")] == 1
    outcome = labels(method="dynamic", outcome="succeeded", reason="recommended")
    assert found["octavo_jobs_finished_total"][outcome] == 1
    assert found["octavo_job_run_seconds_count"][labels(method="dynamic")] == 1


def test_a_scrape_survives_a_lost_database(api: Api) -> None:
    lose_database(api)
    assert samples(api)["octavo_database_up"][()] == 0


def test_the_reference_is_a_plain_page_that_needs_no_other_host(api: Api) -> None:
    page = api.client.get("/docs").text
    for operation in api.client.get("/openapi.json").json()["paths"].values():
        for each in operation.values():
            assert f'id="{each["operationId"]}"' in page
    for foreign in ("<script", "src=", "<link", "@import", 'href="http'):
        assert foreign not in page
