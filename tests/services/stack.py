"""Octavo in its production topology: PostgreSQL, a broker, an S3 server, the API and workers, each a process."""

import contextlib
import os
import secrets
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from octavo import Client
from server.broker import Broker, free_port
from shared.settings import StorageSettings
from tests.services.process import log_tail, running, wait_until

_SERVER = Path(sys.executable).with_name("octavo-server")


@dataclass
class Stack:
    """Where the API is, who may ask it, and the worker processes by name."""

    url: str
    key: str
    directory: Path
    environment: dict[str, str]
    workers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def client(self) -> Client:
        """The SDK, with the stack's key."""
        return Client(url=self.url, api_key=self.key)

    def ready(self) -> bool:
        """Whether /readyz answers 200."""
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def live_workers(self) -> int:
        """How many workers the API knows to be alive."""
        with self.client() as client:
            return len(client.meta().workers)

    def logs(self) -> str:
        """The ends of all logs, for the message of a failed test."""
        return "\n".join(f"--- {path}\n{log_tail(path)}" for path in sorted(self.directory.rglob("*.log")))


@contextlib.contextmanager
def running_stack(
    directory: Path,
    *,
    database_url: str,
    broker: Broker,
    storage: StorageSettings,
    workers: int = 2,
    **environment: str,
) -> Iterator[Stack]:
    """Migrate, then run one API process and some worker nodes, none of which share a directory."""
    stack = Stack(
        url=f"http://127.0.0.1:{free_port('127.0.0.1')}",
        key=secrets.token_hex(16),
        directory=directory,
        environment={
            **{name: value for name, value in os.environ.items() if not name.startswith("OCTAVO_")},
            "OCTAVO_DATABASE__URL": database_url,
            "OCTAVO_QUEUE__BROKER_URL": broker.url,
            # The broker may be shared with other tests, whose workers know nothing of this stack's jobs.
            "OCTAVO_QUEUE__NAME": f"octavo-{secrets.token_hex(4)}",
            **_storage_environment(storage),
            # Two workers on two cores must not each take both.
            "OCTAVO_WORKER__THREADS": "1",
            "OCTAVO_WORKER__SHUTDOWN_GRACE_SECONDS": "0",
            **environment,
        },
    )
    subprocess.run([_SERVER, "migrate"], env=stack.environment | _data_directory(directory / "migrate"), check=True)
    with contextlib.ExitStack() as processes:
        for number in range(1, workers + 1):
            name = f"worker-{number}"
            stack.workers[name] = processes.enter_context(_started(stack, name, "worker"))
        port = stack.url.rpartition(":")[2]
        processes.enter_context(
            _started(stack, "api", "api", OCTAVO_API__KEYS=f'["{stack.key}"]', OCTAVO_API__PORT=port)
        )
        wait_until(stack.ready, "the API to be ready", log=directory / "api" / "api.log")
        wait_until(lambda: stack.live_workers() == workers, "the workers to be alive")
        yield stack


@contextlib.contextmanager
def _started(stack: Stack, name: str, command: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    directory = stack.directory / name
    directory.mkdir()
    with running(
        [_SERVER, command],
        ready=lambda: True,
        log=directory / f"{name}.log",
        environment={**stack.environment, **_data_directory(directory / "data"), **environment},
    ) as process:
        yield process


def _data_directory(path: Path) -> dict[str, str]:
    return {"OCTAVO_DATA_DIR": str(path)}


def _storage_environment(storage: StorageSettings) -> dict[str, str]:
    assert storage.access_key_id is not None
    assert storage.secret_access_key is not None
    return {
        "OCTAVO_STORAGE__KIND": storage.kind,
        "OCTAVO_STORAGE__BUCKET": storage.bucket,
        "OCTAVO_STORAGE__ENDPOINT_URL": str(storage.endpoint_url),
        "OCTAVO_STORAGE__ACCESS_KEY_ID": storage.access_key_id.get_secret_value(),
        "OCTAVO_STORAGE__SECRET_ACCESS_KEY": storage.secret_access_key.get_secret_value(),
        "OCTAVO_STORAGE__PRESIGN_DOWNLOADS": str(storage.presign_downloads).lower(),
    }
