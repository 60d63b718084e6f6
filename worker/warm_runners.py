"""Keeps one spare runner that has already imported torch, so that a job starts at once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from worker.runner_process import RunnerLost, RunnerProcess

_LOG = logging.getLogger(__name__)
_LOOK_SECONDS = 0.2
_AFTER_FAILURE_SECONDS = 10.0


class WarmRunners:
    """Hands out runners, each for one job."""

    def __init__(self, *, is_measured: Callable[[], bool]) -> None:
        """`is_measured` tells whether somebody measures on this node: importing torch would disturb that."""
        self._is_measured = is_measured
        self._spare: RunnerProcess | None = None
        self._taken: list[RunnerProcess] = []
        self._lock = threading.Lock()

    def run(self, stop: threading.Event) -> None:
        """See to it that there is a spare whenever no job runs here and nobody measures, until `stop` is set."""
        pause = 0.0
        while not stop.wait(pause):
            pause = _LOOK_SECONDS
            try:
                self._refill()
            except (OSError, RunnerLost) as error:  # no room for another process, or torch cannot be imported
                _LOG.warning("There is no spare runner: %s", error)
                pause = _AFTER_FAILURE_SECONDS

    def take(self) -> RunnerProcess:
        """The spare runner, or one that is started now; `wait_ready` tells when it has imported torch."""
        with self._lock:
            runner, self._spare = self._spare, None
            if runner is not None and not runner.alive():
                runner.kill()
                runner = None
            runner = runner or _started()
            self._taken.append(runner)
        return runner

    def close(self) -> None:
        """End the spare."""
        with self._lock:
            if self._spare is not None:
                self._spare.kill()
                self._spare = None

    def _refill(self) -> None:
        with self._lock:
            self._taken = [runner for runner in self._taken if runner.alive()]
            if self._spare is not None and not self._spare.alive():
                self._spare.kill()
                self._spare = None
                raise RunnerLost("it has ended by itself")
            # A job that runs is about to measure, if not yet.
            if self._spare is None and not self._taken and not self._is_measured():
                self._spare = _started()


def _started() -> RunnerProcess:
    runner = RunnerProcess()
    runner.start()
    return runner
