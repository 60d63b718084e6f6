"""Learnable scales (LSQ: Esser et al. 2020, "Learned Step Size Quantization"): the scale is trained with the weights.

`torch.ao`'s own `_LearnableFakeQuantize` is not the paper's: its kernels count a value up to half a step beyond the
limit as inside the range, which at 3 bits turns the sign of a scale's gradient; it divides the gradient by the batch as
well; and it wants the number of channels before it has seen a tensor, and starts from its observer only. This one
observes like any fake quantize until `learn_scales`, and learns from then on:

    d x̂ / d scale = round(x / scale) − x / scale inside the range, and the limit itself where x is clipped

times `1 / sqrt(N · Qp)`, with N the values of one sample that share the scale and Qp the greatest integer. The zero
point stays as observed. The scale of a weight starts from the better of the observed one and the paper's
`2 · mean |w| / sqrt(Qp)`, channel by channel: the paper's is the better one at few bits, the observed one at eight.

Batch norm behind a convolution is folded into the weight that is quantized, which so moves with the statistics of every
batch and would leave a scale of its own behind. There the scale that is learned is that of the layer's own weight, and
what folding multiplies the weight by multiplies the scale as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.ao.quantization import FakeQuantizeBase
from torch.ao.quantization.fake_quantize import _is_per_channel, _is_symmetric_quant

_LEAST_SCALE = float(torch.finfo(torch.float32).eps)


class _LearnedStep(torch.autograd.Function):
    """`clamp(round(x / scale), low, high) · scale` with the gradients of the paper; scale and limits broadcast to x."""

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd's functions take them so
        ctx: Any, x: Tensor, scale: Tensor, low: Tensor, high: Tensor, gradient_scale: float
    ) -> Tensor:
        ctx.save_for_backward(x, scale, low, high)
        ctx.gradient_scale = gradient_scale
        return torch.minimum(torch.maximum((x / scale).round_(), low), high).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        (gradient,) = outer
        x, scale, low, high = ctx.saved_tensors
        steps = x / scale
        inside = (steps > low) & (steps < high)
        clipped = torch.minimum(torch.maximum(steps.round(), low), high)
        of_scale = gradient * torch.where(inside, clipped - steps, clipped)
        return gradient * inside, of_scale.sum_to_size(scale.shape) * ctx.gradient_scale, None, None, None


class LearnableFakeQuantize(FakeQuantizeBase):
    """Fake quantize that observes first, and learns its scale from `start_learning` on.

    `scale` holds one value a tensor or one a channel; `convert_fx` takes it, as it is then, from `calculate_qparams`.
    """

    scale: Tensor
    zero_point: Tensor
    cap: float | None = None
    """Of a ReLU6 whose kernel saturates: no more is observed. Where the range ends from then on is learned."""

    def __init__(self, observer: Any, quant_min: int, quant_max: int, *, is_weight: bool, **settings: Any) -> None:
        super().__init__()
        self.activation_post_process = observer(quant_min=quant_min, quant_max=quant_max, **settings)
        # As the observer has them: `reduce_range` halves the limits there.
        self.quant_min, self.quant_max = self.activation_post_process.quant_min, self.activation_post_process.quant_max
        self.dtype, self.qscheme = self.activation_post_process.dtype, self.activation_post_process.qscheme
        self.is_per_channel = _is_per_channel(self.qscheme)
        self.ch_axis = getattr(self.activation_post_process, "ch_axis", -1)
        self.is_weight = is_weight
        self.learns = False
        self._folded: tuple[nn.modules.batchnorm._BatchNorm, ...] = ()  # a tuple: the module belongs to another
        self.register_buffer("scale", torch.ones(1))
        self.register_buffer("zero_point", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Quantize and dequantize; a gradient reaches `x` and, once it learns, the scale."""
        if not self.learns and int(self.observer_enabled):
            x = x if self.cap is None else x.clamp(max=self.cap)
            self.activation_post_process(x.detach())
            self._take_observed()
        if not int(self.fake_quant_enabled):
            return x
        scale, zero_point = self.scale, self.zero_point
        factor = self._factor()
        if self.is_per_channel:
            shape = [1] * x.ndim
            shape[self.ch_axis] = -1
            scale, zero_point = scale.reshape(shape), zero_point.reshape(shape)
            factor = None if factor is None else factor.reshape(shape)
        limits = (self.quant_min - zero_point, self.quant_max - zero_point)
        own = x if factor is None else x / factor
        quantized: Tensor = _LearnedStep.apply(own, scale, *limits, self._gradient_scale(x))
        return quantized if factor is None else quantized * factor

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:  # type: ignore[override]  # torch leaves it untyped
        """The scale of what is quantized, as observed or as learned, and the integer zero point."""
        factor = self._factor()
        scale = self.scale if factor is None else self.scale * factor
        return scale.detach().clamp(min=_LEAST_SCALE), self.zero_point.round().to(torch.int64)

    def start_learning(self, weight: Tensor | None, folded: nn.modules.batchnorm._BatchNorm | None = None) -> None:
        """Turn the scale into a parameter; `weight` is what a weight's quantizer will see, None for activations.

        `folded` is the batch norm that `weight` is already multiplied by.
        """
        if weight is not None and _is_symmetric_quant(self.qscheme):
            self._start_from(weight.detach())
        start = self.scale.detach().clone()
        if folded is not None and self.is_per_channel:  # one scale for all channels cannot follow each
            self._folded = (folded,)
            factor = self._factor()
            assert factor is not None
            start /= factor.detach()
        del self.scale
        self.scale = nn.Parameter(start)
        self.learns = True

    def _factor(self) -> Tensor | None:
        """What folding batch norm multiplies each channel's weight by, without its sign; None where none is folded."""
        if not self._folded:
            return None
        # Of a channel that is switched off the weight is zero, whatever its scale.
        return fold_factor(self._folded[0]).abs().clamp(min=_LEAST_SCALE)

    def _take_observed(self) -> None:
        scale, zero_point = self.activation_post_process.calculate_qparams()
        self.scale = scale.detach().to(torch.float32).reshape(-1)
        self.zero_point = zero_point.detach().to(torch.float32).reshape(-1)

    def _start_from(self, weight: Tensor) -> None:
        """Keep, channel by channel, whichever start has the least squared error on the weight."""
        rows = weight.transpose(0, self.ch_axis).flatten(1) if self.is_per_channel else weight.reshape(1, -1)
        paper = (2 * rows.abs().mean(1) / math.sqrt(self.quant_max)).clamp(min=_LEAST_SCALE)
        errors = [self._squared_error(rows, scale) for scale in (self.scale, paper)]
        self.scale = torch.where(errors[1] < errors[0], paper, self.scale)

    def _squared_error(self, rows: Tensor, scale: Tensor) -> Tensor:
        steps = (rows / scale[:, None]).round().clamp(self.quant_min, self.quant_max)
        return (rows - steps * scale[:, None]).square().sum(1)

    def _gradient_scale(self, x: Tensor) -> float:
        shared_by = x.numel() / (1 if self.is_weight else x.shape[0])
        if self.is_per_channel:
            shared_by /= x.shape[self.ch_axis]
        return 1 / math.sqrt(max(1.0, shared_by) * self.quant_max)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        # One scale a channel is known only from the first weight on.
        for name in ("scale", "zero_point"):
            stored = state_dict.get(prefix + name)
            if isinstance(stored, Tensor) and not self.learns:
                setattr(self, name, torch.empty_like(stored))
        super()._load_from_state_dict(state_dict, prefix, *rest)


def fold_factor(norm: nn.modules.batchnorm._BatchNorm) -> Tensor:
    """What folding this batch norm multiplies the weight of each channel by."""
    assert norm.running_var is not None
    return norm.weight / torch.sqrt(norm.running_var + norm.eps)


def learn_scales(prepared: nn.Module) -> None:
    """Let every learnable scale be trained from now on, starting from what was observed; observers see no more.

    Call it once, after calibration and before the optimizer is made.
    """
    weights = _weights_seen(prepared)
    for module in prepared.modules():
        if isinstance(module, LearnableFakeQuantize):
            module.disable_observer()
            module.start_learning(*weights.get(id(module), (None, None)))


def keep_scales_positive(scales: Iterable[nn.Parameter]) -> None:
    """To be called after each step of the optimizer, which knows nothing of what it moves."""
    with torch.no_grad():
        for scale in scales:
            scale.clamp_(min=_LEAST_SCALE)


def scale_parameters(network: nn.Module) -> Iterator[nn.Parameter]:
    """The scales that are trained: they want a learning rate in proportion to themselves, and no weight decay."""
    for module in network.modules():
        if isinstance(module, LearnableFakeQuantize) and isinstance(module.scale, nn.Parameter):
            yield module.scale


def _weights_seen(prepared: nn.Module) -> dict[int, tuple[Tensor, nn.modules.batchnorm._BatchNorm | None]]:
    """What each weight's quantizer is given, by its id, and the batch norm that is folded into it."""
    seen = {}
    for module in prepared.modules():
        quantizer, weight = getattr(module, "weight_fake_quant", None), getattr(module, "weight", None)
        if not isinstance(quantizer, LearnableFakeQuantize) or not isinstance(weight, Tensor):
            continue
        norm = getattr(module, "bn", None)
        folded = norm if isinstance(norm, nn.modules.batchnorm._BatchNorm) else None
        if folded is not None:
            weight = weight * fold_factor(folded).reshape(-1, *([1] * (weight.ndim - 1)))
        seen[id(quantizer)] = (weight, folded)
    return seen
