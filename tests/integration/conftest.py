"""The API under test, and a node for workers, fresh for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from server.broker import Broker
from tests.api_server import Api, running_api
from tests.hostile.models import export_small_net
from tests.services.node import Node


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    """The application in this process; its broker cannot be reached, and no worker runs."""
    with running_api(tmp_path / "data") as started:
        yield started


@pytest.fixture
def node(broker: Broker, tmp_path: Path) -> Iterator[Node]:
    """Where worker processes run, on SQLite."""
    node = Node(tmp_path, broker)
    yield node
    node.close()


@pytest.fixture(scope="session")
def small_net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A .pt2 that takes `x` of shape (N, 3, 8, 8)."""
    return export_small_net(tmp_path_factory.mktemp("model") / "small.pt2")
