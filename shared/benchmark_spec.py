"""What is asked of a job that only measures: candidates, alone or against each other."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from shared.printable import printable
from shared.quantization_spec import RUNTIMES, DatasetId, ModelId, Runtime, SpecBase, Strict

JobId = Annotated[str, Field(pattern=r"^job_[0-9a-z]{16,40}$", examples=["job_019abc5d3f0e7a33c49d2077"])]
MAX_CANDIDATES = 8
MAX_NAME = 80


class BenchmarkCandidate(Strict):
    """What is measured: an uploaded model, or an artifact of a job that has succeeded."""

    model: ModelId | None = Field(default=None, description="A .pt2 or an .onnx that was uploaded.")
    job: JobId | None = Field(default=None, description="Instead of a model: a job, one of whose artifacts it is.")
    artifact: str | None = Field(
        default=None,
        pattern=r"^[a-z0-9_.]{1,60}$",
        examples=["model_int8.onnx"],
        description="Which; null: the recommended one, or else the fastest of those that are right, and the answer "
        "says which that is.",
    )
    name: str | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_NAME,
        description="What the report calls it, other than the others; null: what the model, or the job and the "
        "artifact, are called.",
    )

    @field_validator("name")
    @classmethod
    def _on_one_line(cls, name: str | None) -> str | None:
        if name is not None and (name != printable(name) or not name.isprintable()):
            raise ValueError("a name is one line of printable characters")
        return name

    @model_validator(mode="after")
    def _one_source(self) -> BenchmarkCandidate:
        if (self.model is None) == (self.job is None):
            raise ValueError("a candidate is either a `model` or a `job`: name one of them")
        if self.job is None and self.artifact is not None:
            raise ValueError("an `artifact` is of a `job`: name that, or leave the artifact out")
        return self


class BenchmarkSpec(SpecBase):
    """Measures candidates, alone or against each other, and quantizes nothing."""

    method: Literal["benchmark"]
    candidates: list[BenchmarkCandidate] = Field(
        min_length=1,
        max_length=MAX_CANDIDATES,
        description="In order; the others' outputs are held against those of the first.",
    )
    evaluation: DatasetId | None = Field(
        default=None, description="What the outputs are compared on; null: random inputs, which say little of quality."
    )
    runtimes: list[Runtime] | None = Field(
        default=None,
        min_length=1,
        max_length=3,
        description="What candidates are measured in, each in those of them that take it: `torch`, `onnxruntime`, "
        "`openvino`. null: all that the worker has.",
    )

    @field_validator("runtimes")
    @classmethod
    def _each_once(cls, runtimes: list[Runtime] | None) -> list[Runtime] | None:
        return None if runtimes is None else [name for name in RUNTIMES if name in runtimes]

    @field_validator("candidates")
    @classmethod
    def _names_differ(cls, candidates: list[BenchmarkCandidate]) -> list[BenchmarkCandidate]:
        counts = Counter(each.name for each in candidates if each.name is not None)
        if twice := [name for name, count in counts.items() if count > 1]:
            raise ValueError(f"two candidates are called {twice[0]!r}: the report could not tell them apart")
        return candidates
