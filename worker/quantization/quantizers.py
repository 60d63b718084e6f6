"""How tensors are quantized: what an observer makes of activations, and what conversion will make of a weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from worker.quantization.int8_modules import is_per_channel

_QUINT8 = (0, 255)


@dataclass(frozen=True)
class Quantizer:
    """`clamp(round(x / scale) + zero_point)` and back, as kernels do it: they clamp at the dtype's limits."""

    scale: float
    zero_point: int

    def __call__(self, values: Tensor) -> Tensor:
        """The values as int8 holds them; a fifth of the time that torch's fake quantize takes."""
        low, high = (limit - self.zero_point for limit in _QUINT8)
        return values.mul(1 / self.scale).round_().clamp_(low, high).mul_(self.scale)

    @property
    def range(self) -> tuple[float, float]:
        """The least and the greatest value that can be held."""
        low, high = _QUINT8
        return (low - self.zero_point) * self.scale, (high - self.zero_point) * self.scale


def quantizer_of(observer: nn.Module) -> Quantizer | None:
    """What an observer or fake quantize makes of activations; None when it saw nothing, or only passes on."""
    calculate: Any = getattr(observer, "calculate_qparams", None)
    if calculate is None or getattr(observer, "dtype", torch.quint8) is not torch.quint8 or _saw_nothing(observer):
        return None
    scale, zero_point = calculate()
    return Quantizer(float(scale), int(zero_point))


@dataclass(frozen=True)
class QuantizedWeight:
    """How a module's weight is quantized; the weight itself is made at each call: it is large."""

    name: str  #: of the parameter in the module
    scale: Tensor  #: one, or one a channel
    zero_point: Tensor
    axis: int | None
    limits: tuple[int, int]

    def of(self, module: nn.Module) -> Tensor:
        """The weight as int8 holds it, in float."""
        weight = module.get_parameter(self.name).detach()
        scale, zero_point = self.scale, self.zero_point
        if self.axis is not None:
            shape = [1] * weight.dim()
            shape[self.axis] = -1
            scale, zero_point = scale.reshape(shape), zero_point.reshape(shape)
        steps = (weight / scale).add_(zero_point).round_().clamp_(*self.limits)  # in place: a third of the time
        return steps.sub_(zero_point).mul_(scale)


def quantized_weight(module: nn.Module, qconfig: Any) -> QuantizedWeight | None:
    """How conversion will quantize a module's weight; None for modules without one, and for those in training."""
    name = next((name for name, _ in module.named_parameters() if name.rpartition(".")[2] == "weight"), None)
    if name is None or qconfig is None or hasattr(module, "weight_fake_quant"):
        return None
    if module.get_parameter(name).dim() < 2:  # of a batch or layer norm: its kernel takes it in float
        return None
    observer = qconfig.weight()
    if getattr(observer, "dtype", None) not in (torch.qint8, torch.quint8) or not hasattr(
        observer, "calculate_qparams"
    ):
        return None
    observer(module.get_parameter(name).detach())
    scale, zero_point = observer.calculate_qparams()
    return QuantizedWeight(
        name=name,
        scale=scale,
        zero_point=zero_point.to(scale.dtype),
        axis=observer.ch_axis if is_per_channel(observer.qscheme) else None,
        limits=(observer.quant_min, observer.quant_max),
    )


def _saw_nothing(observer: nn.Module) -> bool:
    inner = getattr(observer, "activation_post_process", observer)
    least = getattr(inner, "min_val", None)
    return isinstance(least, Tensor) and (least.numel() == 0 or not bool(torch.isfinite(least).all()))
