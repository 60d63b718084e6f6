"""Telling workers of new jobs, without ever making a request wait for the broker."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

import structlog

# Beyond this the broker is down, and the reconciler sends the hints of every due job anyway.
_MAX_WAITING = 10_000

_log = structlog.get_logger("octavo.api")


class HintPublisher:
    """One thread that publishes job ids, best effort: a lost hint costs seconds, never a job."""

    def __init__(self, publish: Callable[[str, str | None], object]) -> None:
        self._publish = publish
        self._waiting: queue.Queue[tuple[str, str | None] | None] = queue.Queue(_MAX_WAITING)
        self._thread = threading.Thread(target=self._run, name="hints", daemon=True)

    def start(self) -> None:
        """Begin to publish."""
        self._thread.start()

    def hint(self, job_id: str, worker_id: str | None = None) -> None:
        """Publish soon, to all workers or to this one; returns at once."""
        try:
            self._waiting.put_nowait((job_id, worker_id))
        except queue.Full:
            _log.warning("hint dropped", job_id=job_id)

    def stop(self, timeout_seconds: float = 1.0) -> None:
        """Publish what is waiting, as far as the time allows."""
        try:
            self._waiting.put_nowait(None)
        except queue.Full:
            return
        self._thread.join(timeout_seconds)

    def _run(self) -> None:
        while (hint := self._waiting.get()) is not None:
            job_id, worker_id = hint
            try:
                self._publish(job_id, worker_id)
            except Exception as error:  # noqa: BLE001 - whatever the broker's client raises, the next hint may get through
                _log.warning("hint not published", job_id=job_id, error=repr(error))
