"""What the machine does beside us: read before and after a measurement, from /proc and /sys as far as they can be read.

Holds no torch and no numpy: the sandbox asks it which files of the control group it reads.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_PROC_STAT = Path("/proc/stat")
_STATM = Path("/proc/self/statm")
_MEMINFO = Path("/proc/meminfo")
_CPUS = Path("/sys/devices/system/cpu")
_CGROUPS = Path("/sys/fs/cgroup")
_CGROUP_FILES = ("cpu.stat", "cpu.max", "cpu.cfs_quota_us", "cpu.cfs_period_us")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_LOOK_SECONDS = 0.001
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
_SPINS = 20_000
_SPIN_REPEATS = 7


@dataclass(frozen=True)
class CoreTime:
    """Seconds that a core was busy, and that the hypervisor gave it to another machine, since it started."""

    busy: float
    stolen: float


@dataclass(frozen=True)
class MachineState:
    """The counters at one moment; what cannot be read is empty or None."""

    at: float
    """In seconds; only differences mean something."""
    own_seconds: float
    """CPU time of this process, all its threads."""
    cores: Mapping[int, CoreTime]
    throttled: int | None
    """How often a control group that this process is in had used up its CPU time."""
    frequencies_khz: Mapping[int, float]
    spin_ms: float
    """How long a fixed piece of work takes: the clock, where no frequency can be read."""


@dataclass(frozen=True)
class Disturbance:
    """What happened between two states; times are in cores, 0.5 being half of one; None is unknown."""

    seconds: float
    others: float | None
    """Other processes on the cores measured on."""
    siblings: float | None
    """All that ran on the other hardware threads of these cores."""
    elsewhere: float | None
    """All that ran on other cores."""
    stolen: float | None
    throttled: int | None
    frequency_change: float | None
    """Relative, of the mean over the cores measured on."""
    slowdown: float
    """Relative, of the same piece of work."""


def read_state(cores: Collection[int]) -> MachineState:
    """The machine now, as a process sees it that is pinned to these cores."""
    return MachineState(
        at=time.perf_counter(),
        own_seconds=time.process_time(),
        cores=core_times(_text(_PROC_STAT)),
        throttled=_throttled(),
        frequencies_khz={
            core: float(text) for core in cores if (text := _text(_CPUS / f"cpu{core}/cpufreq/scaling_cur_freq"))
        },
        spin_ms=min(_spin_ms() for _ in range(_SPIN_REPEATS)),
    )


def disturbance(before: MachineState, after: MachineState, cores: Collection[int]) -> Disturbance:
    """What others did meanwhile, to a process that is pinned to these cores."""
    seconds = after.at - before.at
    measured, siblings = set(cores), set().union(*map(siblings_of, cores)) - set(cores)
    known = before.cores.keys() & after.cores.keys()
    others = elsewhere = beside = stolen = None
    if measured <= known and seconds > 0:
        busy = {core: max(0.0, after.cores[core].busy - before.cores[core].busy) / seconds for core in known}
        own = (after.own_seconds - before.own_seconds) / seconds
        others = max(0.0, sum(busy[core] for core in measured) - own)
        beside = sum(busy[core] for core in siblings & known)
        elsewhere = sum(busy[core] for core in known - measured - siblings)
        stolen = sum(max(0.0, after.cores[core].stolen - before.cores[core].stolen) for core in measured) / seconds
    return Disturbance(
        seconds=seconds,
        others=others,
        siblings=beside,
        elsewhere=elsewhere,
        stolen=stolen,
        throttled=None if before.throttled is None or after.throttled is None else after.throttled - before.throttled,
        frequency_change=_change(before.frequencies_khz, after.frequencies_khz),
        slowdown=after.spin_ms / before.spin_ms - 1,
    )


def core_times(proc_stat: str) -> dict[int, CoreTime]:
    """Each core's time from the text of /proc/stat; waiting for a disk is not busy."""
    times = {}
    for line in proc_stat.splitlines():
        name, *fields = line.split()
        if not (match := re.fullmatch(r"cpu(\d+)", name)):
            continue
        user, nice, system, _idle, _iowait, irq, softirq, steal = (int(field) / _TICKS_A_SECOND for field in fields[:8])
        times[int(match[1])] = CoreTime(busy=user + nice + system + irq + softirq, stolen=steal)
    return times


def siblings_of(core: int) -> set[int]:
    """The hardware threads of the same physical core, itself among them."""
    return _core_list(_text(_CPUS / f"cpu{core}/topology/thread_siblings_list")) or {core}


def has_smt() -> bool | None:
    """Whether a physical core runs several hardware threads; None where the kernel does not tell."""
    text = _text(_CPUS / "smt/active")
    return text == "1" if text else None


def governor(core: int) -> str | None:
    """What sets the frequency of this core, such as `performance` or `powersave`; None in most virtual machines."""
    return _text(_CPUS / f"cpu{core}/cpufreq/scaling_governor") or None


def load_average() -> list[float] | None:
    """Processes that ran or waited for a core or a disk, over 1, 5 and 15 minutes."""
    try:
        return [round(load, 2) for load in os.getloadavg()]
    except OSError:
        return None


def cgroup_cpu_files() -> list[Path]:
    """Limits and counters of the control groups that this process is in, the innermost first; both versions."""
    return [
        file for folder in _cgroup_folders(_text(Path("/proc/self/cgroup"))) for name in _CGROUP_FILES
        if (file := folder / name).exists()
    ]  # fmt: skip


def cgroup_cpu_limit() -> float | None:
    """How many cores' time the control groups leave to this process; None for no limit."""
    limits = []
    for file in cgroup_cpu_files():
        if file.name == "cpu.max":
            quota, _, period = _text(file).partition(" ")
        elif file.name == "cpu.cfs_quota_us":
            quota, period = _text(file), _text(file.with_name("cpu.cfs_period_us"))
        else:
            continue
        if quota.isdigit() and period.isdigit():  # not `max`, not -1
            limits.append(int(quota) / int(period))
    return min(limits, default=None)


def _cgroup_folders(proc_self_cgroup: str) -> Iterator[Path]:
    for line in proc_self_cgroup.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        roots = [_CGROUPS / controllers] if controllers else [_CGROUPS, _CGROUPS / "unified"]
        for root in roots:
            own = root / path.lstrip("/")
            yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(root))


def _throttled() -> int | None:
    counts = [
        int(line.split()[1])
        for file in cgroup_cpu_files()
        if file.name == "cpu.stat"
        for line in _text(file).splitlines()
        if line.startswith("nr_throttled ")
    ]
    return sum(counts) if counts else None


def _core_list(text: str) -> set[int]:
    """The kernel's way to write it: `0-3,8`."""
    cores: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        cores.update(range(int(first), int(last or first) + 1))
    return cores


def _change(before: Mapping[int, float], after: Mapping[int, float]) -> float | None:
    both = before.keys() & after.keys()
    return sum(after[core] for core in both) / sum(before[core] for core in both) - 1 if both else None


def _spin_ms() -> float:
    began_at = time.perf_counter_ns()
    for _ in range(_SPINS):
        pass
    return (time.perf_counter_ns() - began_at) / 1e6


def _text(path: Path) -> str:
    with suppress(OSError):
        return path.read_text().strip()
    return ""


def available_bytes() -> int:
    """Memory that processes may still take without swapping, as the kernel reckons (`MemAvailable`)."""
    line = next(line for line in _MEMINFO.read_text().splitlines() if line.startswith("MemAvailable"))
    return 1024 * int(line.split()[1])


def resident_bytes() -> int:
    """Resident memory of this process."""
    return int(_STATM.read_text().split()[1]) * _PAGE_BYTES


class PeakWatch:
    """The most resident memory of this process inside the block, looked at every millisecond.

    The kernel's own mark (VmHWM) can be reset by root alone, in a process that may be debugged, which no runner may.
    """

    def __enter__(self) -> Self:
        self.peak_bytes = resident_bytes()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self.peak_bytes = max(self.peak_bytes, resident_bytes())

    def _watch(self) -> None:
        while not self._over.wait(_LOOK_SECONDS):
            self.peak_bytes = max(self.peak_bytes, resident_bytes())
