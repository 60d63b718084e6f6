"""Looks after a claim while its job runs: renews the lease, sees cancel requests, keeps the limits."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Protocol, Self

from shared.database import Database
from shared.database.job_repository import JobRepository
from shared.database.records import Claim
from shared.errors import (
    InternalError,
    JobOutOfMemory,
    JobTimedOut,
    OctavoError,
    OutputTooLarge,
    ServiceError,
    StaleFence,
)
from shared.settings import JobSettings
from worker.job_limits import JobLimits

_LOG = logging.getLogger(__name__)
_GIB = 1024**3


class Stopped(Exception):
    """The job must stop now."""


class Cancelled(Stopped):
    """Somebody asked for it."""


class ClaimLost(Stopped):
    """Another attempt has begun, or the lease could not be renewed in time: nothing more may be written."""


class ShuttingDown(Stopped):
    """This worker stops; the job is handed back."""


class Watched(Protocol):
    """What the watch measures and ends: the job's process."""

    def rss_bytes(self) -> int:
        """Resident memory now."""

    def kill(self) -> None:
        """End it and all it started, at once."""


class ClaimWatch:
    """A thread beside a running job, for as long as its `with` block.

    `check()` raises why the job must stop; a process given to `guard()` is killed at that moment, wherever it is.
    """

    def __init__(
        self,
        database: Database,
        claim: Claim,
        settings: JobSettings,
        *,
        shutdown: threading.Event,
        limits: JobLimits,
        written_bytes: Callable[[], int],
    ) -> None:
        self._database = database
        self._claim = claim
        self._settings = settings
        self._shutdown = shutdown
        self._limits = limits
        self._written_bytes = written_bytes
        self._started_at = self._renewed_at = self._measured_at = time.monotonic()
        self._stop: Stopped | OctavoError | None = None
        self._process: Watched | None = None
        self._forgiven: Callable[[], float] = lambda: 0.0
        self._measuring_since: float | None = None
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"watch-{claim.job_id}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def check(self, *_ignored: object) -> None:
        """Raise Cancelled, ClaimLost, ShuttingDown or the limit that was exceeded, if the job must stop."""
        if self._stop is not None:
            raise self._stop

    def guard(self, process: Watched) -> None:
        """Watch this process from now on; kill it when the job must stop."""
        with self._lock:
            self._process = process
            if self._stop is not None:
                process.kill()

    @contextlib.contextmanager
    def measuring(self) -> Iterator[None]:
        """The job has the node for itself inside the block, for which there is a limit of its own."""
        self._measuring_since = time.monotonic()
        try:
            yield
        finally:
            self._measuring_since = None

    def forgive(self, seconds: Callable[[], float]) -> None:
        """Take these seconds off the time that the job has used: while it stood still for another's measurement."""
        self._forgiven = seconds

    def _run(self) -> None:
        while not self._done.wait(self._settings.cancel_poll_seconds):
            try:
                stop = self._look()
            except StaleFence:
                stop = ClaimLost()
            except ServiceError as error:
                _LOG.warning("The claim on %s could not be looked at: %s", self._claim.job_id, error)
                stop = self._lease_ran_out()
            except Exception:  # noqa: BLE001 - whatever it is, a job that nobody watches must not go on
                _LOG.exception("The watch over %s failed", self._claim.job_id)
                stop = InternalError()
            if stop is not None:
                with self._lock:
                    self._stop = stop
                    if self._process is not None:
                        self._process.kill()
                if isinstance(stop, Cancelled):
                    self._record_cancelled()
                return

    def _record_cancelled(self) -> None:
        # Here and not where the job ends: a transfer that stalls may hold that up, and the user waits for the answer.
        with contextlib.suppress(ServiceError), self._database.write() as connection:
            JobRepository(connection).cancel(self._claim)

    def _look(self) -> Stopped | OctavoError | None:
        now = time.monotonic()
        with self._database.read() as connection:
            if JobRepository(connection).cancel_requested(self._claim):
                return Cancelled()
        if now - self._renewed_at >= self._settings.heartbeat_seconds:
            with self._database.write() as connection:
                JobRepository(connection).renew_lease(self._claim, self._settings.lease_seconds)
            self._renewed_at = now
        if self._shutdown.is_set():
            return ShuttingDown()
        return self._exceeded_limit(now)

    def _lease_ran_out(self) -> ClaimLost | None:
        # Before others see the lease expire, by a clock that may differ from ours.
        patience = self._settings.lease_seconds - self._settings.heartbeat_seconds
        return ClaimLost() if time.monotonic() - self._renewed_at > patience else None

    def _exceeded_limit(self, now: float) -> OctavoError | None:
        limits = self._limits
        if now - self._started_at - self._forgiven() > limits.wall_limit_seconds:
            return JobTimedOut(f"The job ran longer than its limit of {limits.wall_limit_seconds:g} s.")
        since = self._measuring_since
        if since is not None and now - since > limits.measure_limit_seconds:
            allowed = f"{limits.measure_limit_seconds:g} s"
            return JobTimedOut(f"The job measured longer than the {allowed} for which it may have the node alone.")
        if self._process is not None and self._process.rss_bytes() > limits.memory_limit_bytes:
            return JobOutOfMemory(f"The job used more than its limit of {limits.memory_limit_bytes / _GIB:.1f} GiB.")
        if now - self._measured_at >= 1:
            self._measured_at = now
            if self._written_bytes() > limits.output_limit_bytes:
                return OutputTooLarge(f"The job wrote more than {limits.output_limit_bytes / _GIB:.1f} GiB.")
        return None
