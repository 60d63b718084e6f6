"""How a benchmark is recorded: the command, the machine, the raw samples, and each figure beside its limit."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


@dataclass
class Figure:
    """One measured number; `limit` is what it must not exceed, None for a number that only informs."""

    name: str
    value: float
    unit: str
    limit: float | None = None

    @property
    def met(self) -> bool:
        """Whether it is within its limit."""
        return self.limit is None or self.value <= self.limit


@dataclass
class Result:
    """What one script measured."""

    script: str
    figures: list[Figure] = field(default_factory=list)
    samples: dict[str, Any] = field(default_factory=dict)

    def add(self, name: str, value: float, unit: str, limit: float | None = None) -> None:
        """Note a figure and show it."""
        figure = Figure(name, round(value, 4), unit, limit)
        self.figures.append(figure)
        target = "" if limit is None else f"   limit {limit:g} {unit}: {'met' if figure.met else 'MISSED'}"
        print(f"{name:70} {value:10.3f} {unit}{target}", flush=True)

    def save(self) -> None:
        """Write results/<script>.json."""
        RESULTS.mkdir(exist_ok=True)
        document = {
            "command": f"python benchmarks/{self.script}.py",
            "measured_at": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
            "machine": machine(),
            "figures": [asdict(figure) | {"met": figure.met} for figure in self.figures],
            "samples": self.samples,
        }
        (RESULTS / f"{self.script}.json").write_text(json.dumps(document, indent=1) + "\n")


def machine() -> dict[str, Any]:
    """Where it was measured."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    revision = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "load_average_after": os.getloadavg()[0],
        "kernel": platform.release(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "revision": revision.stdout.strip(),
    }


def percentile(samples: list[float], share: float) -> float:
    """The nearest-rank percentile."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def median(samples: list[float]) -> float:
    """The median."""
    return statistics.median(samples)


def figures_of(path: Path) -> list[Figure]:
    """The figures in a result file."""
    document = json.loads(path.read_text())
    return [Figure(each["name"], each["value"], each["unit"], each["limit"]) for each in document["figures"]]


def run_script(name: str) -> bool:
    """Run another benchmark script; whether it came to its end."""
    return subprocess.run([sys.executable, str(Path(__file__).parent / f"{name}.py")], check=False).returncode == 0
