"""One job's folder: all that a recipe is given, and all that it may touch.

<folder>/
  job.json       what to do: JobInputs
  inputs/        model.pt2, and a file for each dataset role, such as calibration.npz;
                 checkpoint.pt of an earlier attempt
  outputs/       artifacts; report.json among them, or for a plan nothing but plan.json
  tmp/           scratch; checkpoint.pt of this attempt
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, Field

from shared.job_plan import PlanQuestion
from shared.job_report import Before
from shared.quantization_spec import QuantizationSpec

CHECKPOINT_NAME = "checkpoint.pt"
PLAN_NAME = "plan.json"


class JobInputs(BaseModel):
    """What the supervisor tells the runner about the job; `job.json`."""

    job_id: str
    spec: QuantizationSpec
    datasets: dict[str, str] = Field(
        description="Role to file name below inputs/, such as {'calibration': 'calibration.npz'}."
    )
    threads: int = Field(ge=1, description="Compute threads of the job; benchmarks set their own.")
    wall_limit_seconds: float | None = Field(default=None, description="After so long the job is stopped.")
    sandbox_level: str = "none"
    before: Before | None = Field(default=None, description="The job that this one was made from, when it was.")


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
