"""`python -m api` as a process of its own: what only shows on a real socket."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from shared.database import Database
from shared.database.job_repository import JobRepository
from shared.database.plan_repository import PlanRepository
from shared.database.worker_repository import WorkerRepository
from shared.quantization_spec import DynamicSpec
from tests.api_server import AUTHORIZATION, KEY, Server, api_process, images, sha256
from tests.services.small_inputs import write_model
from tests.services.workers import described

MIB = 1024**2


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with api_process(tmp_path / "data") as started:
        yield started


@pytest.fixture
def client(server: Server) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=server.url, headers=AUTHORIZATION, timeout=60) as opened:
        yield opened


def queued_job(server: Server) -> str:
    database = Database(server.settings.database_url)
    with database.write() as connection:
        job = JobRepository(connection).create(DynamicSpec(method="dynamic", model="mdl_0000000000000000000000"))
    database.close()
    return job.id


def staged(server: Server) -> list[Path]:
    return list(server.settings.staging_path.iterdir())


def wait_until(condition: Callable[[], Any], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def head(path: str, *, length: int, key: str | None = KEY) -> bytes:
    authorization = f"Authorization: Bearer {key}\r\n" if key else ""
    return f"POST {path} HTTP/1.1\r\nHost: octavo\r\n{authorization}Content-Length: {length}\r\n\r\n".encode()


def test_an_upload_does_not_sit_in_memory(server: Server, client: httpx2.Client) -> None:
    """Peak memory grows by some batches, not by the 256 MiB that are sent."""
    chunk = os.urandom(MIB)
    client.get("/v1/meta").raise_for_status()
    before = server.memory_bytes()
    answer = client.post("/v1/datasets", content=(chunk for _ in range(256)))
    assert answer.json()["code"] == "dataset_unreadable"
    assert server.memory_bytes() - before < 24 * MIB
    assert staged(server) == []


def test_a_client_that_goes_away_leaves_nothing(server: Server, client: httpx2.Client) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(head("/v1/datasets", length=10 * MIB) + os.urandom(3 * MIB))
        wait_until(lambda: staged(server) and staged(server)[0].stat().st_size > 0)
    wait_until(lambda: not staged(server))
    assert client.get("/v1/datasets").json()["data"] == []
    assert client.post("/v1/datasets", content=images()).status_code == 201


@pytest.mark.parametrize(
    ("path", "key", "length", "status"),
    [
        ("/v1/models", None, 10**9, b"401"),
        ("/v1/jobs", "wrong", 10**9, b"401"),
        ("/v1/jobs", KEY, 10**9, b"413"),
        ("/v1/models", KEY, 10**12, b"413"),
    ],
)
def test_what_the_head_forbids_is_refused_before_a_byte_of_the_body_comes(
    server: Server, path: str, key: str | None, length: int, status: bytes
) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(head(path, length=length, key=key))
        assert connection.recv(65536).split()[1] == status


def test_sigterm_ends_streams_and_long_polls_at_once_and_then_the_process(server: Server) -> None:
    job = queued_job(server)
    answers: dict[str, httpx2.Response] = {}

    def ask(name: str, path: str, headers: dict[str, str]) -> None:
        with httpx2.Client(base_url=server.url, headers={**AUTHORIZATION, **headers}, timeout=120) as asking:
            answers[name] = asking.get(path)

    threads = [
        threading.Thread(target=ask, args=("poll", f"/v1/jobs/{job}?wait=60", {})),
        threading.Thread(target=ask, args=("stream", f"/v1/jobs/{job}/events", {"Accept": "text/event-stream"})),
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: established_connections(server.port) >= 2)
    time.sleep(0.5)  # a connection that is open may not have been read yet
    server.process.send_signal(signal.SIGTERM)
    # Were they waited for, the process would take the minute that the poll asks for.
    # uvicorn cleans up and then dies of the signal that it got.
    assert server.process.wait(20) == -signal.SIGTERM
    for thread in threads:
        thread.join(20)
    assert answers["poll"].json()["status"] == "queued"
    assert "event: status" in answers["stream"].text


def established_connections(port: int) -> int:
    wanted = f":{port:04X}"
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(fields[1].endswith(wanted) and fields[3] == "01" for fields in lines)


def test_an_idle_process_stays_below_130_mib(server: Server, client: httpx2.Client) -> None:
    client.get("/readyz")
    client.get("/metrics")
    client.get("/docs")
    assert server.memory_bytes("VmRSS") < 130 * MIB


def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    with api_process(tmp_path / "data") as server:
        content = images()
        with httpx2.Client(base_url=server.url, headers=AUTHORIZATION, timeout=60) as asking:
            dataset = asking.post("/v1/datasets", content=content).raise_for_status().json()
        server.process.kill()
        server.process.wait()
    kept = server.settings.storage_path / "blobs" / "sha256" / dataset["sha256"]
    assert sha256(kept.read_bytes()) == sha256(content)


def test_without_a_key_or_a_database_it_says_what_is_missing(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OCTAVO_")}
    environment["OCTAVO_DATA_DIR"] = str(tmp_path)

    def start(**more: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "api"],
            env={**environment, **more},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        return done.stderr

    assert "OCTAVO_API__KEYS" in start()
    assert "octavo-server migrate" in start(OCTAVO_API__KEYS='["k"]')


def test_a_client_that_goes_away_withdraws_what_it_asked(server: Server, client: httpx2.Client, tmp_path: Path) -> None:
    """Of a worker that is alive, and never looks."""
    database = Database(server.settings.database_url)
    with database.write() as connection:
        WorkerRepository(connection).register("wrk_1", described())

    def waiting() -> int:
        with database.read() as connection:
            return PlanRepository(connection).waiting()

    model = client.post("/v1/models", content=write_model(tmp_path / "net.pt2").read_bytes()).json()["id"]
    body = json.dumps({"method": "static", "model": model}).encode()
    request = head("/v1/plan", length=len(body)).replace(b"\r\n\r\n", b"\r\nContent-Type: application/json\r\n\r\n")
    with socket.create_connection(("127.0.0.1", server.port)) as asking:
        asking.sendall(request + body)
        wait_until(lambda: waiting() == 1)
    wait_until(lambda: waiting() == 0, seconds=10)
    database.close()
