"""Memory: the idle API and the idle worker's supervisor; and a calibration of ten times the data."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from inputs import LightNetwork, export_network, static_job
from measuring import Result, median
from running_stack import memory_bytes, running_stack, tree

MIB = 1024**2
ROUNDS = 3
SHAPE = (1, 128, 128)
SAMPLES = 1_000

# ru_maxrss would begin at what this process holds: Linux passes it on to a child.
MEASURED = """
import sys
from pathlib import Path
from worker import recipes
from worker.job_folder import JobFolder
recipes.run(JobFolder(Path(sys.argv[1])), lambda message: None)
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(1024 * int(peak.split()[1]))
"""


def measure_idle(result: Result) -> None:
    """Resident memory of each process, some time after the start."""
    with running_stack() as stack:
        time.sleep(10)
        for module in ("api", "worker"):
            for pid, command in tree(stack.process_id(module)):
                runner = any("runner" in word for word in command)
                main = pid == stack.process_id(module)
                name = module if main else f"{module}'s {'spare runner' if runner else 'child'}"
                torch_loaded = "libtorch" in Path(f"/proc/{pid}/maps").read_text()
                limit = 130 if main else None
                result.add(f"{name}, idle", memory_bytes(pid, "VmRSS") / MIB, "MiB", limit=limit)
                if not runner:
                    result.add(f"{name} has torch loaded (1: yes)", int(torch_loaded), "", limit=0)


def peak_of_calibration(model: Path, samples: int) -> float:
    """Peak resident bytes of a static recipe in a process of its own, with this many calibration samples."""
    asked = {"benchmark": {"max_seconds": 0.2}}
    with static_job(model, SHAPE, calibration=samples, evaluation=256, **asked) as folder:
        program = [sys.executable, "-W", "ignore", "-c", MEASURED, str(folder.path)]
        return float(subprocess.run(program, stdout=subprocess.PIPE, text=True, check=True).stdout)


def measure_calibration(result: Result) -> None:
    """Ten times the data, interleaved."""
    peaks: dict[str, list[float]] = {"base": [], "ten_times": []}
    with tempfile.TemporaryDirectory() as directory:
        model = export_network(Path(directory) / "light.pt2", LightNetwork(), torch.randn(2, *SHAPE))
        for _ in range(ROUNDS):
            peaks["base"].append(peak_of_calibration(model, SAMPLES))
            peaks["ten_times"].append(peak_of_calibration(model, 10 * SAMPLES))
    result.samples["calibration_peak_bytes"] = peaks
    base, ten_times = median(peaks["base"]), median(peaks["ten_times"])
    dataset_mib = 4 * 128 * 128 * SAMPLES / MIB
    result.add(f"runner's peak, calibrating {dataset_mib:.0f} MiB", base / MIB, "MiB")
    result.add(f"runner's peak, calibrating {10 * dataset_mib:.0f} MiB", ten_times / MIB, "MiB")
    result.add("growth with ten times the calibration data", 100 * (ten_times / base - 1), "%", limit=5)


def main() -> None:
    """Measure, print and keep."""
    result = Result("memory")
    measure_idle(result)
    measure_calibration(result)
    result.save()


if __name__ == "__main__":
    main()
