"""What was measured: the report of a job, stored as `report.json` and returned with the job.

Names end in their unit. Every figure says on which data, against which baseline and with which spread it was obtained.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION = "1.0"

VerdictWord = Literal["recommended", "no_faster", "slower", "accuracy_not_met", "low_fidelity"]
DataSource = Literal["evaluation", "calibration", "training", "synthetic"]


class _Reported(BaseModel):
    # `float` is the field's word for the unquantized side, and a Python type: hence the aliases float/int8 on the wire.
    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)


class Verdict(_Reported):
    """The outcome in a word and a sentence."""

    word: VerdictWord = Field(
        description=(
            "`recommended`: quality holds and int8 is faster; `no_faster`: quality holds, no significant difference in "
            "latency; `slower`: quality holds, int8 is slower; `accuracy_not_met`: the drop exceeds max_accuracy_drop; "
            "`low_fidelity`: no target could be checked and int8 is far from float."
        )
    )
    sentence: str
    accuracy: Literal["met", "not_met", "not_evaluated"] = Field(
        description="Against max_accuracy_drop; `not_evaluated` without labels or without a target."
    )


class MetricResult(_Reported):
    """A metric of the float and of the int8 model on the same samples."""

    name: Literal["top1", "top5", "mse"]
    float_value: float = Field(
        alias="float", description="top1, top5: share of samples in 0..1; mse: mean squared error."
    )
    int8_value: float = Field(alias="int8")
    drop: float = Field(
        description="Absolute; positive is worse: float − int8 for top1 and top5, int8 − float for mse."
    )
    max_drop: float | None = Field(description="The target, absolute; null when none was set.")
    met: bool | None


class OutputFidelity(_Reported):
    """How near an output of the int8 model is to the float model's; no labels needed."""

    output: str
    sqnr_db: float | None = Field(description="20·log10(‖float‖ / ‖float − int8‖); null when the two are equal.")
    cosine: float = Field(description="Cosine similarity of the flattened outputs, mean over samples.")
    agreement: float | None = Field(
        description="Share of samples with the same arg max; null unless the output has classes."
    )


class Quality(_Reported):
    """Float against int8 on the same data."""

    data: DataSource = Field(description="`synthetic`: no dataset was given, random inputs were used: trust it little.")
    samples: int
    metric: MetricResult | None
    fidelity: list[OutputFidelity] = Field(description="One entry an output of the model, in order.")


class LatencyStats(_Reported):
    """Latency of one candidate, after warm-up, in milliseconds."""

    name: str = Field(description="`float_eager`, `float_frozen` (TorchScript) or `int8`.")
    p50_ms: float
    p90_ms: float
    p99_ms: float | None = Field(description="null with fewer than 100 samples.")
    mean_ms: float
    throughput_per_second: float = Field(description="Samples a second: batch size / p50.")
    samples_ms: list[float] = Field(description="Raw, in the order taken; candidates were interleaved.")


class BenchmarkResult(_Reported):
    """Float and int8, interleaved in one process, at one batch size and thread count."""

    batch_size: int
    threads: int
    rounds: int
    baseline: str = Field(description="The float candidate with the lowest p50: speedup is against it.")
    candidates: list[LatencyStats]
    speedup: float = Field(description="Baseline p50 / int8 p50.")
    speedup_ci95: tuple[float, float] = Field(description="Bootstrap 95 % interval of the speedup over paired rounds.")
    significant: bool = Field(description="Whether the interval excludes 1.")
    speedup_vs_eager: float
    note: str | None = Field(
        default=None, description="What to doubt, such as a batch size that the model cannot take."
    )


class Size(_Reported):
    """Bytes on disk, both as frozen TorchScript."""

    float_bytes: int
    int8_bytes: int
    ratio: float = Field(description="float / int8.")


class LayerSummary(_Reported):
    """What became of one layer or operator."""

    name: str
    op: str
    precision: Literal["int8", "float32"]
    weight_bytes: int
    reason: str | None = Field(default=None, description="Why it was left in float.")


class EpochResult(_Reported):
    """One epoch of training."""

    epoch: int
    loss: float
    metric: float | None = Field(description="On the evaluation data, with fake quantize; null without labels.")
    sqnr_db: float | None
    seconds: float


class TrainingResult(_Reported):
    """How QAT went, and static PTQ on the same data to compare it with."""

    loss: Literal["cross_entropy", "mse", "distillation"]
    epochs: list[EpochResult]
    static_metric: MetricResult | None = Field(
        description="Static PTQ of the float model, same calibration, same evaluation data."
    )
    static_fidelity: list[OutputFidelity]
    better: Literal["qat", "static", "same"]


class ReportWarning(_Reported):
    """Something the user should know or do."""

    code: str
    message: str
    hint: str | None = None
    layer: str | None = None


class Environment(_Reported):
    """Where it was measured."""

    cpu_model: str
    isa: list[str] = Field(description="Of avx2, avx512, avx512_vnni, avx_vnni, amx_int8, amx_bf16 …")
    cores: int
    torch: str
    python: str
    qengine: str
    octavo: str
    sandbox_level: str


class JobReport(_Reported):
    """The answer to a job."""

    schema_version: str = SCHEMA_VERSION
    method: Literal["dynamic", "static", "qat"]
    verdict: Verdict
    quality: Quality
    latency: list[BenchmarkResult]
    size: Size
    layers: list[LayerSummary]
    training: TrainingResult | None = None
    warnings: list[ReportWarning] = []
    spec: dict[str, Any] = Field(description="The spec with every `auto` resolved.")
    environment: Environment
    timings: dict[str, float] = Field(description="Seconds by step.")
