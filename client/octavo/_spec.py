"""What a job may be asked for, as typed keywords."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from octavo._types import Dataset, Model


class NotGiven:
    """The type of NOT_GIVEN: the server's default, where None would mean something of its own."""

    def __repr__(self) -> str:
        return "NOT_GIVEN"


NOT_GIVEN = NotGiven()


class ActivationSettings(TypedDict, total=False):
    """How activation ranges are found and mapped."""

    observer: Literal["auto", "histogram", "minmax", "moving_average_minmax", "percentile"]
    averaging_constant: float
    percentile: float
    qscheme: Literal["per_tensor_affine", "per_tensor_symmetric"]
    reduce_range: bool | Literal["auto"]
    quant_min: int | None
    quant_max: int | None


class WeightSettings(TypedDict, total=False):
    """How weights are mapped."""

    observer: Literal["minmax", "per_channel_minmax", "moving_average_minmax", "moving_average_per_channel_minmax"]
    qscheme: Literal["auto", "per_channel_symmetric", "per_tensor_symmetric", "per_channel_affine", "per_tensor_affine"]
    averaging_constant: float
    quant_min: int | None
    quant_max: int | None


class ActivationOverride(TypedDict, total=False):
    """What differs for the activations of the layers that match."""

    observer: Literal["histogram", "minmax", "moving_average_minmax", "percentile"]
    averaging_constant: float
    percentile: float
    qscheme: Literal["per_tensor_affine", "per_tensor_symmetric"]
    reduce_range: bool
    quant_min: int
    quant_max: int


class WeightOverride(TypedDict, total=False):
    """What differs for the weights of the layers that match."""

    observer: Literal["minmax", "per_channel_minmax", "moving_average_minmax", "moving_average_per_channel_minmax"]
    qscheme: Literal["per_channel_symmetric", "per_tensor_symmetric", "per_channel_affine", "per_tensor_affine"]
    averaging_constant: float
    quant_min: int
    quant_max: int


class Override(TypedDict, total=False):
    """Layers, by a glob on the dotted name, or operators, by type, that get another precision or other settings."""

    layer: str
    op: str
    precision: Literal["float32", "int8"]
    activation: ActivationOverride
    weight: WeightOverride


class RecoverySettings(TypedDict, total=False):
    """Accuracy recovery that costs no training; `auto` keeps what helps."""

    cross_layer_equalization: bool | Literal["auto"]
    bias_correction: bool | Literal["auto"]
    smooth_quant: bool | Literal["auto"]
    smooth_quant_alpha: float


class QatSettings(TypedDict, total=False):
    """How quantization-aware training trains; the two `freeze_…` are shares of the training steps."""

    epochs: int
    learning_rate: float
    batch_size: int
    optimizer: Literal["adam", "adamw", "sgd"]
    schedule: Literal["cosine", "linear", "constant"]
    weight_decay: float
    learnable_scales: bool
    early_stop_patience: int | None
    compare_with_float: bool
    loss: Literal["auto", "cross_entropy", "mse", "distillation"]
    freeze_observers_after: float
    freeze_batch_norm_after: float


class AnalysisSettings(TypedDict, total=False):
    """What the report explains layer by layer, and how long that may take."""

    layers: bool
    sensitivity_seconds: float
    histograms: int | Literal["all"]


class BenchmarkSettings(TypedDict, total=False):
    """What latency is measured at: every batch size with every thread count."""

    batch_sizes: list[int]
    threads: list[int]
    max_seconds: float


class Hardware(TypedDict, total=False):
    """What the worker must have: `cpu` is a glob on its CPU model; `client.meta().workers` tells what there is."""

    isa: list[
        Literal[
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
    ]
    cpu: str | None
    labels: dict[str, str]


class BenchmarkOptions(TypedDict, total=False):
    """What a benchmark may be asked for beside its candidates and their data."""

    metric: Literal["auto", "top1", "top5", "mse"]
    runtimes: Sequence[Literal["torch", "onnxruntime", "openvino"]]
    benchmark: BenchmarkSettings
    hardware: Hardware
    seed: int
    name: str
    metadata: Mapping[str, str]


def build_candidate(given: Model | str | Mapping[str, str | None]) -> dict[str, Any]:
    """A candidate's JSON: of a model or its id, of `job_…` or `job_…:artifact`, or as the HTTP API takes it."""
    if isinstance(given, Mapping):
        return dict(given)
    if isinstance(given, Model):
        return {"model": given.id}
    job, _, artifact = given.partition(":")
    if not job.startswith("job_"):
        return {"model": given}
    return {"job": job, "artifact": artifact} if artifact else {"job": job}


def build_spec(**fields: Any) -> dict[str, Any]:
    """The JSON body of a job: objects become their ids, what was not given is left out.

    None is left out too, but for `max_accuracy_drop`, where it means: no target.
    """
    return {
        key: _plain(value)
        for key, value in fields.items()
        if not isinstance(value, NotGiven) and (value is not None or key == "max_accuracy_drop")
    }


def build_revision(based_on: str, apply: Sequence[int], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON body of a job that is made from another; None among the changes brings a default back."""
    plain = {key: _plain(value) for key, value in changes.items() if not isinstance(value, NotGiven)}
    return {"based_on": based_on, "apply": list(apply), "changes": plain}


def _plain(value: Any) -> Any:
    if isinstance(value, Model | Dataset):
        return value.id
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value
