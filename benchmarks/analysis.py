"""What explaining costs: the layer report beside the evaluation, the sensitivity's budget, and a job's peak memory.

The time of the layer report is that of the step `analyse` without sensitivity, in the whole recipe; the evaluation is
the step before it: float and int8 on the same samples, in the same process. Peak memory is that of each stage of a
static job with everything on, in a process of its own as in a runner, less what it held after the same stage of a job
on a network of one block (what libraries load once); a batch is what the float model takes to run one, measured
likewise. Peaks are the kernel's (VmHWM, reset before). The last stage holds every float baseline and every artifact at
once, because they take turns; its peak is told, and has no limit.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from inputs import export_network, static_job
from measuring import Result, median
from torch import nn

from worker.progress import STAGES

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
from worker.job_folder import JobFolder
from worker.outputs import REPORT_NAME
from worker.quantization import collect_garbage
from worker.recipes import RECIPE
stage, folder, first = sys.argv[1], *map(Path, sys.argv[2:])
RECIPE[stage](JobFolder(first), lambda message: None)
collect_garbage()
before = begin()
RECIPE[stage](JobFolder(folder), lambda message: None)
report = JobFolder(folder).outputs / REPORT_NAME
print(json.dumps({"peak_bytes": resident("VmHWM") - before,
                  "report": json.loads(report.read_bytes()) if report.exists() else None}))
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


@dataclass(frozen=True)
class Job:
    """What became of a job."""

    report: dict[str, Any]
    peak_bytes: dict[str, float]
    """By stage."""


def run_job(model: Path, warm_up: Path, **analysis: Any) -> Job:
    """One static job, each stage in a process of its own, after the same stage of one on another model."""
    wanted: dict[str, Any] = {"benchmark": {"max_seconds": 0.5}, "analysis": analysis}
    samples = {"calibration": CALIBRATION, "evaluation": EVALUATION}
    with static_job(model, SHAPE, **samples, **wanted) as job, static_job(warm_up, SHAPE, **samples, **wanted) as first:
        found = {stage: json.loads(python(PEAK, stage, str(job.path), str(first.path))) for stage in STAGES}
        return Job(found[STAGES[-1]]["report"], {stage: each["peak_bytes"] for stage, each in found.items()})


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
            timings = run_job(shallow, first, sensitivity_seconds=0).report["timings"]
            ratios.append(timings["analyse"] / timings["evaluate"])
        result.samples["analyse_to_evaluate"] = ratios
        result.add("layer report / evaluation", median(ratios), "x", limit=2.0)
        jobs = [run_job(shallow, first, sensitivity_seconds=3) for _ in range(ROUNDS)]
        used = [job.report["sensitivity"]["seconds"] for job in jobs]
        result.samples["sensitivity_seconds"] = used
        result.add("sensitivity with a budget of 3 s", max(used), "s", limit=3.0)
        for depth in (8, 30):
            network = DeepNetwork(depth)
            weights = sum(4 * parameter.numel() for parameter in network.parameters())
            model = export_network(Path(directory) / "deep.pt2", network, torch.randn(2, *SHAPE))
            shape = ",".join(map(str, SHAPE))
            batch = median([float(python(BATCH_PEAK, str(model), str(BATCH), shape)) for _ in range(ROUNDS)])
            peaks = [run_job(model, first, sensitivity_seconds=3).peak_bytes for _ in range(ROUNDS)]
            result.samples[f"peak_bytes_{depth}_blocks"] = {"weights": weights, "batch": batch, "peaks": peaks}
            for stage in STAGES:
                result.add(
                    f"peak of stage {stage} less two batches, {weights / MIB:.0f} MiB of float weights / those weights",
                    (median([each[stage] for each in peaks]) - 2 * batch) / weights,
                    "x",
                    limit=None if stage == "measure" else 3.0,
                )
    result.save()


if __name__ == "__main__":
    main()
