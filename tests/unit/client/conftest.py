from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from octavo import _retry
from tests.unit.client.scripted_server import Script, ScriptedServer


@pytest.fixture
def serve() -> Iterator[Callable[[Script], ScriptedServer]]:
    """`serve(script)` starts a server that lives as long as the test."""
    with ExitStack() as stack:
        yield lambda script: stack.enter_context(ScriptedServer(script).running())


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings of the machine, and retries that come at once."""
    for name in ("OCTAVO_URL", "OCTAVO_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(_retry, "FIRST_DELAY_SECONDS", 0.01)
    monkeypatch.setattr(_retry, "LONGEST_DELAY_SECONDS", 0.02)
