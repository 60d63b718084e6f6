"""What explaining costs: the layer report beside the evaluation, the sensitivity's budget, and a job's peak memory.

The time of the layer report is that of the step `analyse` without sensitivity, in the whole recipe; the evaluation is
the step before it: float and int8 on the same samples, in the same process. Peak memory is that of a process that runs
one static job with everything on, less what it held after such a job on a network of one block (what torch loads once);
a batch is what the float model takes to run one, measured likewise. Peaks are the kernel's (VmHWM, reset before).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from inputs import export_network, static_job
from measuring import Result, median
from torch import nn

MIB = 1024**2
ROUNDS = 3
SHAPE = (3, 32, 32)
CALIBRATION, EVALUATION = 128, 512
BATCH = 32

MEMORY = """
import re
from pathlib import Path

def resident(what):
    found = re.search(what + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())
    return 1024 * int(found[1])

def begin():
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is resident now
    return resident("VmRSS")
"""
PEAK = (
    MEMORY
    + """
import json, sys
from worker import recipes
from worker.job_folder import JobFolder
from worker.quantization import collect_garbage
recipes.run(JobFolder(Path(sys.argv[2])), lambda message: None)
collect_garbage()
before = begin()
report = recipes.run(JobFolder(Path(sys.argv[1])), lambda message: None)
sensitivity = report.sensitivity
print(json.dumps({"peak_bytes": resident("VmHWM") - before, "timings": report.timings,
                  "sensitivity_seconds": None if sensitivity is None else sensitivity.seconds}))
"""
)
BATCH_PEAK = (
    MEMORY
    + """
import json, sys
import torch
from worker import recipes
torch.set_num_threads(1)
module = torch.export.load(sys.argv[1]).module()
inputs = torch.randn(int(sys.argv[2]), *map(int, sys.argv[3].split(",")))
with torch.inference_mode():
    module(inputs[:2])
    before = begin()
    module(inputs)
print(json.dumps(resident("VmHWM") - before))
"""
)


class DeepNetwork(nn.Module):
    """Residual blocks whose weights are many times their activations: `depth` blocks of 2 x 256 x 256 x 9 weights."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 256, 3, stride=4, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(256, 256, 3, padding=1), nn.BatchNorm2d(256), nn.ReLU(),
                nn.Conv2d(256, 256, 3, padding=1), nn.BatchNorm2d(256),
            )
            for _ in range(depth)
        )  # fmt: skip
        self.head = nn.Linear(256, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of 10 classes for images of shape (batch, 3, 32, 32)."""
        x = torch.relu(self.stem(x))
        for block in self.blocks:
            x = torch.relu(x + block(x))
        logits: torch.Tensor = self.head(x.mean((2, 3)))
        return logits


def run_job(model: Path, warm_up: Path, **analysis: Any) -> dict[str, Any]:
    """One static job in a process of its own, after one on another model."""
    wanted: dict[str, Any] = {"benchmark": {"max_seconds": 0.5}, "analysis": analysis}
    samples = {"calibration": CALIBRATION, "evaluation": EVALUATION}
    with static_job(model, SHAPE, **samples, **wanted) as job, static_job(warm_up, SHAPE, **samples, **wanted) as first:
        found: dict[str, Any] = json.loads(python(PEAK, str(job.path), str(first.path)))
        return found


def python(program: str, *arguments: str) -> str:
    """What a fresh interpreter prints."""
    command = [sys.executable, "-W", "ignore", "-c", program, *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def main() -> None:
    """Measure, print and keep."""
    result = Result("analysis")
    with tempfile.TemporaryDirectory() as directory:
        shallow = export_network(Path(directory) / "shallow.pt2", DeepNetwork(4), torch.randn(2, *SHAPE))
        first = export_network(Path(directory) / "first.pt2", DeepNetwork(1), torch.randn(2, *SHAPE))
        ratios = []
        for _ in range(ROUNDS):
            timings = run_job(shallow, first, sensitivity_seconds=0)["timings"]
            ratios.append(timings["analyse"] / timings["evaluate"])
        result.samples["analyse_to_evaluate"] = ratios
        result.add("layer report / evaluation", median(ratios), "x", limit=2.0)
        used = [run_job(shallow, first, sensitivity_seconds=3)["sensitivity_seconds"] for _ in range(ROUNDS)]
        result.samples["sensitivity_seconds"] = used
        result.add("sensitivity with a budget of 3 s", max(used), "s", limit=3.0)
        for depth in (8, 30):
            network = DeepNetwork(depth)
            weights = sum(4 * parameter.numel() for parameter in network.parameters())
            model = export_network(Path(directory) / "deep.pt2", network, torch.randn(2, *SHAPE))
            shape = ",".join(map(str, SHAPE))
            batch = median([float(python(BATCH_PEAK, str(model), str(BATCH), shape)) for _ in range(ROUNDS)])
            peaks = [run_job(model, first, sensitivity_seconds=3)["peak_bytes"] for _ in range(ROUNDS)]
            result.samples[f"peak_bytes_{depth}_blocks"] = {"weights": weights, "batch": batch, "peaks": peaks}
            result.add(
                f"peak of a job less two batches, {weights / MIB:.0f} MiB of float weights / those weights",
                (median(peaks) - 2 * batch) / weights,
                "x",
                limit=3.0,
            )
    result.save()


if __name__ == "__main__":
    main()
