"""From settings to the constructors that torch.ao wants: (activation, weight) observers for one layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.ao.quantization import (
    FakeQuantize,
    FixedQParamsFakeQuantize,
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
    PerChannelMinMaxObserver,
    PlaceholderObserver,
    QConfig,
    default_embedding_qat_qconfig,
    float_qparams_weight_only_qconfig,
)
from torch.ao.quantization.observer import (
    default_fixed_qparams_range_0to1_observer,
    default_fixed_qparams_range_neg1to1_observer,
)

from shared.quantization_spec import ActivationSettings, WeightSettings
from worker.quantization.learnable_scales import LearnableFakeQuantize
from worker.quantization.ranging import CappedFakeQuantize, RangeObserver

_QSCHEMES = {
    "per_tensor_affine": torch.per_tensor_affine,
    "per_tensor_symmetric": torch.per_tensor_symmetric,
    "per_channel_affine": torch.per_channel_affine,
    "per_channel_symmetric": torch.per_channel_symmetric,
}
_WEIGHT_OBSERVERS: dict[str, Any] = {
    "minmax": MinMaxObserver,
    "per_channel_minmax": PerChannelMinMaxObserver,
    "moving_average_minmax": MovingAverageMinMaxObserver,
    "moving_average_per_channel_minmax": MovingAveragePerChannelMinMaxObserver,
}
#: Operators whose range is known beforehand.
_ZERO_TO_ONE = ("sigmoid", "hardsigmoid")
_MINUS_ONE_TO_ONE = ("tanh",)


@dataclass(frozen=True)
class LayerSettings:
    """How one layer is quantized, with every `auto` settled."""

    activation: ActivationSettings
    weight: WeightSettings
    cap: float | None = None  #: of a ReLU6 that its int8 kernel computes by saturating
    through: str | None = None  #: the activation that alone reads its output: ranging.py looks through it

    @property
    def per_channel(self) -> bool:
        """Whether its weights have a scale a channel."""
        return "per_channel" in self.weight.observer


def qconfig_for(op: str, settings: LayerSettings, *, trainable: bool, learnable: bool = False) -> QConfig:
    """The qconfig of a layer of this kind; `op` is a module's class name or an operator's name.

    `trainable` gives fake quantize where there would be observers, `learnable` one whose scales are trained.
    """
    if op in ("Embedding", "EmbeddingBag"):  # weights only: a scale a row
        return default_embedding_qat_qconfig if trainable else float_qparams_weight_only_qconfig
    if learnable:
        activation, weight = _learned_activation(settings), _learned_weight(settings.weight)
    elif trainable:
        activation, weight = _trained_activation(settings), _trained_weight(settings.weight)
    else:
        activation, weight = _observed_activation(settings), _observed_weight(settings.weight)
    if op in _ZERO_TO_ONE or op in _MINUS_ONE_TO_ONE:
        fixed = default_fixed_qparams_range_0to1_observer
        if op in _MINUS_ONE_TO_ONE:
            fixed = default_fixed_qparams_range_neg1to1_observer
        activation = FixedQParamsFakeQuantize.with_args(observer=fixed) if trainable else fixed
    elif op == "LayerNorm":
        weight = PlaceholderObserver  # its kernel takes float weights
    elif op == "PReLU":
        activation, weight = _observed_activation(settings), MinMaxObserver  # FX has no fake quantize for it
    return QConfig(activation=activation, weight=weight)


def _common(settings: ActivationSettings) -> dict[str, Any]:
    """What every observer of activations is told; limits that nobody asked for are left to `reduce_range`."""
    limits: dict[str, Any] = {"reduce_range": bool(settings.reduce_range)}
    if settings.quant_min is not None or settings.quant_max is not None:
        # torch would halve these as well, where `reduce_range` means 127 at most
        greatest = 127 if settings.reduce_range else 255
        asked = greatest if settings.quant_max is None else settings.quant_max
        limits = {"reduce_range": False, "quant_min": settings.quant_min or 0, "quant_max": min(greatest, asked)}
    return {"dtype": torch.quint8, "qscheme": _QSCHEMES[settings.qscheme], **limits}


def _observed_activation(settings: LayerSettings) -> Any:
    return RangeObserver.with_args(
        rule=settings.activation.observer,
        percentile=settings.activation.percentile,
        averaging_constant=settings.activation.averaging_constant,
        **_common(settings.activation),
    )


def _observed_weight(settings: WeightSettings) -> Any:
    return _WEIGHT_OBSERVERS[settings.observer].with_args(
        dtype=torch.qint8,
        qscheme=_QSCHEMES[settings.qscheme],
        quant_min=settings.quant_min,
        quant_max=settings.quant_max,
        **_averaging(settings.observer, settings.averaging_constant),
    )


def _trained_activation(settings: LayerSettings) -> Any:
    return CappedFakeQuantize.with_args(**_trained_observer(settings), **_trained_common(settings.activation))


def _learned_activation(settings: LayerSettings) -> Any:
    return LearnableFakeQuantize.with_args(
        is_weight=False, **_trained_observer(settings), **_trained_common(settings.activation)
    )


def _trained_observer(settings: LayerSettings) -> dict[str, Any]:
    chosen = settings.activation
    if chosen.observer == "minmax":
        return {"observer": MinMaxObserver}
    if chosen.observer == "moving_average_minmax":
        return {"observer": MovingAverageMinMaxObserver, "averaging_constant": chosen.averaging_constant}
    return {
        "observer": RangeObserver,
        "rule": chosen.observer,
        "percentile": chosen.percentile,
    }


def _trained_common(settings: ActivationSettings) -> dict[str, Any]:
    return {"quant_min": 0, "quant_max": 255} | _common(settings)


def _trained_weight(settings: WeightSettings) -> Any:
    # Not torch's fused fake quantize: it trains with the scale max(-min / 4, max / 3) where 3 bits are converted with
    # max |w| / 3.5, and integers learned on one grid are then read on another (docs/decisions/0013).
    observer = (
        MovingAveragePerChannelMinMaxObserver if "per_channel" in settings.observer else MovingAverageMinMaxObserver
    )
    # A moving average that keeps nothing: the weights of each step, where a plain min-max keeps what is long gone.
    constant = settings.averaging_constant if settings.observer.startswith("moving_average") else 1.0
    return FakeQuantize.with_args(observer=observer, averaging_constant=constant, **_trained_weight_common(settings))


def _learned_weight(settings: WeightSettings) -> Any:
    observer = PerChannelMinMaxObserver if "per_channel" in settings.observer else MinMaxObserver
    return LearnableFakeQuantize.with_args(observer=observer, is_weight=True, **_trained_weight_common(settings))


def _trained_weight_common(settings: WeightSettings) -> dict[str, Any]:
    return {
        "dtype": torch.qint8,
        "qscheme": _QSCHEMES[settings.qscheme],
        "quant_min": settings.quant_min,
        "quant_max": settings.quant_max,
    }


def _averaging(observer: str, constant: float) -> dict[str, float]:
    return {"averaging_constant": constant} if observer.startswith("moving_average") else {}
