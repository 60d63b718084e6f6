"""Waiting for a job to change: one query every fifth of a second for everybody who waits.

A long poll or an event stream holds neither a thread nor a connection while it waits.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import structlog
from starlette.concurrency import run_in_threadpool

from shared.database import Database
from shared.database.job_repository import JobRepository
from shared.errors import OctavoError

_POLL_SECONDS = 0.2

_log = structlog.get_logger("octavo.api")


@dataclass(eq=False)
class _Waiter:
    job_id: str
    version: int
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class JobWatch:
    """Wakes those who wait for a job whose `event_seq` has moved on."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiters: set[_Waiter] = set()
        self._poller: asyncio.Task[None] | None = None
        self.closed = False

    async def wait(self, job_id: str, version: int, timeout_seconds: float) -> bool:
        """Whether the job was seen at another version in time; at once, and False, when the process is stopping."""
        waiter = _Waiter(job_id, version)
        self._waiters.add(waiter)
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll())
        try:
            if not self.closed:
                await asyncio.wait_for(waiter.changed.wait(), timeout_seconds)
        except TimeoutError:
            return False
        finally:
            self._waiters.discard(waiter)
        return not self.closed

    def close(self) -> None:
        """Send everybody home: the process is stopping."""
        self.closed = True
        for waiter in self._waiters:
            waiter.changed.set()

    async def _poll(self) -> None:
        while self._waiters and not self.closed:
            await asyncio.sleep(_POLL_SECONDS)
            try:
                versions = await run_in_threadpool(self._versions, {waiter.job_id for waiter in self._waiters})
            except OctavoError as error:  # the database is away: those who wait find out when they read
                _log.warning("cannot watch jobs", error=error.message)
                continue
            for waiter in self._waiters:
                if versions.get(waiter.job_id) != waiter.version:
                    waiter.changed.set()

    def _versions(self, job_ids: set[str]) -> dict[str, int]:
        with self._database.read() as connection:
            return JobRepository(connection).versions(job_ids)
