"""From a plan's words to the constructors that torch.ao wants: (activation, weight) observers for one layer."""

from __future__ import annotations

from typing import Any

import torch
from torch.ao.quantization import (
    FakeQuantize,
    FixedQParamsFakeQuantize,
    FusedMovingAvgObsFakeQuantize,
    HistogramObserver,
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
    PerChannelMinMaxObserver,
    PlaceholderObserver,
    QConfig,
    default_embedding_qat_qconfig,
    default_reuse_input_qconfig,
    float_qparams_weight_only_qconfig,
)
from torch.ao.quantization.observer import (
    default_fixed_qparams_range_0to1_observer,
    default_fixed_qparams_range_neg1to1_observer,
)

_ACTIVATION_OBSERVERS: dict[str, Any] = {
    "histogram": HistogramObserver,
    "minmax": MinMaxObserver,
    "moving_average_minmax": MovingAverageMinMaxObserver,
}
_ACTIVATION_QSCHEMES = {
    "per_tensor_affine": torch.per_tensor_affine,
    "per_tensor_symmetric": torch.per_tensor_symmetric,
}
#: Operators whose range is known beforehand.
_ZERO_TO_ONE = ("sigmoid", "hardsigmoid")
_MINUS_ONE_TO_ONE = ("tanh",)


def qconfig_for(
    op: str,
    *,
    observer: str,
    qscheme: str,
    reduce_range: bool,
    per_channel: bool,
    trainable: bool,
) -> QConfig:
    """The qconfig of a layer of this kind; `op` is a module's class name or an operator's name."""
    if op == "reshape":
        return default_reuse_input_qconfig
    if op == "Embedding":  # weights only: a scale a row
        return default_embedding_qat_qconfig if trainable else float_qparams_weight_only_qconfig
    activation = _activation(observer, qscheme, reduce_range=reduce_range, trainable=trainable)
    weight = _weight(per_channel=per_channel, trainable=trainable)
    if op in _ZERO_TO_ONE or op in _MINUS_ONE_TO_ONE:
        fixed = default_fixed_qparams_range_0to1_observer
        if op in _MINUS_ONE_TO_ONE:
            fixed = default_fixed_qparams_range_neg1to1_observer
        activation = FixedQParamsFakeQuantize.with_args(observer=fixed) if trainable else fixed
    elif op == "LayerNorm":
        weight = PlaceholderObserver  # its kernel takes float weights
    elif op == "PReLU":
        activation, weight = HistogramObserver.with_args(reduce_range=reduce_range), MinMaxObserver
    return QConfig(activation=activation, weight=weight)


def _activation(observer: str, qscheme: str, *, reduce_range: bool, trainable: bool) -> Any:
    settings = {"dtype": torch.quint8, "qscheme": _ACTIVATION_QSCHEMES[qscheme], "reduce_range": reduce_range}
    kind = _ACTIVATION_OBSERVERS[observer]
    if not trainable:
        return kind.with_args(**settings)
    fake_quantize = FusedMovingAvgObsFakeQuantize if kind is MovingAverageMinMaxObserver else FakeQuantize
    return fake_quantize.with_args(observer=kind, quant_min=0, quant_max=255, **settings)


def _weight(*, per_channel: bool, trainable: bool) -> Any:
    settings = {
        "dtype": torch.qint8,
        "qscheme": torch.per_channel_symmetric if per_channel else torch.per_tensor_symmetric,
    }
    if not trainable:
        return (PerChannelMinMaxObserver if per_channel else MinMaxObserver).with_args(**settings)
    observer = MovingAveragePerChannelMinMaxObserver if per_channel else MovingAverageMinMaxObserver
    return FusedMovingAvgObsFakeQuantize.with_args(observer=observer, quant_min=-128, quant_max=127, **settings)
