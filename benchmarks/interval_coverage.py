"""Whether a stated interval holds: the same pair measured again and again, with and without a noisy neighbour.

A static job makes the int8 model; it and the frozen float model are measured ten times quietly and ten times beside a
process that computes in bursts on whatever core it is given, in turn, each time in a process of its own. The truth is
the median of the quiet speedups. A run counts against the limit when its interval misses that and it is not marked
noisy.

Nothing else may run on the machine meanwhile. `--smoke` takes two short measurements of each and writes nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from inputs import DigitsNetwork, digits_network, static_job
from measuring import Result, median

from worker import recipes
from worker.job_folder import JobFolder

RUNS = 10
MAX_SECONDS = 5.0
BATCH_SIZES = (1, 64)
SHAPE = (1, 8, 8)
MISSES_ALLOWED = 1

MEASURE = """
import json, sys
import torch
from worker.latency import measure_latency
folder, qengine, batch_size, max_seconds, seed = sys.argv[1:]
torch.backends.quantized.engine = qengine
models = {name: torch.jit.load(f"{folder}/{name}.pt") for name in ("float_frozen", "int8_torch")}
inputs = torch.randn(int(batch_size), 1, 8, 8)
result = measure_latency(
    {name: (lambda model=model: model(inputs)) for name, model in models.items()},
    batch_size=int(batch_size), threads=1, max_seconds=float(max_seconds), seed=int(seed),
)
print(result.model_dump_json(exclude={"candidates"}))
"""
# Bursts of 20 to 500 ms of products of matrices with pauses alike.
NEIGHBOUR = """
import random, time
import torch
torch.set_num_threads(1)
matrix = torch.randn(512, 512)
print(flush=True)
while True:
    ends_at = time.perf_counter() + random.uniform(0.02, 0.5)
    while time.perf_counter() < ends_at:
        matrix @ matrix
    time.sleep(random.uniform(0.02, 0.5))
"""


def make_pair(folder: Path) -> str:
    """Write float_frozen.pt and int8_torch.pt, and say whose kernels int8 is for."""
    model = digits_network(folder / "model.pt2")
    quick = {"runtimes": ["torch"], "benchmark": {"max_seconds": 0.1}}
    with static_job(model, SHAPE, calibration=64, evaluation=64, **quick) as job:
        report = recipes.run(JobFolder(job.path), lambda _: None)
        (job.outputs / "model_int8.pt").rename(folder / "int8_torch.pt")
    torch.manual_seed(0)
    traced = torch.jit.trace(DigitsNetwork().eval(), torch.randn(2, *SHAPE))
    torch.jit.save(torch.jit.freeze(traced), folder / "float_frozen.pt")
    return report.environment.qengine


def measure(folder: Path, qengine: str, batch_size: int, max_seconds: float, seed: int) -> dict[str, Any]:
    """One measurement in a new process."""
    program = [sys.executable, "-W", "ignore", "-c", MEASURE, folder, qengine, batch_size, max_seconds, seed]
    printed = subprocess.run(list(map(str, program)), capture_output=True, text=True, check=True).stdout
    found: dict[str, Any] = json.loads(printed)
    return found


@contextmanager
def neighbour() -> Iterator[None]:
    """Another process that computes in bursts."""
    with subprocess.Popen([sys.executable, "-c", NEIGHBOUR], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield
        finally:
            process.kill()


def holds(run: dict[str, Any], truth: float) -> bool:
    """Whether the stated interval holds the median of the quiet runs."""
    low, high = run["speedup_ci95"]
    return bool(low <= truth <= high)


def tabulate(result: Result, batch_size: int, quiet: list[dict[str, Any]], beside: list[dict[str, Any]]) -> None:
    """The figures of one batch size."""
    truth = median([run["speedup"] for run in quiet])
    result.add(f"speedup, median of {len(quiet)} quiet runs, batch {batch_size}", truth, "×")
    for name, runs in (("quiet", quiet), ("beside a neighbour", beside)):
        missed = [run for run in runs if not holds(run, truth)]
        unmarked = sum(not run["noisy"] for run in missed)
        what = f"of {len(runs)} runs, {name}, batch {batch_size}"
        result.add(f"misses not marked noisy, {what}", unmarked, "runs", MISSES_ALLOWED)
        result.add(f"misses, {what}", len(missed), "runs")
        result.add(f"marked noisy, {what}", sum(run["noisy"] for run in runs), "runs")
        widths = [100 * (run["speedup_ci95"][1] / run["speedup_ci95"][0] - 1) for run in runs]
        result.add(f"width of the interval, median {what}", median(widths), "%")
        speedups = [run["speedup"] for run in runs]
        result.add(f"greatest over least speedup {what}", 100 * (max(speedups) / min(speedups) - 1), "%")


def main() -> None:
    """Measure, print and keep."""
    smoke = "--smoke" in sys.argv
    runs, max_seconds = (2, 2.0) if smoke else (RUNS, MAX_SECONDS)
    result = Result("interval_coverage")
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        qengine = make_pair(folder)
        for batch_size in BATCH_SIZES:
            quiet, beside = [], []
            for seed in range(runs):
                quiet.append(measure(folder, qengine, batch_size, max_seconds, seed))
                with neighbour():
                    beside.append(measure(folder, qengine, batch_size, max_seconds, seed))
            tabulate(result, batch_size, quiet, beside)
            result.samples[f"batch {batch_size}"] = {"quiet": quiet, "beside a neighbour": beside}
    if not smoke:
        result.save()


if __name__ == "__main__":
    main()
