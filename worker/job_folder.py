"""One job's folder: all that a recipe is given, and all that it may touch.

<folder>/
  job.json       what to do: JobInputs
  inputs/        model.pt2, or of a benchmark candidate-0.onnx and so on for what was uploaded and artifact-1.pt for
                 what a job made; a file for each dataset role, such as calibration.npz;
                 checkpoint.pt of an earlier attempt
  outputs/       artifacts; report.json among them, or for a plan nothing but plan.json
  tmp/           scratch; checkpoint.pt of this attempt
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from shared.benchmark_spec import BenchmarkSpec
from shared.job_plan import PlanQuestion
from shared.job_report import Before, OutputFidelity
from shared.job_spec import JobSpec
from shared.model_file import TensorDescription
from shared.quantization_spec import DynamicSpec, QatSpec, Runtime, StaticSpec

CHECKPOINT_NAME = "checkpoint.pt"
PLAN_NAME = "plan.json"


class CandidateFile(BaseModel):
    """A candidate of a benchmark, as the supervisor fetched it."""

    name: str
    source: str = Field(description="The model, or the job and the artifact with a slash between.")
    file: str = Field(description="Below inputs/.")
    format: Literal["pt2", "onnx", "torchscript"] = Field(description="`torchscript`: an artifact for torch.")
    inputs: list[TensorDescription]
    runtime: Runtime | None = Field(default=None, description="Of an artifact: what it was made for; null: any.")
    qengine: str | None = Field(default=None, description="Of an artifact for torch: whose kernels it is for.")
    expected: list[OutputFidelity] | None = Field(
        default=None,
        description="How near the outputs were where it was made, if they are held against the same ones here.",
    )


class JobInputs(BaseModel):
    """What the supervisor tells the runner about the job; `job.json`."""

    job_id: str
    spec: JobSpec
    datasets: dict[str, str] = Field(
        description="Role to file name below inputs/, such as {'calibration': 'calibration.npz'}."
    )
    candidates: list[CandidateFile] = Field(default=[], description="Of a benchmark, in the order of the spec.")
    threads: int = Field(ge=1, description="Compute threads of the job; benchmarks set their own.")
    wall_limit_seconds: float | None = Field(default=None, description="After so long the job is stopped.")
    measure_limit_seconds: float | None = Field(
        default=None, description="After so long in the stage that measures the job is stopped."
    )
    sandbox_level: str = "none"
    before: Before | None = Field(default=None, description="The job that this one was made from, when it was.")

    def measuring_ends_at(self, elapsed_seconds: float) -> float | None:
        """In seconds of the job's own time: when a stage that begins to measure now must have ended; null: never."""
        ends = [self.wall_limit_seconds]
        if self.measure_limit_seconds is not None:
            ends.append(elapsed_seconds + self.measure_limit_seconds)
        return min((each for each in ends if each is not None), default=None)

    @property
    def quantization(self) -> DynamicSpec | StaticSpec | QatSpec:
        """The spec of a job that quantizes."""
        assert not isinstance(self.spec, BenchmarkSpec)
        return self.spec


class PlanInputs(BaseModel):
    """What the supervisor tells the runner about a question for a plan; its `job.json`."""

    spec: PlanQuestion
    samples: dict[str, int] = Field(description="Of the datasets that the spec names, by role.")
    threads: int = Field(ge=1)


@dataclass(frozen=True)
class JobFolder:
    """The paths of one job's folder."""

    path: Path

    @property
    def inputs(self) -> Path:
        """Read by the recipe."""
        return self.path / "inputs"

    @property
    def outputs(self) -> Path:
        """Written by the recipe: artifacts and nothing else."""
        return self.path / "outputs"

    @property
    def tmp(self) -> Path:
        """Scratch, thrown away with the folder."""
        return self.path / "tmp"

    @property
    def model(self) -> Path:
        """The uploaded .pt2."""
        return self.inputs / "model.pt2"

    @property
    def plan(self) -> Path:
        """The answer to a question for a plan."""
        return self.outputs / PLAN_NAME

    @property
    def earlier_checkpoint(self) -> Path:
        """What an earlier attempt left of its training, if there was one."""
        return self.inputs / CHECKPOINT_NAME

    @property
    def checkpoint(self) -> Path:
        """What this attempt leaves of its training after each epoch."""
        return self.tmp / CHECKPOINT_NAME

    @property
    def uploads(self) -> list[Path]:
        """The models that were uploaded; not what a job made."""
        return [self.model] if self.model.exists() else sorted(self.inputs.glob("candidate-*"))

    def create(self, inputs: JobInputs | PlanInputs) -> None:
        """Make the sub-folders and write job.json."""
        for folder in (self.inputs, self.outputs, self.tmp):
            folder.mkdir(parents=True, exist_ok=True)
        (self.path / "job.json").write_text(inputs.model_dump_json())

    def read_inputs(self) -> JobInputs:
        """What is asked of this job."""
        return JobInputs.model_validate_json((self.path / "job.json").read_bytes())

    def read_plan_inputs(self) -> PlanInputs:
        """What is asked of a plan."""
        return PlanInputs.model_validate_json((self.path / "job.json").read_bytes())
