"""PostgreSQL, a broker, an S3 server, the API and two workers, each a process of its own: a real job goes through."""

import hashlib
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from octavo import BenchmarkSettings, Client, Job
from server.broker import Broker
from shared.database import migrate
from tests.services.node import QUICK_PROMISES
from tests.services.postgres import PostgresServer
from tests.services.process import wait_until
from tests.services.s3_server import S3Server
from tests.services.small_inputs import write_dataset, write_model
from tests.services.stack import Stack, running_stack

QUICK_BENCHMARK: BenchmarkSettings = {"max_seconds": 0.2}
WORKER_ALIVE = Path(__file__).parents[2] / "deploy" / "worker_alive.py"


@pytest.fixture(scope="module")
def stack(broker: Broker, postgres_url: str, s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    directory = tmp_path_factory.mktemp("stack")
    storage = s3.settings(presign_downloads=True)
    with running_stack(
        directory, database_url=postgres_url, broker=broker, storage=storage, **QUICK_PROMISES
    ) as started:
        yield started


@pytest.fixture(scope="module")
def client(stack: Stack) -> Iterator[Client]:
    with stack.client() as client:
        yield client


@pytest.fixture(scope="module")
def inputs(client: Client, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    directory = tmp_path_factory.mktemp("inputs")
    return {
        "model": client.models.upload(write_model(directory / "model.pt2")).id,
        "calibration": client.datasets.upload(write_dataset(directory / "calibration.npz")).id,
        "evaluation": client.datasets.upload(write_dataset(directory / "evaluation.npz", seed=1)).id,
    }


@pytest.fixture(scope="module")
def jobs(stack: Stack, client: Client, inputs: dict[str, str]) -> list[Job]:
    """Four jobs, submitted at once, that have succeeded; the first with an artifact for each runtime."""
    submitted = [
        client.jobs.quantize(**inputs, method="static", seed=seed, runtimes=runtimes, benchmark=QUICK_BENCHMARK)
        for seed, runtimes in enumerate([None, ["torch"], ["torch"], ["torch"]])
    ]
    for job in submitted:
        job.wait(timeout=240, progress=False)
        assert job.status == "succeeded", stack.logs()
    return submitted


def test_the_workers_share_the_jobs(stack: Stack, jobs: list[Job]) -> None:
    ran = {name for name in stack.workers if any(job.id in log_of(stack, name) for job in jobs)}
    assert ran == set(stack.workers)


def test_artifacts_come_back_whole(jobs: list[Job], tmp_path: Path) -> None:
    files = jobs[0].artifacts.download(tmp_path)
    assert {"model_int8.pt", "report.json", "report.html", "load_example.py", "SHA256SUMS"} <= set(files)
    for artifact in jobs[0].artifacts:
        assert hashlib.sha256(files[artifact.name].read_bytes()).hexdigest() == artifact.sha256
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=tmp_path, check=True, capture_output=True)


def test_artifacts_are_served_by_the_store_itself(stack: Stack, jobs: list[Job]) -> None:
    """The API answers 307; the bytes do not pass through it."""
    request = urllib.request.Request(
        f"{stack.url}/v1/jobs/{jobs[0].id}/artifacts/report.json", headers={"Authorization": f"Bearer {stack.key}"}
    )
    with urllib.request.urlopen(request) as answer:
        assert answer.url.startswith(stack.environment["OCTAVO_STORAGE__ENDPOINT_URL"])
        assert hashlib.sha256(answer.read()).hexdigest() == jobs[0].artifacts["report.json"].sha256


def test_the_health_check_of_the_workers_container_knows_whether_one_is_alive_on_this_host(
    stack: Stack, postgres_server: PostgresServer
) -> None:
    def exit_code(database_url: str) -> int:
        environment = stack.environment | {"OCTAVO_DATABASE__URL": database_url}
        return subprocess.run([sys.executable, WORKER_ALIVE], env=environment, check=False).returncode

    assert exit_code(stack.environment["OCTAVO_DATABASE__URL"]) == 0
    with postgres_server.database() as url:
        assert exit_code(url) == 1, "there is no such table"
        migrate(url)
        assert exit_code(url) == 1, "no worker has ever registered"


def test_a_worker_that_is_killed_costs_time_and_no_job(stack: Stack, client: Client, inputs: dict[str, str]) -> None:
    """The last test of this file: one worker is left."""
    job = client.jobs.quantize(
        inputs["model"], "qat", training=inputs["evaluation"], qat={"epochs": 2}, benchmark=QUICK_BENCHMARK
    )
    wait_until(lambda: job.refresh().status == "running", "the job to run")
    holders = [name for name in stack.workers if job.id in log_of(stack, name)]
    assert len(holders) == 1
    stack.workers[holders[0]].send_signal(signal.SIGKILL)
    job.wait(timeout=240, progress=False)
    assert job.status == "succeeded", stack.logs()
    attempts = [
        event.data["attempt"] for event in job.events() if event.kind == "status" and event.data["status"] == "running"
    ]
    assert attempts == [1, 2]


def log_of(stack: Stack, worker: str) -> str:
    return (stack.directory / worker / f"{worker}.log").read_text()
