"""What one job may use of this node."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from shared.settings import WorkerSettings

_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_SHARE_OF_MEMORY = 0.8


@dataclass(frozen=True)
class JobLimits:
    """Threads, bytes and seconds of one job."""

    threads: int
    memory_limit_bytes: int
    output_limit_bytes: int
    wall_limit_seconds: float
    measure_limit_seconds: float
    """Of the wall limit, what the job may have the node for itself."""


def job_limits(settings: WorkerSettings) -> JobLimits:
    """The limits that are set, and for those that are not a fair share of the machine."""
    cores = len(os.sched_getaffinity(0))
    return JobLimits(
        threads=settings.threads or max(1, cores // settings.concurrency),
        memory_limit_bytes=settings.memory_limit_bytes
        or int(_memory_bytes() * _SHARE_OF_MEMORY / settings.concurrency),
        output_limit_bytes=settings.output_limit_bytes,
        wall_limit_seconds=settings.wall_limit_seconds,
        measure_limit_seconds=settings.measure_limit_seconds,
    )


def _memory_bytes() -> int:
    """Memory of the machine, or of the container if that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in map(Path, _CGROUP_LIMITS):
        if path.exists() and (text := path.read_text().strip()).isdigit():
            total = min(total, int(text))
    return total
