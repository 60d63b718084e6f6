"""The real API on a real SQLite file and a real object directory, in the test's process or as one of its own.

Every answer that the in-process client gets is held against the OpenAPI document.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
from fastapi import FastAPI
from jsonschema import Draft202012Validator
from starlette.testclient import TestClient

from api.app import create_app, documented_app
from api.examples import SUCCEEDED_JOB
from api.openapi import document
from shared.database import Database, migrate
from shared.database.job_repository import JobRepository
from shared.job import Artifact, Progress, Step
from shared.object_store import ObjectStore, artifact_key, open_store
from shared.settings import Settings
from tests.services.workers import described

KEY = "key-of-the-tests"
AUTHORIZATION = {"Authorization": f"Bearer {KEY}"}
UNREACHABLE_BROKER = "redis://127.0.0.1:9/0"  # port 9 is discard: nothing listens there


def settings_in(directory: Path, **more: Any) -> Settings:
    """Settings of an embedded server whose data directory is migrated and ready."""
    given: dict[str, Any] = {
        "data_dir": directory,
        "api": {"keys": [KEY]},
        "queue": {"broker_url": UNREACHABLE_BROKER},
        **more,
    }
    settings = Settings(**given)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "octavo.sqlite3").write_bytes(_empty_database())
    open_store(settings).prepare()
    return settings


@functools.cache
def _empty_database() -> bytes:
    """A migrated SQLite file: migrating anew for every test would take most of its time."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "octavo.sqlite3")
        migrate(f"sqlite:///{path}")
        return path.read_bytes()


@dataclass
class Api:
    """A started application, a client that holds its key, and what is behind it."""

    settings: Settings
    app: FastAPI
    client: TestClient

    @property
    def database(self) -> Database:
        """The application's own database."""
        database: Database = self.app.state.services.database
        return database

    @property
    def store(self) -> ObjectStore:
        """The application's own object store."""
        store: ObjectStore = self.app.state.services.store
        return store

    def add_model(self, path: Path) -> str:
        """Upload a model; its id."""
        return str(self.client.post("/v1/models", content=path.read_bytes()).raise_for_status().json()["id"])

    def add_dataset(self, content: bytes) -> str:
        """Upload a dataset; its id."""
        return str(self.client.post("/v1/datasets", content=content).raise_for_status().json()["id"])

    def submit(self, **spec: Any) -> dict[str, Any]:
        """Submit a job; the job."""
        answer = self.client.post("/v1/jobs", json=spec)
        assert answer.status_code == 202, answer.text
        job: dict[str, Any] = answer.json()
        return job

    def stored_files(self) -> list[str]:
        """Everything in the object directory, also what is half-way."""
        root = self.settings.storage_path
        return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


@contextmanager
def running_api(directory: Path, **more: Any) -> Iterator[Api]:
    """The application in this process, started and stopped as uvicorn does it."""
    settings = settings_in(directory, **more)
    app = create_app(settings)
    with TestClient(app, headers=AUTHORIZATION, raise_server_exceptions=True) as client:
        client.event_hooks = {"response": [_check_documented]}
        yield Api(settings, app, client)


def lose_database(api: Api) -> None:
    """Put a directory where the SQLite file was: nothing can be read or written any more."""
    api.database.close()
    for suffix in ("", "-wal", "-shm"):
        (api.settings.data_dir / f"octavo.sqlite3{suffix}").unlink(missing_ok=True)
    (api.settings.data_dir / "octavo.sqlite3").mkdir()


@functools.cache
def _document() -> dict[str, Any]:
    return document(documented_app())


def _check_documented(response: httpx2.Response) -> None:
    """Assert that an answer is one that the OpenAPI document has, with a body that fits its schema."""
    operation = _operation(response.request)
    if operation is None:
        return
    documented = operation["responses"].get(str(response.status_code))
    assert documented is not None, f"{response.request} answers {response.status_code}, which is not documented"
    media_type = response.headers.get("content-type", "").partition(";")[0]
    if media_type not in {"application/json", "application/problem+json"}:
        return
    assert media_type in documented["content"], f"{response.request}: {response.status_code} as {media_type}"
    response.read()
    check_schema(_document(), documented["content"][media_type]["schema"], response.json())


def _operation(request: httpx2.Request) -> dict[str, Any] | None:
    parts = request.url.path.split("/")
    for template, operations in _document()["paths"].items():
        expected = template.split("/")
        if len(expected) == len(parts) and all(
            want == part or want.startswith("{") for want, part in zip(expected, parts, strict=True)
        ):
            found: dict[str, Any] | None = operations.get(request.method.lower())
            return found
    return None


def check_schema(document: dict[str, Any], schema: dict[str, Any], instance: Any) -> None:
    """Raise jsonschema.ValidationError unless the instance fits the schema, whose references the document holds."""
    whole = {**schema, "components": document["components"]}
    Draft202012Validator(whole, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(instance)


@dataclass
class Server:
    """`python -m api` as a process of its own."""

    process: subprocess.Popen[bytes]
    port: int
    settings: Settings

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def memory_bytes(self, field: str = "VmHWM") -> int:
        """Peak (or another field of /proc/<pid>/status) resident memory."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024
        raise ValueError(field)


@contextmanager
def api_process(directory: Path) -> Iterator[Server]:
    """Start `python -m api`, wait until it answers, and stop it."""
    settings = settings_in(directory)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "OCTAVO_DATA_DIR": str(directory),
        "OCTAVO_API__PORT": str(port),
        "OCTAVO_API__KEYS": f'["{KEY}"]',
        "OCTAVO_QUEUE__BROKER_URL": UNREACHABLE_BROKER,
    }
    log = directory / "api.log"
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, "-m", "api"], env=environment, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 60
        while not _answers(port):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield Server(process, port, settings)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(30)


def _answers(port: int) -> bool:
    try:
        return httpx2.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
    except httpx2.TransportError:
        return False


def npz(**arrays: Any) -> bytes:
    """The arrays as an .npz file."""
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def images(samples: int = 4, *, labels: Any = None, seed: int = 0) -> bytes:
    """A dataset that fits the small net of tests.hostile.models."""
    x = np.random.default_rng(seed).standard_normal((samples, 3, 8, 8)).astype(np.float32)
    return npz(x=x) if labels is None else npz(x=x, labels=labels)


def sha256(content: bytes) -> str:
    """In hex."""
    return hashlib.sha256(content).hexdigest()


def content_digest(content: bytes) -> str:
    """The value of the header Content-Digest."""
    return f"sha-256=:{b64encode(hashlib.sha256(content).digest()).decode()}:"


class PretendedWorker:
    """Does in the database what a worker does, without computing anything."""

    def __init__(self, api: Api, job_id: str) -> None:
        self._api = api
        self._job_id = job_id
        with api.database.write() as connection:
            claim = JobRepository(connection).claim(job_id, worker_id="wrk_1", worker=described(), lease_seconds=60)
        assert claim is not None
        self._claim = claim

    def progress(self, fraction: float, message: str = "") -> None:
        """Report progress."""
        with self._api.database.write() as connection:
            progress = Progress(fraction=fraction, message=message)
            JobRepository(connection).record_progress(self._claim, Step.CALIBRATE, progress)

    def succeed(self, files: dict[str, bytes], report: dict[str, Any] | None = None) -> None:
        """Store the files as artifacts and finish the job with the documentation's report, or another."""
        artifacts = []
        for name, content in files.items():
            path = self._api.settings.data_dir / name
            path.write_bytes(content)
            self._api.store.put_file(artifact_key(self._job_id, self._claim.fence, name), path, sha256(content))
            artifacts.append(
                Artifact(
                    name=name,
                    kind="model" if name.startswith("model") else "report",
                    media_type="application/octet-stream",
                    size_bytes=len(content),
                    sha256=sha256(content),
                )
            )
        with self._api.database.write() as connection:
            JobRepository(connection).succeed(self._claim, report or SUCCEEDED_JOB["report"], artifacts)
