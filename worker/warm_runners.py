"""Keeps one spare runner that has already imported torch, so that a job starts at once."""

from __future__ import annotations

import threading

from worker.runner_process import RunnerProcess


class WarmRunners:
    """Hands out runners, each for one job."""

    def __init__(self) -> None:
        self._spare: RunnerProcess | None = None
        self._lock = threading.Lock()

    def take(self) -> RunnerProcess:
        """The spare runner, or one that is started now; `wait_ready` tells when it has imported torch."""
        with self._lock:
            runner, self._spare = self._spare, None
        if runner is None or not runner.alive():
            runner = _started()
        return runner

    def refill(self) -> None:
        """Start a spare if there is none; when a job has ended, so that importing torch disturbs no benchmark."""
        with self._lock:
            if self._spare is None or not self._spare.alive():
                self._spare = _started()

    def close(self) -> None:
        """End the spare."""
        with self._lock:
            if self._spare is not None:
                self._spare.kill()
                self._spare = None


def _started() -> RunnerProcess:
    runner = RunnerProcess()
    runner.start()
    return runner
