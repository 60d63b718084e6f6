"""A real Valkey, the broker that the embedded stack starts too."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from server.broker import Broker
from tests.services.process import running


@contextlib.contextmanager
def valkey(directory: Path) -> Iterator[Broker]:
    """A broker with a password on a free port; its `url` has both."""
    directory.mkdir(exist_ok=True)
    broker = Broker(directory)
    with running(broker.command(), ready=broker.answers, log=directory / "valkey.log", stdin=broker.settings()):
        yield broker
