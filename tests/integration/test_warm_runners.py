"""The spare runner: there when a job wants it, and never started where importing torch would disturb somebody."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from worker import runner_process
from worker.runner_process import RunnerProcess
from worker.sandbox import probe_level
from worker.warm_runners import WarmRunners

WAIT_SECONDS = 60.0
LOOKS_SECONDS = 0.7  # enough for three looks
#: Ready at once, and then waits for its job.
RUNNER = """
import sys
from worker.runner import die_with_parent, serve
die_with_parent(int(sys.argv[1]))
serve(dict)
"""


@dataclass
class Warm:
    """Warm runners that look after themselves, on a node that is measured where the test says so."""

    measured: threading.Event = field(default_factory=threading.Event)
    stopped: threading.Event = field(default_factory=threading.Event)
    started: list[RunnerProcess] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.runners = WarmRunners(is_measured=self.measured.is_set)
        self.thread = threading.Thread(target=self.runners.run, args=(self.stopped,))

    def has_started(self, count: int) -> None:
        """Wait until so many were started in all; and see that it stays with these."""
        deadline = time.monotonic() + WAIT_SECONDS
        while len(self.started) < count:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(LOOKS_SECONDS)
        assert len(self.started) == count


@pytest.fixture
def warm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Warm]:
    warm = Warm()
    start: Callable[[RunnerProcess], None] = RunnerProcess.start

    def counted(runner: RunnerProcess) -> None:
        start(runner)
        warm.started.append(runner)

    monkeypatch.setattr(RunnerProcess, "start", counted)
    monkeypatch.setattr(runner_process, "default_command", lambda: [sys.executable, "-I", "-c", RUNNER])
    yield warm
    warm.stopped.set()
    if warm.thread.is_alive():
        warm.thread.join()
    warm.runners.close()
    for runner in warm.started:
        runner.kill()


def test_the_spare_is_handed_out_and_replaced_once_its_job_has_ended(warm: Warm) -> None:
    warm.thread.start()
    warm.has_started(1)
    job = warm.runners.take()
    assert job is warm.started[0]
    assert job.wait_ready(WAIT_SECONDS) == probe_level()
    warm.has_started(1)
    job.kill()
    warm.has_started(2)
    assert warm.runners.take() is warm.started[1]


def test_nothing_is_started_while_somebody_measures_but_for_a_job(warm: Warm) -> None:
    warm.measured.set()
    warm.thread.start()
    warm.has_started(0)
    job = warm.runners.take()
    warm.has_started(1)
    job.kill()
    warm.has_started(1)
    warm.measured.clear()
    warm.has_started(2)


def test_a_spare_that_died_is_never_handed_out_and_not_replaced_again_and_again(warm: Warm) -> None:
    """Where torch cannot be imported every runner ends at once."""
    warm.thread.start()
    warm.has_started(1)
    os.kill(warm.started[0].pid, signal.SIGKILL)
    warm.has_started(1)
    assert warm.started[0].exit_signal is signal.SIGKILL, "it is reaped"
    assert warm.runners.take() is not warm.started[0]


def test_closing_ends_the_spare(warm: Warm) -> None:
    warm.thread.start()
    warm.has_started(1)
    warm.stopped.set()
    warm.thread.join()
    warm.runners.close()
    assert not warm.started[0].alive()
