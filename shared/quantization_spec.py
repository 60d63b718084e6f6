"""What is asked: the spec of a job, discriminated by `method`, every default the one an expert would choose.

The API validates it, echoes it back with every default filled in, and stores it; the worker reads the same types.
Choices left at `auto` are made from the model's graph and the CPU, and stand resolved in the report (`report.spec`).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

Metric = Literal["auto", "top1", "top5", "mse"]
Qengine = Literal["auto", "x86", "onednn", "fbgemm", "qnnpack"]
Precision = Literal["float32"]

ModelId = Annotated[str, Field(pattern=r"^mdl_[0-9a-z]{16,40}$", examples=["mdl_019abc5d1f0e7a33c49d20"])]
DatasetId = Annotated[str, Field(pattern=r"^dst_[0-9a-z]{16,40}$", examples=["dst_019abc5d20c17a3391be04"])]


_NO_NUL = r"^[^\x00]*$"  # PostgreSQL has no NUL in text or JSON


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ActivationSettings(_Strict):
    """How activation ranges are found and mapped to quint8."""

    observer: Literal["auto", "histogram", "minmax", "moving_average_minmax"] = Field(
        default="auto",
        description=(
            "`auto`: histogram for static, which minimises the L2 error of the quantized range; minmax for QAT, where "
            "a moving average clips what a short training has seen once."
        ),
    )
    qscheme: Literal["per_tensor_affine", "per_tensor_symmetric"] = "per_tensor_affine"
    reduce_range: bool | Literal["auto"] = Field(
        default="auto", description="7-bit activations against overflow in kernels without VNNI; `auto` asks the CPU."
    )


class WeightSettings(_Strict):
    """How weights are mapped to qint8."""

    observer: Literal["per_channel_minmax", "minmax"] = "per_channel_minmax"
    qscheme: Literal["auto", "per_channel_symmetric", "per_tensor_symmetric"] = "auto"


class Override(_Strict):
    """Keeps the layers or operators that match in another precision; the last match wins."""

    layer: str | None = Field(
        default=None,
        max_length=500,
        pattern=_NO_NUL,
        description="Glob on the layer's dotted name, such as `layer4.*`.",
    )
    op: str | None = Field(
        default=None, max_length=100, pattern=_NO_NUL, description="Operator type, such as `Linear`, `Conv2d` or `add`."
    )
    precision: Precision = "float32"


class QatSettings(_Strict):
    """How quantization-aware training trains."""

    epochs: int = Field(default=3, ge=1, le=1000)
    learning_rate: float = Field(
        default=1e-4, gt=0, le=10, allow_inf_nan=False, description="At first; it falls to zero along a half cosine."
    )
    batch_size: int = Field(default=32, ge=1, le=65536)
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    loss: Literal["auto", "cross_entropy", "mse", "distillation"] = Field(
        default="auto",
        description=(
            "`auto`: cross_entropy for integer labels, mse for float ones; without labels distillation, "
            "which learns from the float model."
        ),
    )
    freeze_observers_after: float = Field(default=0.5, ge=0, le=1, description="Share of the training steps.")
    freeze_batch_norm_after: float = Field(default=0.66, ge=0, le=1, description="Share of the training steps.")


class BenchmarkSettings(_Strict):
    """What latency is measured at: every batch size with every thread count."""

    batch_sizes: list[Annotated[int, Field(ge=1, le=4096)]] = Field(default=[1], min_length=1, max_length=8)
    threads: list[Annotated[int, Field(ge=1, le=256)]] = Field(default=[1], min_length=1, max_length=8)
    max_seconds: float = Field(
        default=5.0, gt=0, le=600, allow_inf_nan=False, description="Time budget of each combination."
    )


class _SpecBase(_Strict):
    model: ModelId = Field(description="The model to quantize.")
    evaluation: DatasetId | None = Field(
        default=None,
        description="Held-out data for quality; without it another of the job's datasets is used, and said so.",
    )
    metric: Metric = Field(
        default="auto", description="`auto`: top1 for integer labels, mse for float ones, else none."
    )
    max_accuracy_drop: float | None = Field(
        default=0.01,
        ge=0,
        allow_inf_nan=False,
        description="Absolute: 0.01 is one percentage point of top-1, or 0.01 of MSE. null: no target.",
    )
    weight: WeightSettings = WeightSettings()
    overrides: list[Override] = Field(default=[], max_length=1000)
    benchmark: BenchmarkSettings = BenchmarkSettings()
    seed: int = Field(default=0, ge=0, lt=2**63)
    name: str | None = Field(default=None, max_length=200, pattern=_NO_NUL)
    metadata: dict[
        Annotated[str, Field(max_length=64, pattern=_NO_NUL)], Annotated[str, Field(max_length=512, pattern=_NO_NUL)]
    ] = Field(default={}, max_length=32, description="Yours; returned as it is.")


class DynamicSpec(_SpecBase):
    """int8 weights; activation ranges are found at run time. Needs no data."""

    method: Literal["dynamic"]


class StaticSpec(_SpecBase):
    """int8 weights and activations, with ranges fixed by calibration."""

    method: Literal["static"]
    calibration: DatasetId = Field(description="Representative inputs, without labels; 100 to 300 samples are usual.")
    qengine: Qengine = "auto"
    activation: ActivationSettings = ActivationSettings()


class QatSpec(_SpecBase):
    """int8 weights and activations, trained with fake quantize."""

    method: Literal["qat"]
    training: DatasetId = Field(description="What the model is trained on, with labels unless it is distilled.")
    calibration: DatasetId | None = Field(
        default=None,
        description="For the static model that QAT is compared with; without it the training data is used.",
    )
    qengine: Qengine = "auto"
    activation: ActivationSettings = ActivationSettings()
    qat: QatSettings = QatSettings()


QuantizationSpec = Annotated[DynamicSpec | StaticSpec | QatSpec, Field(discriminator="method")]
METHODS = ("dynamic", "static", "qat")

spec_adapter: TypeAdapter[DynamicSpec | StaticSpec | QatSpec] = TypeAdapter(QuantizationSpec)


def dataset_roles(spec: DynamicSpec | StaticSpec | QatSpec) -> dict[str, str]:
    """The datasets that a spec names: role (`calibration`, `evaluation`, `training`) to dataset id."""
    roles = {role: getattr(spec, role, None) for role in ("calibration", "evaluation", "training")}
    return {role: dataset for role, dataset in roles.items() if dataset is not None}
