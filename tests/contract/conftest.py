"""The real API on a real socket in this process, with the SDK pointed at it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import structlog
import uvicorn
from starlette.testclient import TestClient

import octavo
from api.app import create_app
from server.broker import Broker
from tests.api_server import KEY, Api, settings_in
from tests.hostile.models import export_small_net


@dataclass
class Served:
    """The API, and where it is."""

    api: Api
    url: str

    def client(self, **options: Any) -> octavo.Client:
        """The SDK with the server's key."""
        return octavo.Client(self.url, KEY, **options)


@contextmanager
def served(directory: Path, **settings: Any) -> Iterator[Served]:
    """Serve until the block ends."""
    configured = settings_in(directory, **settings)
    app = create_app(configured)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        deadline = time.monotonic() + 60
        while not server.started:
            assert thread.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        # The test client is never started: it stands in the dataclass, and the socket is spoken to.
        yield Served(Api(configured, app, TestClient(app)), f"http://127.0.0.1:{port}")
    finally:
        server.should_exit = True
        thread.join(30)


@pytest.fixture(autouse=True)
def _quiet_server() -> Iterator[None]:
    """The server shares the process with the command whose stdout is under test: its log must not stand there."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


@pytest.fixture
def server(tmp_path: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """A fresh server whose parts are of 4 KiB, and an environment that points at it."""
    queue = {"broker_url": broker.url}
    with served(tmp_path / "data", uploads={"part_bytes": 4096}, queue=queue) as started:
        monkeypatch.setenv("OCTAVO_URL", started.url)
        monkeypatch.setenv("OCTAVO_API_KEY", KEY)
        yield started


@pytest.fixture(scope="session")
def small_net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A .pt2 that takes `x` of shape (N, 3, 8, 8)."""
    return export_small_net(tmp_path_factory.mktemp("model") / "small.pt2")
