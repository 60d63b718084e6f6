"""What is asked of a job that quantizes: its spec, by `method`, every default the one an expert would choose.

The API validates it, echoes it back with every default filled in, and stores it; the worker reads the same types.
Choices left at `auto` are made from the model's graph and the CPU, and stand resolved in the report (`report.spec`).
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, field_validator, model_validator

Metric = Literal["auto", "top1", "top5", "mse"]
Qengine = Literal["auto", "x86", "onednn", "fbgemm", "qnnpack"]
Runtime = Literal["torch", "onnxruntime", "openvino"]
RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)
Precision = Literal["float32", "int8"]
Toggle = bool | Literal["auto"]
ActivationObserver = Literal["histogram", "minmax", "moving_average_minmax", "percentile"]
WeightObserver = Literal["minmax", "per_channel_minmax", "moving_average_minmax", "moving_average_per_channel_minmax"]
ActivationQscheme = Literal["per_tensor_affine", "per_tensor_symmetric"]
WeightQscheme = Literal["per_channel_symmetric", "per_tensor_symmetric", "per_channel_affine", "per_tensor_affine"]

ModelId = Annotated[str, Field(pattern=r"^mdl_[0-9a-z]{16,40}$", examples=["mdl_019abc5d1f0e7a33c49d20"])]
DatasetId = Annotated[str, Field(pattern=r"^dst_[0-9a-z]{16,40}$", examples=["dst_019abc5d20c17a3391be04"])]


MAX_OVERRIDES = 1000
REDUCED_MAX = 127  #: the greatest integer of activations in 7 bits
NO_NUL = r"^[^\x00]*$"  # PostgreSQL has no NUL in text or JSON

Isa = Literal[
    "avx2",
    "avx512",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "neon",
    "dotprod",
    "i8mm",
]
LabelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$")]
LabelValue = Annotated[str, Field(max_length=200, pattern=NO_NUL)]


class Strict(BaseModel):
    """A part of a spec: unknown fields are refused, and nothing is changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _refuse_per_channel(qscheme: object) -> object:
    if isinstance(qscheme, str) and qscheme.startswith("per_channel"):
        raise ValueError("int8 kernels take activations with one scale a tensor: use a per_tensor qscheme")
    return qscheme


def _check_limits(quant_min: int | None, quant_max: int | None, low: int, high: int) -> None:
    least = low if quant_min is None else quant_min
    greatest = high if quant_max is None else quant_max
    if least >= greatest:
        raise ValueError(f"quant_min {least} is not below quant_max {greatest}")
    if not least <= 0 <= greatest:
        raise ValueError(f"the integers {least} to {greatest} leave out 0, which observers need")


def _check_reduced(reduce_range: object, quant_max: int | None) -> None:
    if reduce_range is True and quant_max is not None and quant_max > REDUCED_MAX:
        raise ValueError(
            f"reduce_range leaves activations the integers to {REDUCED_MAX}, and quant_max {quant_max} asks for more: "
            "leave one of them out"
        )


def _check_granularity(observer: str, qscheme: str) -> None:
    if qscheme != "auto" and ("per_channel" in observer) != ("per_channel" in qscheme):
        raise ValueError(
            f"observer {observer} and qscheme {qscheme} contradict each other: "
            "leave qscheme at auto to follow the observer"
        )


class ActivationSettings(Strict):
    """How activation ranges are found and mapped to quint8."""

    observer: Literal["auto"] | ActivationObserver = Field(
        default="auto",
        description=(
            "`histogram` takes the range of least L2 error, `minmax` all that was seen, `percentile` leaves out the "
            "rarest values, `moving_average_minmax` forgets. `auto`: minmax; for static another one where its model "
            "is clearly nearer to the float model, also on calibration data held back from the observers."
        ),
    )
    averaging_constant: float = Field(
        default=0.01, gt=0, le=1, allow_inf_nan=False, description="Weight of the newest batch in a moving average."
    )
    percentile: float = Field(
        default=99.99, gt=50, le=100, allow_inf_nan=False, description="Share of the values inside the range, in %."
    )
    qscheme: ActivationQscheme = "per_tensor_affine"
    reduce_range: Toggle = Field(
        default="auto", description="7-bit activations against overflow in kernels without VNNI; `auto` asks the CPU."
    )
    quant_min: int | None = Field(default=None, ge=0, le=255, description="Least integer; 0 unless said otherwise.")
    quant_max: int | None = Field(default=None, ge=0, le=255, description="Greatest integer; 255, or 127 when reduced.")

    @field_validator("qscheme", mode="before")
    @classmethod
    def _one_scale_a_tensor(cls, value: object) -> object:
        return _refuse_per_channel(value)

    @model_validator(mode="after")
    def _limits(self) -> ActivationSettings:
        _check_limits(self.quant_min, self.quant_max, 0, 255)
        _check_reduced(self.reduce_range, self.quant_max)
        return self


class WeightSettings(Strict):
    """How weights are mapped to qint8."""

    observer: WeightObserver = "per_channel_minmax"
    qscheme: Literal["auto"] | WeightQscheme = Field(
        default="auto", description="`auto`: symmetric, per-channel when the observer is."
    )
    averaging_constant: float = Field(
        default=0.01, gt=0, le=1, allow_inf_nan=False, description="Weight of the newest step in a moving average."
    )
    quant_min: int | None = Field(
        default=None, ge=-128, le=127, description="Least integer; -127 for symmetric weights, -128 for affine ones."
    )
    quant_max: int | None = Field(default=None, ge=-128, le=127, description="Greatest integer; 127.")

    @model_validator(mode="after")
    def _agreement(self) -> WeightSettings:
        _check_limits(self.quant_min, self.quant_max, -128, 127)
        _check_granularity(self.observer, self.qscheme)
        return self


class ActivationOverride(Strict):
    """What differs for the activations of the layers that match; what is unset stays as in the job's settings."""

    observer: ActivationObserver | None = None
    averaging_constant: float | None = Field(default=None, gt=0, le=1, allow_inf_nan=False)
    percentile: float | None = Field(default=None, gt=50, le=100, allow_inf_nan=False)
    qscheme: ActivationQscheme | None = None
    reduce_range: bool | None = None
    quant_min: int | None = Field(default=None, ge=0, le=255)
    quant_max: int | None = Field(default=None, ge=0, le=255)

    @field_validator("qscheme", mode="before")
    @classmethod
    def _one_scale_a_tensor(cls, value: object) -> object:
        return _refuse_per_channel(value)


class WeightOverride(Strict):
    """What differs for the weights of the layers that match; what is unset stays as in the job's settings."""

    observer: WeightObserver | None = None
    qscheme: WeightQscheme | None = None
    averaging_constant: float | None = Field(default=None, gt=0, le=1, allow_inf_nan=False)
    quant_min: int | None = Field(default=None, ge=-128, le=127)
    quant_max: int | None = Field(default=None, ge=-128, le=127)


class Override(Strict):
    """Another precision, or another qconfig, for the layers or operators that match; the last match wins."""

    layer: str | None = Field(
        default=None,
        max_length=500,
        pattern=NO_NUL,
        description="Glob on the layer's dotted name, such as `layer4.*`.",
    )
    op: str | None = Field(
        default=None, max_length=100, pattern=NO_NUL, description="Operator type, such as `Linear`, `Conv2d` or `add`."
    )
    precision: Precision | None = Field(
        default=None,
        description=(
            "`float32` keeps it out of int8, `int8` puts it in where the default would leave it in float. Unset means "
            "float32, or int8 with other settings when `activation` or `weight` is given."
        ),
    )
    activation: ActivationOverride | None = None
    weight: WeightOverride | None = None

    @model_validator(mode="after")
    def _whole(self) -> Override:
        if self.layer is None and self.op is None:
            raise ValueError("an override names a layer, an op, or both: otherwise it says nothing about any layer")
        if self.precision == "float32" and (self.activation or self.weight):
            raise ValueError("precision float32 and a qconfig exclude each other: a float layer has no qparams")
        return self

    @property
    def is_float(self) -> bool:
        """Whether what matches stays in float."""
        return self.precision == "float32" or (self.precision is None and not (self.activation or self.weight))


class RecoverySettings(Strict):
    """Accuracy recovery that costs no training; each is measured with and without, and stands in the report.

    `auto` keeps what brings the int8 model nearer to the float model on calibration data; `true` keeps it
    in any case; `false` does not try it.
    """

    cross_layer_equalization: Toggle = Field(
        default="auto", description="Nagel et al. 2019: equal ranges of the channels of neighbouring layers."
    )
    bias_correction: Toggle = Field(
        default="auto", description="Nagel et al. 2019: the mean error of each output channel goes into the bias."
    )
    smooth_quant: Toggle = Field(
        default="auto", description="Xiao et al. 2022: outlying channels after a LayerNorm move into the weights."
    )
    smooth_quant_alpha: float = Field(
        default=0.5, ge=0, le=1, allow_inf_nan=False, description="How much of the range moves into the weights."
    )


class QatSettings(Strict):
    """How quantization-aware training trains."""

    epochs: int = Field(default=3, ge=1, le=1000)
    learning_rate: float = Field(
        default=1e-4, gt=0, le=10, allow_inf_nan=False, description="At first; see `schedule`."
    )
    batch_size: int = Field(default=32, ge=1, le=65536)
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    schedule: Literal["cosine", "linear", "constant"] = Field(
        default="cosine", description="How the learning rate goes on: falling to zero, or constant."
    )
    weight_decay: float = Field(default=0.0, ge=0, le=1, allow_inf_nan=False)
    learnable_scales: bool = Field(
        default=False, description="LSQ (Esser et al. 2020): scales are trained with the weights."
    )
    early_stop_patience: int | None = Field(
        default=None, ge=1, le=1000, description="Stop after this many epochs without a better one; null: never."
    )
    compare_with_float: bool = Field(
        default=True, description="Also train the float model for the same epochs, to tell what training alone gains."
    )
    loss: Literal["auto", "cross_entropy", "mse", "distillation"] = Field(
        default="auto",
        description=(
            "`auto`: cross_entropy for integer labels, mse for float ones; without labels distillation, "
            "which learns from the float model."
        ),
    )
    freeze_observers_after: float = Field(default=0.5, ge=0, le=1, description="Share of the training steps.")
    freeze_batch_norm_after: float = Field(default=0.66, ge=0, le=1, description="Share of the training steps.")


class BenchmarkSettings(Strict):
    """What latency is measured at: every batch size with every thread count."""

    batch_sizes: list[Annotated[int, Field(ge=1, le=4096)]] = Field(default=[1], min_length=1, max_length=8)
    threads: list[Annotated[int, Field(ge=1, le=256)]] = Field(default=[1], min_length=1, max_length=8)
    max_seconds: float = Field(
        default=5.0, gt=0, le=600, allow_inf_nan=False, description="Time budget of each combination."
    )


class AnalysisSettings(Strict):
    """What the report explains layer by layer, and how long that may take."""

    layers: bool = Field(default=True, description="Float against int8 layer by layer, on the same inputs.")
    sensitivity_seconds: float = Field(
        default=10.0, ge=0, le=3600, allow_inf_nan=False, description="Time budget for the sensitivity; 0: none."
    )
    histograms: Annotated[int, Field(ge=0, le=1000)] | Literal["all"] = Field(
        default=8, description="For how many layers, those that matter most first."
    )


class Hardware(Strict):
    """The machine that a job runs and is measured on: a worker that has all of this."""

    isa: list[Isa] = Field(default=[], max_length=20, description="Instruction sets that int8 kernels use.")
    cpu: str | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        pattern=NO_NUL,
        description="Glob on the CPU model, such as `AMD EPYC 9*`; capitals do not matter.",
    )
    labels: dict[LabelName, LabelValue] = Field(
        default={},
        max_length=16,
        description=(
            "Labels with these values: the operator's own, or `arch`, `cpu.vendor`, `cpu.family` and `cpu.model`, "
            "which every worker finds itself; GET /v1/meta tells those of the live workers."
        ),
    )

    @field_validator("isa")
    @classmethod
    def _each_once(cls, isa: list[Isa]) -> list[Isa]:
        return sorted(set(isa))

    @field_validator("cpu")
    @classmethod
    def _asks_for_something(cls, cpu: str | None) -> str | None:
        if cpu is not None and not cpu.strip("*?"):
            raise ValueError("every CPU is like this: leave `cpu` out")
        return None if cpu is None else re.sub(r"\*+", "*", cpu)  # likewise one text for one demand

    @field_validator("labels")
    @classmethod
    def _in_order(cls, labels: dict[str, str]) -> dict[str, str]:
        return dict(sorted(labels.items()))  # the same demand is the same text, which jobs are found by


def _check_reduced_overrides(settings: ActivationSettings, overrides: list[Override]) -> None:
    for index, activation in enumerate(override.activation for override in overrides):
        if activation is None:
            continue
        reduced = settings.reduce_range if activation.reduce_range is None else activation.reduce_range
        try:
            _check_reduced(reduced, settings.quant_max if activation.quant_max is None else activation.quant_max)
        except ValueError as error:
            raise ValueError(f"overrides[{index}]: {error}") from error


class SpecBase(Strict):
    """What every job can be asked for, whatever its method."""

    metric: Metric = Field(
        default="auto", description="`auto`: top1 for integer labels, mse for float ones, else none."
    )
    benchmark: BenchmarkSettings = BenchmarkSettings()
    hardware: Hardware | None = Field(
        default=None, description="Only a worker that has this runs the job, which waits until there is one; null: any."
    )
    seed: int = Field(default=0, ge=0, lt=2**63)
    name: str | None = Field(default=None, max_length=200, pattern=NO_NUL)
    metadata: dict[
        Annotated[str, Field(max_length=64, pattern=NO_NUL)], Annotated[str, Field(max_length=512, pattern=NO_NUL)]
    ] = Field(default={}, max_length=32, description="Yours; returned as it is.")

    @field_validator("hardware")
    @classmethod
    def _nothing_asked_is_null(cls, hardware: Hardware | None) -> Hardware | None:
        return None if hardware == Hardware() else hardware


class _QuantizationBase(SpecBase):
    model: ModelId = Field(description="The model to quantize.")
    evaluation: DatasetId | None = Field(
        default=None,
        description="Held-out data for quality; without it another of the job's datasets is used, and said so.",
    )
    max_accuracy_drop: Literal["auto"] | Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = Field(
        default="auto",
        description=(
            "Absolute: 0.01 is one percentage point of top-1, or 0.01 of MSE. `auto`: 0.01 of top-1 or top-5; of MSE "
            "1 % of the variance of the labels, whatever their unit: an R² lower by 0.01. null: no target."
        ),
    )
    weight: WeightSettings = WeightSettings()
    overrides: list[Override] = Field(default=[], max_length=MAX_OVERRIDES)
    runtimes: list[Runtime] | None = Field(
        default=None,
        min_length=1,
        max_length=3,
        description=(
            "What artifacts are for, and which float models int8 is measured against: `torch`, which is always among "
            "them, `onnxruntime`, `openvino`. null: all that the worker has."
        ),
    )
    analysis: AnalysisSettings = AnalysisSettings()
    measure_on: list[Hardware] = Field(
        default=[],
        max_length=8,
        description="Other hardware on which the artifacts are measured against the float model once the job has "
        "succeeded: each in a benchmark of its own, which the job tells as `measurements`.",
    )

    @field_validator("measure_on")
    @classmethod
    def _each_asks_for_something_else(cls, measure_on: list[Hardware]) -> list[Hardware]:
        for place, hardware in enumerate(measure_on):
            if hardware == Hardware():
                raise ValueError("an entry asks for nothing: name instruction sets, a CPU or labels")
            if hardware in measure_on[:place]:
                raise ValueError("the same hardware is asked for twice")
        return measure_on

    @field_validator("runtimes")
    @classmethod
    def _torch_and_each_once(cls, runtimes: list[Runtime] | None) -> list[Runtime] | None:
        return None if runtimes is None else [name for name in RUNTIMES if name == "torch" or name in runtimes]


class DynamicSpec(_QuantizationBase):
    """int8 weights; activation ranges are found at run time. Needs no data."""

    method: Literal["dynamic"]
    precision: Literal["int8", "float16"] = Field(
        default="int8", description="Of the weights: `float16` halves them at next to no loss."
    )

    @model_validator(mode="after")
    def _weights_have_qparams(self) -> DynamicSpec:
        in_int8 = self.precision == "int8" or any(not override.is_float for override in self.overrides)
        if not in_int8 and self.weight != WeightSettings():
            raise ValueError(
                "precision float16 and settings of `weight` exclude each other: float16 weights have no qparams"
            )
        return self


class StaticSpec(_QuantizationBase):
    """int8 weights and activations, with ranges fixed by calibration."""

    method: Literal["static"]
    calibration: DatasetId = Field(description="Representative inputs, without labels; 100 to 300 samples are usual.")
    qengine: Qengine = "auto"
    activation: ActivationSettings = ActivationSettings()
    recovery: RecoverySettings = RecoverySettings()

    @model_validator(mode="after")
    def _overrides_agree(self) -> StaticSpec:
        _check_reduced_overrides(self.activation, self.overrides)
        return self


class QatSpec(_QuantizationBase):
    """int8 weights and activations, trained with fake quantize."""

    method: Literal["qat"]
    training: DatasetId = Field(description="What the model is trained on, with labels unless it is distilled.")
    calibration: DatasetId | None = Field(
        default=None,
        description=(
            "What sets the first ranges: of the network before it is trained, and of the static model beside it. "
            "Without it the training data is used."
        ),
    )
    qengine: Qengine = "auto"
    activation: ActivationSettings = ActivationSettings()
    qat: QatSettings = QatSettings()

    @model_validator(mode="after")
    def _overrides_agree(self) -> QatSpec:
        _check_reduced_overrides(self.activation, self.overrides)
        return self


QuantizationSpec = Annotated[DynamicSpec | StaticSpec | QatSpec, Field(discriminator="method")]

spec_adapter: TypeAdapter[DynamicSpec | StaticSpec | QatSpec] = TypeAdapter(QuantizationSpec)


def asked(toggle: Toggle) -> Literal["auto", "on"]:
    """How the report says that something was to be done; of what is off it says nothing."""
    return "auto" if toggle == "auto" else "on"
