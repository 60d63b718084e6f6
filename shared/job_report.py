"""What was measured: the report of a job, stored as `report.json` and returned with the job.

Names end in their unit. Every figure says on which data, against which baseline and with which spread it was obtained.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field

from shared.latency_report import BenchmarkResult, Environment, Load
from shared.layer_report import (
    FirstWrong,
    Fusion,
    Graphs,
    Histogram,
    LayerSummary,
    QuantBoundary,
    Reported,
    Sensitivity,
)
from shared.layer_times import LayerTimes
from shared.quantization_spec import Runtime

SCHEMA_VERSION = "3.2"

VerdictWord = Literal["recommended", "no_faster", "slower", "accuracy_not_met", "low_fidelity"]
ArtifactLabel = Literal["missing", "wrong", "accuracy_not_met", "in_float", "slower"]
InferencePrecision = Literal["f32", "bf16"]
DataSource = Literal["evaluation", "calibration", "training", "synthetic"]


class Verdict(Reported):
    """The outcome in a word and a sentence."""

    word: VerdictWord = Field(
        description=(
            "`recommended`: quality holds and int8 is faster; `no_faster`: quality holds, no significant difference in "
            "latency; `slower`: quality holds, int8 is slower; `accuracy_not_met`: the drop exceeds max_accuracy_drop; "
            "`low_fidelity`: no target could be checked, or of mse only the one by default, and int8 is far from "
            "float: of an output with classes less than 95 % of the samples agree or it has less than 10 dB, or one "
            "without has less than 20 dB."
        )
    )
    sentence: str
    accuracy: Literal["met", "not_met", "not_evaluated"] = Field(
        description="Against max_accuracy_drop; `not_evaluated` without labels or without a target."
    )


class MetricResult(Reported):
    """A metric of the float and of the int8 model on the same samples."""

    name: Literal["top1", "top5", "mse"]
    float_value: float = Field(
        alias="float", description="top1, top5: share of samples in 0..1; mse: mean squared error."
    )
    int8_value: float = Field(alias="int8")
    drop: float = Field(
        description="Absolute; positive is worse: float − int8 for top1 and top5, int8 − float for mse."
    )
    max_drop: float | None = Field(description="The target, absolute; null when there is none.")
    met: bool | None
    by_default: bool = Field(default=False, description="Whether the target is what `max_accuracy_drop: auto` became.")


class OutputFidelity(Reported):
    """How near an output of the int8 model is to the float model's; no labels needed."""

    output: str
    discrete: bool = Field(
        default=False, description="Whether it holds integers or booleans, such as an arg max: they only agree or not."
    )
    sqnr_db: float | None = Field(
        description="20·log10(‖float‖ / ‖float − int8‖); null when the two are equal, and for a discrete output."
    )
    cosine: float | None = Field(
        description="Cosine similarity of the flattened outputs, mean over samples; null for a discrete output."
    )
    agreement: float | None = Field(
        description="Share of samples with the same arg max, of a discrete output share of equal elements; null unless "
        "the output has classes or is discrete."
    )
    float_not_finite: float = Field(
        default=0.0, description="Share of the samples for which the float model gives a NaN or an infinity in it."
    )
    float_is_nan: bool = Field(default=False, description="Whether a NaN is among them, which no mask makes.")
    not_finite_elsewhere: float = Field(
        default=0.0, description="Share of the samples for which it does, and the int8 model not in the same places."
    )


class Quality(Reported):
    """Float against int8 on the same data."""

    data: DataSource = Field(description="`synthetic`: no dataset was given, random inputs were used: trust it little.")
    samples: int
    metric: MetricResult | None
    fidelity: list[OutputFidelity] = Field(description="One entry an output of the model, in order.")


class ArtifactResult(Reported):
    """A file of the int8 model for one runtime, opened there again in a fresh process and held against float."""

    name: str = Field(pattern=r"^[a-z0-9_.]{1,60}$")
    runtime: Runtime
    size_bytes: int | None = Field(description="null when it is missing.")
    quality: Quality | None = Field(
        description="On the evaluation data, as the runtime computes it; null when it is missing or does not run."
    )
    load: Load | None = Field(default=None, description="null when it is missing.")
    inference_precision: InferencePrecision | None = Field(
        default=None,
        description="What of it is not int8 is computed in, by OpenVINO's `INFERENCE_PRECISION_HINT`; null for other "
        "runtimes.",
    )
    int8_operators: int = Field(description="Operators with weights whose kernels multiply integers of 8 bits.")
    float_operators: int = Field(description="Operators with weights that the runtime computes in float.")
    labels: list[ArtifactLabel] = Field(
        description=(
            "`missing`: not made, or its runtime refuses it; `wrong`: it does not compute what the int8 model should: "
            "more than 1 dB further from float than the torch artifact, and neither 30 dB nor 99 % agreement (at 10 dB "
            "or more) near it; `accuracy_not_met`: the drop exceeds max_accuracy_drop; `in_float`: no operator runs in "
            "int8; `slower`: than the fastest float model at the first batch size and thread count, beyond doubt. Any "
            "of them keeps it from being recommended."
        )
    )
    note: str | None = Field(default=None, description="Why, in a sentence.")


class Size(Reported):
    """Bytes on disk: the float model as frozen TorchScript, and the int8 artifact that the verdict is of."""

    float_bytes: int
    int8_bytes: int
    ratio: float = Field(description="float / int8.")


# What a dataset can be fed to. The document does not list them: reports of older versions are shown as they are.
_DTYPES: Final = frozenset(
    {
        "float16", "bfloat16", "float32", "float64", "bool",
        "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    }
)  # fmt: skip


def _known_dtype(dtype: str) -> str:
    if dtype not in _DTYPES:
        raise ValueError(f"a model is not fed with {dtype!r}")
    return dtype


def _fillable(shape: list[int]) -> list[int]:
    if not shape or not all(1 <= size < 2**63 for size in shape):
        raise ValueError("a sample has at least one axis, and sizes from 1 to 2**63 - 1")
    return shape


class ExampleInput(Reported):
    """An input that the int8 model takes, by one of the samples that it was evaluated on."""

    name: str = Field(pattern=r"^[A-Za-z0-9_]{1,500}$")
    dtype: Annotated[str, Field(pattern=r"^[a-z0-9]{1,20}$"), AfterValidator(_known_dtype)] = Field(
        description="As torch names it, such as `float32`."
    )
    shape: Annotated[list[int], Field(max_length=64), AfterValidator(_fillable)] = Field(
        description="With the smallest batch that the model takes."
    )
    greatest: int | None = Field(description="Of the sample's integers; null for floats.")


class RangeTrial(Reported):
    """A rule for activation ranges, tried on calibration data held back from the observers."""

    observer: str
    sqnr_db: float | None = Field(description="Of the worst output; null when it equals the float model's.")
    chosen: bool


class RecoveryResult(Reported):
    """A means of accuracy recovery, with and without it on the same calibration data."""

    name: Literal["cross_layer_equalization", "bias_correction", "smooth_quant"]
    asked: Literal["auto", "on"]
    applied: bool
    without_sqnr_db: float | None
    with_sqnr_db: float | None
    layers: int = Field(description="How many layers it changes.")
    note: str | None = Field(default=None, description="Why it was not tried, or what to know.")


class KernelTrial(Reported):
    """A qengine's kernels, each layer against the same integers computed in float, on calibration samples."""

    qengine: str
    sqnr_db: float | None = Field(description="Of the worst output against the float model's.")
    reference_sqnr_db: float | None = Field(description="The same of int8 simulated in float.")
    latency_ms: float | None = Field(description="Median at the smallest batch; null when it was not measured.")
    saturates: bool = Field(
        description="Whether they do not compute what they should, mostly but not always since sums saturate: a layer "
        "gives other integers, by more than rounding, or the output is more than 1 dB further from float than the "
        "reference, by more than chance. They are not offered."
    )
    chosen: bool
    layers: list[str] = Field(default=[], description="Those that do, the furthest off first.")


class InputCheck(Reported):
    """One input in the calibration data."""

    name: str
    constant: bool
    min: float | None
    max: float | None
    evaluation_outside: float | None = Field(
        description="Share of the evaluation data outside of the calibration range; null without evaluation data."
    )


class CalibrationResult(Reported):
    """Whether the calibration data suffices."""

    samples: int
    duplicates: int = Field(description="Samples that equal an earlier one in every input.")
    inputs: list[InputCheck]
    subsets: int = Field(description="Disjoint parts of the data, each of which found ranges of its own.")
    scale_spread: float | None = Field(
        description="Median over the tensors of (greatest − least scale) / mean scale, over the subsets."
    )
    quality_spread_db: float | None = Field(
        description="Greatest less least SQNR of the output over the subsets; null when it was not measured."
    )
    coverage: float | None = Field(
        description="Median over the tensors of the range seen by the first half / the range seen by all."
    )
    sufficient: bool
    enough_samples: int | None = Field(description="How many samples would do, by what was seen; null if unknown.")


class EpochResult(Reported):
    """One epoch of training."""

    epoch: int
    loss: float
    metric: float | None = Field(description="On the evaluation data, with fake quantize; null without labels.")
    held_back_loss: float | None = Field(
        default=None, description="On training samples held back: what the best epoch is chosen by; null without any."
    )
    sqnr_db: float | None
    seconds: float
    learning_rate: float | None = Field(default=None, description="At the end of the epoch.")
    float_metric: float | None = Field(
        default=None, description="Of the float model trained beside it for as many epochs; null when there is none."
    )


class TrainingResult(Reported):
    """How QAT went, beside static PTQ on the same data and the float model trained for the same epochs."""

    loss: Literal["cross_entropy", "mse", "distillation"]
    epochs: list[EpochResult]
    best_epoch: int | None = Field(
        default=None,
        description=(
            "The epoch whose weights were kept: the last of those that the training samples held back, never the "
            "evaluation data, cannot tell from the best; the last one where none were held back; null when it diverged "
            "in the first."
        ),
    )
    held_back_samples: int = Field(
        default=0, description="How many training samples were not trained on, to choose the best epoch by."
    )
    stopped: Literal["completed", "early", "diverged"] = "completed"
    resumed_after_epoch: int | None = Field(default=None, description="Where a lost worker's training was taken up.")
    qat_metric: MetricResult | None = Field(
        default=None, description="The int8 model of the best epoch; null without labels, or without such a model."
    )
    static_metric: MetricResult | None = Field(
        description="Static PTQ of the float model, same calibration, same evaluation data."
    )
    qat_fidelity: list[OutputFidelity] = Field(default=[], description="Of the best epoch's int8 model, likewise.")
    static_fidelity: list[OutputFidelity]
    finetuned_metric: float | None = Field(
        default=None, description="Metric of the float model trained for the same epochs; null when there is none."
    )
    better: Literal["qat", "static", "same"] = Field(description="The better int8 model.")
    offered: Literal["qat", "static"] = Field(default="qat", description="The int8 model that is the artifact.")
    qat_float_layers: dict[str, str] = Field(
        default={}, description="Layers that QAT left in float, and why: what the plan leaves there, and no more."
    )
    static_float_layers: dict[str, str] = Field(
        default={},
        description="Layers that static PTQ left in float, and why: also those that cost the output much in int8, "
        "which training is to mend.",
    )


class Suggestion(Reported):
    """What to do about a warning: a change of the spec."""

    title: str = Field(description="What it changes, in a few words.")
    patch: dict[str, Any] = Field(
        description="A JSON merge patch (RFC 7396) on the spec, but that its `overrides` are added to the spec's."
    )
    expected: str | None = Field(default=None, description="What it is expected to gain, and why.")


class ReportWarning(Reported):
    """Something the user should know or do; the most telling first."""

    code: str
    message: str = Field(description="The cause, in one sentence.")
    hint: str | None = None
    layer: str | None = None
    evidence: str | None = Field(default=None, description="What was measured.")
    suggestion: Suggestion | None = None


class Before(Reported):
    """The job that this one is based on, and what was changed."""

    job: str
    changes: dict[str, Any] = Field(description="The patch that made this spec of that one.")
    method: str
    verdict: Verdict
    quality: Quality
    latency: list[BenchmarkResult] = Field(description="Without the raw samples.")
    size: Size


class JobReport(Reported):
    """The answer to a job."""

    schema_version: str = Field(
        default=SCHEMA_VERSION,
        description="`major.minor`: a new field raises minor, and whoever reads an older one ignores it; a field that "
        "goes or changes its meaning raises major.",
    )
    method: Literal["dynamic", "static", "qat"]
    verdict: Verdict
    recommended: str | None = Field(
        default=None,
        description="The fastest artifact of those that meet the accuracy target and beat the fastest float model; "
        "null where none does.",
    )
    artifacts: list[ArtifactResult] = Field(default=[], description="One for each runtime that was wanted.")
    quality: Quality = Field(description="Of the artifact that the verdict is of: the fastest right one.")
    latency: list[BenchmarkResult]
    size: Size
    inputs: list[ExampleInput] = Field(default=[], description="In order; what load_example.py calls the model with.")
    layers: list[LayerSummary]
    first_wrong: FirstWrong | None = Field(
        default=None, description="null when no layer is, or when layers were not compared."
    )
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
    before: Before | None = Field(default=None, description="Set when the job was made from another.")
    weights_sha256: str | None = Field(
        default=None,
        description="Of all int8 weights and qparams: equal model, data, spec, seed and CPU type, equal hash.",
    )
    warnings: list[ReportWarning] = Field(default=[])
    spec: dict[str, Any] = Field(description="The spec with every `auto` resolved.")
    environment: Environment
    timings: dict[str, float] = Field(description="Seconds by step.")
