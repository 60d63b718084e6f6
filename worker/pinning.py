"""Which cores a measurement runs on: the least busy ones, for all threads of this process, until it is over."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from worker.machine_state import CoreTime, core_times, siblings_of

_LOOK_SECONDS = 0.1
_THREADS = Path("/proc/self/task")


def available_cores() -> list[int]:
    """The cores that this process may use."""
    return sorted(os.sched_getaffinity(0))


def quietest_cores(count: int) -> list[int]:
    """That many of the cores that this process may use: those that are idle now, and one a physical core at first."""
    cores = available_cores()
    if count >= len(cores):
        return cores
    before = _times()
    time.sleep(_LOOK_SECONDS)
    return sorted(choose_cores(count, cores, before, _times()))


def choose_cores(
    count: int, cores: Collection[int], before: Mapping[int, CoreTime], after: Mapping[int, CoreTime]
) -> list[int]:
    """The least busy first; of equally busy ones the last, for interrupts go to the first."""

    def busy(core: int) -> float:
        threads = siblings_of(core) & before.keys() & after.keys()
        return round(sum(after[each].busy - before[each].busy for each in threads), 1)

    chosen: list[int] = []
    left = sorted(cores, key=lambda core: (busy(core), -core))
    while left and len(chosen) < count:
        taken: set[int] = set()  # physical cores have one of their hardware threads chosen before any has two
        for core in left:
            if core not in taken:
                chosen.append(core)
                taken |= siblings_of(core)
        left = [core for core in left if core not in chosen]
    return chosen[:count]


@contextmanager
def pinned_to(cores: Collection[int]) -> Iterator[None]:
    """Run all threads of this process on these cores inside the block; threads that it starts inherit that.

    After it each thread may use the cores that it could before, and one started inside those of its starter.
    """
    own = os.sched_getaffinity(0)
    before: dict[int, set[int]] = {}
    for thread in _threads():
        with suppress(ProcessLookupError):
            before[thread] = os.sched_getaffinity(thread)
    try:
        for thread in before:
            _pin(thread, cores)
        yield
    finally:
        for thread in _threads():
            _pin(thread, before.get(thread, own))


def _pin(thread: int, cores: Collection[int]) -> None:
    with suppress(ProcessLookupError):  # it has ended meanwhile
        os.sched_setaffinity(thread, cores)


def _threads() -> list[int]:
    return [int(entry.name) for entry in _THREADS.iterdir()]


def _times() -> dict[int, CoreTime]:
    try:
        return core_times(Path("/proc/stat").read_text())
    except OSError:
        return {}
