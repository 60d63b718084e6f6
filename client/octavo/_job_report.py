"""What was measured: the report of a job as the server sends it. Names end in their unit."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from octavo._layer_report import (
    FirstWrong,
    Fusion,
    Graphs,
    Histogram,
    LayerSummary,
    QuantBoundary,
    Reported,
    Sensitivity,
)
from octavo._layer_times import LayerTimes


class Verdict(Reported):
    """The outcome: a sentence for people, `word` and `accuracy` for programs."""

    word: str = Field(description="`recommended`, `no_faster`, `slower`, `accuracy_not_met` or `low_fidelity`.")
    sentence: str
    accuracy: str = Field(description="`met`, `not_met` or `not_evaluated`, against max_accuracy_drop.")


class MetricResult(Reported):
    """A metric of the float and of the int8 model on the same samples."""

    name: str
    float_value: float = Field(alias="float", description="top1, top5: share of samples in 0..1.")
    int8_value: float = Field(alias="int8")
    drop: float = Field(description="Absolute; positive is worse.")
    max_drop: float | None = None
    met: bool | None = None
    by_default: bool = Field(default=False, description="Whether nobody asked for the target.")


class OutputFidelity(Reported):
    """How near an output of the int8 model is to the float model's."""

    output: str
    discrete: bool = Field(default=False, description="Integers or booleans: they only agree or not.")
    sqnr_db: float | None = None
    cosine: float | None = None
    agreement: float | None = None
    float_not_finite: float = Field(default=0.0, description="Share of samples on which the float output is none.")
    float_is_nan: bool = False
    not_finite_elsewhere: float = Field(default=0.0, description="Share on which int8 is so in other places.")


class Quality(Reported):
    """Float against int8 on the same data."""

    data: str
    samples: int
    metric: MetricResult | None = None
    fidelity: list[OutputFidelity] = Field(default=[])


class Load(Reported):
    """What it takes until a file has answered its first sample, in a process that has not met it before."""

    cold_ms: float
    warm_ms: float
    resident_bytes: int
    peak_bytes: int | None = Field(default=None, description="At most, while it is opened and answers.")


class ArtifactResult(Reported):
    """A file of the int8 model for one runtime, opened there in a fresh process and held against float."""

    name: str
    runtime: str = Field(description="`torch`, `onnxruntime` or `openvino`.")
    size_bytes: int | None = Field(default=None, description="None when it is missing.")
    quality: Quality | None = Field(default=None, description="As the runtime computes it.")
    load: Load | None = None
    inference_precision: str | None = Field(
        default=None, description="What of it is not int8 is computed in by OpenVINO: `f32` or `bf16`."
    )
    int8_operators: int = Field(description="Operators with weights that multiply integers of 8 bits.")
    float_operators: int = Field(description="Operators with weights that the runtime computes in float.")
    labels: list[str] = Field(
        default=[],
        description="`missing`, `wrong`, `accuracy_not_met`, `in_float`, `slower`: any of them keeps it from being "
        "recommended.",
    )
    note: str | None = Field(default=None, description="Why, in a sentence.")


class LatencyStats(Reported):
    """Latency of one candidate in milliseconds, after warm-up."""

    name: str
    p50_ms: float
    p90_ms: float
    p99_ms: float | None = None
    p50_bound_ms: float | None = None
    p90_bound_ms: float | None = None
    p99_bound_ms: float | None = None
    mean_ms: float
    throughput_per_second: float
    energy_joules: float | None = Field(default=None, description="For one sample, where the worker may count it.")
    samples_ms: list[float] = Field(default=[])


class Doubt(Reported):
    """A reason to trust a measurement less."""

    cause: str
    told: str


class Speedup(Reported):
    """One int8 candidate against the baseline."""

    name: str
    speedup: float
    speedup_ci95: tuple[float, float]
    significant: bool
    speedup_vs_eager: float | None = None


class Sitting(Reported):
    """Rounds in a row on the same cores; noise in the first one is answered by a second."""

    cores: list[int]
    rounds: int
    speedup: float
    speedup_ci95: tuple[float, float]
    doubts: list[Doubt]
    kept: bool


class Roofline(Reported):
    """How far int8 is from what the CPU can do, measured with large products of int8 matrices."""

    reached_gmacs_per_second: float
    peak_gmacs_per_second: float
    share: float


class BenchmarkResult(Reported):
    """Float and int8, interleaved in one process, at one batch size and thread count."""

    batch_size: int
    threads: int
    rounds: int
    baseline: str
    int8: str = "int8_torch"
    candidates: list[LatencyStats]
    speedup: float
    speedup_ci95: tuple[float, float]
    significant: bool
    speedup_vs_eager: float | None = None
    conclusion: str = ""
    speedups: list[Speedup] = Field(default=[])
    cores: list[int] = Field(default=[])
    noisy: bool = False
    doubts: list[Doubt] = Field(default=[])
    sittings: list[Sitting] = Field(default=[])
    energy: str | None = Field(default=None, description="What is counted, or why nothing is.")
    roofline: Roofline | None = None
    note: str | None = None

    def candidate(self, name: str) -> LatencyStats | None:
        """The figures of `float_eager`, or of whatever `baseline` and `int8` name."""
        return next((candidate for candidate in self.candidates if candidate.name == name), None)


class Size(Reported):
    """Bytes on disk: the float model as frozen TorchScript, and the int8 artifact that the verdict is of."""

    float_bytes: int
    int8_bytes: int
    ratio: float


class ExampleInput(Reported):
    """An input that the int8 model takes, by one of the samples that it was evaluated on."""

    name: str
    dtype: str
    shape: list[int]
    greatest: int | None = None


class RangeTrial(Reported):
    """A rule for activation ranges, tried on calibration data held back from the observers."""

    observer: str
    sqnr_db: float | None = None
    chosen: bool


class RecoveryResult(Reported):
    """A means of accuracy recovery, with and without it on the same data."""

    name: str
    asked: str
    applied: bool
    without_sqnr_db: float | None = None
    with_sqnr_db: float | None = None
    layers: int
    note: str | None = None


class KernelTrial(Reported):
    """A qengine's kernels, each layer against the same integers computed in float, on calibration samples."""

    qengine: str
    sqnr_db: float | None = None
    reference_sqnr_db: float | None = None
    latency_ms: float | None = None
    saturates: bool = Field(description="They do not compute what they should, whatever the cause: not offered.")
    chosen: bool
    layers: list[str] = Field(default=[])


class InputCheck(Reported):
    """One input in the calibration data."""

    name: str
    constant: bool
    min: float | None = None
    max: float | None = None
    evaluation_outside: float | None = Field(
        default=None, description="Share of the evaluation data outside of the calibration range."
    )


class CalibrationResult(Reported):
    """Whether the calibration data suffices."""

    samples: int
    duplicates: int
    inputs: list[InputCheck]
    subsets: int
    scale_spread: float | None = None
    quality_spread_db: float | None = None
    coverage: float | None = None
    sufficient: bool
    enough_samples: int | None = None


class EpochResult(Reported):
    """One epoch of training."""

    epoch: int
    loss: float
    held_back_loss: float | None = Field(default=None, description="On the training samples held back.")
    metric: float | None = None
    sqnr_db: float | None = None
    seconds: float
    learning_rate: float | None = None
    float_metric: float | None = Field(default=None, description="Of the float model trained beside it.")


class TrainingResult(Reported):
    """How QAT went, beside static PTQ on the same data and the float model trained for the same epochs."""

    loss: str
    epochs: list[EpochResult]
    best_epoch: int | None = None
    held_back_samples: int = Field(default=0, description="Not trained on, to choose the best epoch by.")
    stopped: str = Field(default="completed", description="`completed`, `early` or `diverged`.")
    resumed_after_epoch: int | None = None
    qat_metric: MetricResult | None = None
    qat_fidelity: list[OutputFidelity] = Field(default=[])
    static_metric: MetricResult | None = None
    static_fidelity: list[OutputFidelity] = Field(default=[])
    finetuned_metric: float | None = None
    better: str = Field(description="`qat`, `static` or `same`.")
    offered: str = Field(default="qat", description="The int8 model that is the artifact.")
    qat_float_layers: dict[str, str] = Field(default={}, description="Left in float by QAT, and why.")
    static_float_layers: dict[str, str] = Field(default={}, description="Left in float by static PTQ, and why.")


class Suggestion(Reported):
    """What to do about a warning: a change of the spec, which `job.retry_with(suggestion)` applies."""

    title: str
    patch: dict[str, Any] = Field(
        description="A JSON merge patch (RFC 7396) on the spec, but that its `overrides` are added to the spec's."
    )
    expected: str | None = None


class ReportWarning(Reported):
    """Something you should know or do; the most telling first."""

    code: str
    message: str
    hint: str | None = None
    layer: str | None = None
    evidence: str | None = None
    suggestion: Suggestion | None = None


class Before(Reported):
    """The job that this one is based on, and what was changed."""

    job: str
    changes: dict[str, Any]
    method: str
    verdict: Verdict
    quality: Quality
    latency: list[BenchmarkResult]
    size: Size


class Environment(Reported):
    """Where it was measured."""

    cpu_model: str
    isa: list[str] = Field(default=[])
    cores: int
    torch: str
    python: str
    qengine: str
    octavo: str
    sandbox_level: str
    affinity: list[int] = Field(default=[])
    smt: bool | None = None
    governor: str | None = None
    cgroup_cpu_limit: float | None = None
    load_average: list[float] | None = None
    versions: dict[str, str] = Field(default={})
    thread_settings: dict[str, str] = Field(default={})


class JobReport(Reported):
    """The answer to a job."""

    schema_version: str
    method: str
    verdict: Verdict
    recommended: str | None = Field(
        default=None, description="The fastest right artifact, where it beats the fastest float model."
    )
    artifacts: list[ArtifactResult] = Field(default=[], description="One for each runtime that was wanted.")
    quality: Quality = Field(description="Of the artifact that the verdict is of, and so are latency and size.")
    latency: list[BenchmarkResult] = Field(default=[])
    size: Size
    inputs: list[ExampleInput] = Field(default=[])
    layers: list[LayerSummary] = Field(default=[])
    first_wrong: FirstWrong | None = None
    sensitivity: Sensitivity | None = None
    boundaries: list[QuantBoundary] = Field(default=[])
    fusions: list[Fusion] = Field(default=[])
    graphs: Graphs | None = None
    histograms: list[Histogram] = Field(default=[])
    layer_times: list[LayerTimes] = Field(
        default=[], description="Of the artifact that the verdict is of, then of others, as far as they could be timed."
    )
    calibration: CalibrationResult | None = None
    ranges: list[RangeTrial] = Field(default=[])
    recovery: list[RecoveryResult] = Field(default=[])
    kernels: list[KernelTrial] = Field(default=[])
    training: TrainingResult | None = None
    before: Before | None = None
    weights_sha256: str | None = None
    warnings: list[ReportWarning] = Field(default=[])
    spec: dict[str, Any] = Field(default={})
    environment: Environment
    timings: dict[str, float] = Field(default={})
