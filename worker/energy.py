"""Energy of the CPU's packages: RAPL by the powercap tree, https://docs.kernel.org/power/powercap/powercap.html.

Intel counts it, and AMD from Zen on in the same tree. Since CVE-2020-8694 only root may read the counters, for they
tell what other processes compute; the sandbox lets jobs read them only where the node lets everybody. What is counted
is the whole of the packages: idle cores and other processes are in it, and memory is not.

Holds no torch and no numpy: the sandbox asks it which files it reads.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

_POWERCAP = Path("/sys/class/powercap")
_MOST_DOMAINS = 64
_PACKAGE = "package-"  # others are parts of one (core, uncore, dram) or more than the CPU (psys)
SECONDS = 0.5
"""Of runs of each candidate: the counters tick every millisecond."""
LEAST_RUNS = 3
COUNTED = "RAPL counts all of the CPU's packages: what idles and other processes are in it, and memory is not."
NOT_THERE = "The kernel shows no energy counters (RAPL), as in most virtual machines."
NOT_FOR_ALL = "The energy counters (RAPL) are not for every process to read, by default since CVE-2020-8694."


@dataclass(frozen=True)
class _Domain:
    """A package's counter."""

    energy: Path
    """Microjoules since some time; it begins anew from 0 behind `range_uj`, after minutes of full load at least."""
    range_uj: int

    def read_uj(self) -> int:
        return int(self.energy.read_text())


class EnergyCounter:
    """The counters of all packages together."""

    def __init__(self, domains: Sequence[_Domain]) -> None:
        self._domains = domains

    def joules_of(self, run: Callable[[], object], seconds: float) -> float:
        """What one run takes on average over so many seconds of runs."""
        before = [each.read_uj() for each in self._domains]
        began_at, runs = perf_counter(), 0
        while runs < LEAST_RUNS or perf_counter() - began_at < seconds:
            run()
            runs += 1
        after = [each.read_uj() for each in self._domains]
        taken = [
            end - start if end >= start else end - start + domain.range_uj
            for domain, start, end in zip(self._domains, before, after, strict=True)
        ]
        return sum(taken) / 1e6 / runs


def energy_counter() -> EnergyCounter | None:
    """The counters of this node; None where they cannot be read."""
    domains = []
    for folder in _packages():
        try:
            domain = _Domain(folder / "energy_uj", int((folder / "max_energy_range_uj").read_text()))
            domain.read_uj()
        except (OSError, ValueError):
            return None  # a part of the packages would look like little
        domains.append(domain)
    return EnergyCounter(domains) if domains else None


def why_no_energy() -> str:
    """Why there is no counter; that a path exists is seen in the sandbox as well."""
    return NOT_FOR_ALL if (_POWERCAP / "intel-rapl:0").exists() else NOT_THERE


def energy_files() -> list[Path]:
    """What jobs may read to measure energy; nothing where not everybody on this node may read it all."""
    files = [
        (folder / name).resolve() for folder in _packages() for name in ("name", "energy_uj", "max_energy_range_uj")
    ]
    with suppress(OSError):
        if all(file.stat().st_mode & stat.S_IROTH for file in files):
            return files
    return []


def _packages() -> list[Path]:
    """Found by trying their names: the sandbox shows no folder of them."""
    found = []
    for at in range(_MOST_DOMAINS):
        folder = _POWERCAP / f"intel-rapl:{at}"
        with suppress(OSError):
            if (folder / "name").read_text().startswith(_PACKAGE):
                found.append(folder)
    return found
