"""The real servers as fixtures, one of each for a test process, started when a test first asks."""

import gc
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TypeVar

import pytest

from server.broker import Broker
from shared.settings import StorageSettings
from tests.services.postgres import PostgresServer, postgres
from tests.services.process import ServiceMissing
from tests.services.prometheus import promtool as find_promtool
from tests.services.s3_server import S3Server, s3_server
from tests.services.valkey import valkey

Service = TypeVar("Service")

# A run in the background inherits an ignored SIGINT and would hand it on: programs under test could not be interrupted.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The quick tests last: whoever is done early with slow ones has something to do until the end."""
    items.sort(key=lambda item: "unit" in item.path.parts)


@pytest.fixture(scope="module", autouse=True)
def _cheap_collections() -> None:
    """What is imported by now is not looked at again, as in a worker's runner: a job collects garbage at every step."""
    gc.freeze()


@contextmanager
def skipped_if_missing(start: Callable[[], AbstractContextManager[Service]]) -> Iterator[Service]:
    """A service; where its program is not installed the test is skipped, and in CI it fails."""
    with ExitStack() as stack:
        try:
            service = stack.enter_context(start())
        except ServiceMissing as missing:
            if os.environ.get("CI") == "true":
                raise
            pytest.skip(str(missing))
        yield service


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A real Valkey: `broker.url` is for OCTAVO_QUEUE__BROKER_URL."""
    with valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A real PostgreSQL."""
    with skipped_if_missing(postgres) as server:
        yield server


@pytest.fixture(scope="module")
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of a new and empty database, one for each test module."""
    with postgres_server.database() as url:
        yield url


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3-compatible server."""
    with skipped_if_missing(lambda: s3_server(tmp_path_factory.mktemp("swift"))) as server:
        yield server


@pytest.fixture
def s3_settings(s3: S3Server) -> StorageSettings:
    """Storage settings that name a new bucket."""
    return s3.settings()


@pytest.fixture(scope="session")
def promtool() -> Iterator[Path]:
    """The checker of Prometheus configurations, rules and rule tests."""
    with skipped_if_missing(lambda: nullcontext(find_promtool())) as program:
        yield program
