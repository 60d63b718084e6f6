"""What a benchmark measured: the report of a job of that method, stored as `report.json` and returned with the job.

A candidate is measured in several forms, such as a .pt2 in eager torch and exported to ONNX in OpenVINO. Every figure
of a form bears its name: the candidate's and the form's with a slash between, as in `resnet18/openvino`.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from shared.job_report import DataSource, OutputFidelity, ReportWarning
from shared.latency_report import Doubt, Environment, LatencyStats, Load
from shared.layer_report import Reported
from shared.quantization_spec import Runtime

SCHEMA_VERSION = "1.0"

FormKind = Literal[
    "eager", "channels_last", "frozen", "torch", "onnxruntime", "openvino", "openvino_bf16"
]  # fmt: skip
FormLabel = Literal["missing", "wrong", "differs"]


class FormMetric(Reported):
    """A metric of a form and of the reference on the same samples."""

    name: Literal["top1", "top5", "mse"]
    value: float = Field(description="top1, top5: share of samples in 0..1; mse: mean squared error.")
    reference: float
    drop: float = Field(
        description="Absolute; positive is worse: reference − value for top1 and top5, value − reference for mse."
    )


class FormQuality(Reported):
    """How near a form's outputs are to the reference's, on the same data."""

    metric: FormMetric | None = Field(description="null without labels.")
    fidelity: list[OutputFidelity] = Field(
        description="One entry an output, in order; what `float` stands for there is the reference."
    )


class FormResult(Reported):
    """A candidate as one runtime runs it."""

    name: str = Field(description="`<candidate>/<kind>`.")
    kind: FormKind = Field(
        description="`eager`, `channels_last`, `frozen` (TorchScript): a .pt2 in torch; `torch`: an artifact in torch; "
        "`onnxruntime`, `openvino`, `openvino_bf16`: an ONNX file, or a .pt2 exported to one."
    )
    runtime: Runtime
    size_bytes: int | None = Field(description="Of the file that is run; null when it is missing.")
    load: Load | None = Field(
        description="null when it is missing, and where torch runs what is in memory already: `eager`, `channels_last`."
    )
    quality: FormQuality | None = Field(description="Against the reference; null when it is missing.")
    int8_operators: int = Field(
        description="Operators with weights whose kernels multiply integers of 8 bits, as far as the runtime tells."
    )
    float_operators: int = Field(description="Operators with weights that are computed in float, likewise.")
    labels: list[FormLabel] = Field(
        description="`missing`: its runtime refuses it, it could not be exported, it fails on a sample, or its outputs "
        "have other shapes than the reference's; `wrong`: it does not compute what it should: more than 1 dB further "
        "from the reference than where it was made, or than the same candidate in its first form, and neither 30 dB "
        "nor 99 % agreement (at 10 dB or more) near it; `differs`: its answers are others than the reference's, as "
        "those of another network may be: an output with classes agrees on less than 95 % of the samples or has less "
        "than 10 dB, or one without has less than 20 dB."
    )
    note: str | None = Field(default=None, description="Why, in a sentence.")


class CandidateResult(Reported):
    """What was measured of one candidate."""

    name: str
    source: str = Field(description="The model, or the job and the artifact with a slash between.")
    size_bytes: int = Field(description="Of the file that was given.")
    forms: list[FormResult] = Field(min_length=1)


class FormSpeedup(Reported):
    """One form against the baseline."""

    name: str
    speedup: float = Field(description="Baseline p50 / its p50.")
    speedup_ci95: tuple[float, float] = Field(
        description="95 % interval: a bootstrap over paired rounds, in blocks of rounds that resemble each other, and "
        "2 % for what differs between one run and the next."
    )
    significant: bool = Field(description="Whether the interval excludes 1.")


class ComparisonSitting(Reported):
    """Rounds in a row on the same cores; noise in the first one is answered by a second."""

    cores: list[int]
    rounds: int
    doubts: list[Doubt]
    kept: bool = Field(description="Whether the figures are of this one: the quieter of two.")


class ComparisonResult(Reported):
    """All forms that run, interleaved in one process, at one batch size and thread count."""

    batch_size: int
    threads: int
    rounds: int
    baseline: str = Field(description="The first candidate's fastest form that is not wrong: speedup is against it.")
    fastest: str = Field(description="The form with the lowest p50 of all that are not wrong.")
    candidates: list[LatencyStats] = Field(description="One entry a form, by its name.")
    speedups: list[FormSpeedup] = Field(description="Every form but the baseline, the fastest first.")
    conclusion: str = Field(description="The comparison in one sentence.")
    significant: bool = Field(
        description="Whether the difference that the sentence tells of is more than noise; true of a form that was "
        "measured alone."
    )
    cores: list[int] = Field(description="Which all threads were pinned to.")
    noisy: bool = Field(description="Whether a doubt is about noise: trust the interval less.")
    doubts: list[Doubt]
    sittings: list[ComparisonSitting] = Field(description="One, or two when the first was noisy.")
    energy: str | None = Field(
        default=None,
        description="What the energy of the candidates is, or why there is none; null but at the first combination.",
    )
    note: str | None = Field(
        default=None, description="What to doubt, such as a batch size that a candidate cannot take."
    )


class BenchmarkReport(Reported):
    """The answer to a benchmark."""

    schema_version: str = Field(
        default=SCHEMA_VERSION,
        description="`major.minor`: a new field raises minor, and whoever reads an older one ignores it; a field that "
        "goes or changes its meaning raises major.",
    )
    method: Literal["benchmark"]
    conclusion: str = Field(
        description="In one sentence: which form is the fastest at the first batch size and thread count, by how much, "
        "and whether its answers are the reference's."
    )
    fastest: str = Field(description="The form that is meant.")
    reference: str = Field(description="The form whose outputs the others are held against: the first candidate's.")
    data: DataSource = Field(description="`synthetic`: no dataset was given, random inputs were used: trust it little.")
    samples: int
    candidates: list[CandidateResult]
    latency: list[ComparisonResult]
    warnings: list[ReportWarning] = Field(default=[])
    spec: dict[str, Any] = Field(description="The spec with every `auto` resolved.")
    environment: Environment
    timings: dict[str, float] = Field(description="Seconds by step.")
