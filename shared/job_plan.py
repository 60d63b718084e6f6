"""What POST /v1/plan is asked and answers: how a job would quantize a model, found without doing it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, TypeAdapter

from shared.layer_report import LayerPrecision
from shared.quantization_spec import RUNTIMES, DatasetId, DynamicSpec, QatSpec, Runtime, StaticSpec

# A plan is written in the process that read the upload, and the API parses and renders it between other requests.
MAX_LAYERS = 20_000
_MAX_ENTRIES = 100
_Name = Annotated[str, Field(max_length=2000)]
_Text = Annotated[str, Field(max_length=20_000)]


class StaticQuestion(StaticSpec):
    """A static job's spec, of which the data may be left out."""

    calibration: DatasetId | None = None  # type: ignore[assignment]  # a question needs less than a job


class QatQuestion(QatSpec):
    """A QAT job's spec, of which the data may be left out."""

    training: DatasetId | None = None  # type: ignore[assignment]  # likewise


PlanQuestion = Annotated[DynamicSpec | StaticQuestion | QatQuestion, Field(discriminator="method")]
plan_question_adapter: TypeAdapter[DynamicSpec | StaticQuestion | QatQuestion] = TypeAdapter(PlanQuestion)


class PlannedLayer(BaseModel):
    """An operator, with what is fused with it."""

    layer: _Name
    op: _Name
    precision: LayerPrecision
    macs: int = Field(description="Multiply-accumulates for one sample.")
    share: float = Field(description="Of all multiply-accumulates, 0..1.")
    reason: _Text | None = Field(default=None, description="Why it stays in float.")
    int8_in: list[Runtime] = Field(
        default=[],
        max_length=len(RUNTIMES),
        description="The runtimes that have an int8 kernel for it; others compute it in float.",
    )


class PlannedRuntime(BaseModel):
    """What a runtime would compute in int8."""

    runtime: Runtime
    int8_share: float = Field(description="Share of the multiply-accumulates on int8 kernels, 0..1.")
    note: _Text | None = Field(default=None, description="Why there would be no artifact for it.")


class Instructions(BaseModel):
    """Whether the CPU has what int8 kernels are fast with."""

    found: list[_Name] = Field(max_length=_MAX_ENTRIES, description="Its instruction sets that int8 kernels use.")
    dot_product: Literal["amx", "vnni", "dotprod", "none"] = Field(
        description="The best way to add up products of 8-bit integers: AMX, VNNI, Arm's dot product, or none."
    )
    note: _Text


class Pace(BaseModel):
    """What was seen of the model on this worker: what its job's time is estimated from."""

    sample_seconds: float | None = Field(
        description="Of the float model for a sample, where it passes over data; null where it does not run on made-up "
        "inputs."
    )
    load_seconds: float = Field(description="Reading and raising the model, and timing it.")
    plan_seconds: float
    layers: int


class Duration(BaseModel):
    """How long the job would take on this worker, once it runs."""

    seconds: float
    low_seconds: float = Field(
        description="Between this and the next lay nine in ten of the jobs that were measured, each estimated from "
        "jobs on other networks alone."
    )
    high_seconds: float
    steps: dict[_Name, float] = Field(max_length=_MAX_ENTRIES, description="Seconds by step.")
    pace: Pace
    basis: _Text = Field(description="What it was estimated from, in words.")


class PlanWorker(BaseModel):
    """Who answered."""

    hostname: _Name
    cpu_model: _Name


class JobPlan(BaseModel):
    """How a job would quantize a model, and how long that would take."""

    method: Literal["dynamic", "static", "qat"]
    model: _Name
    conclusion: _Text = Field(description="The plan in a sentence or two.")
    worker: PlanWorker
    qengine: _Name = Field(
        description="torch's kernels; where the spec says auto, the job measures and may take others."
    )
    layers: list[PlannedLayer] = Field(
        max_length=MAX_LAYERS,
        description="In the graph's order; those with multiply-accumulates or in int8, at most 20,000.",
    )
    int8_layers: int = Field(description="Of all, also those not listed; those in float16 are in neither count.")
    float_layers: int
    int8_share: float = Field(description="Share of the multiply-accumulates in int8 layers, 0..1.")
    runtimes: list[PlannedRuntime] = Field(max_length=len(RUNTIMES))
    instructions: Instructions
    duration: Duration
    notes: list[_Text] = Field(
        default=[], max_length=_MAX_ENTRIES, description="What else to know, such as an override without a kernel."
    )
