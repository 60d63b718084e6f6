"""Find the range of an activation: one observer that sees the data once and can answer by any rule afterwards.

    minmax                  all that was seen
    histogram               the range of least L2 error
    percentile              leaves out the rarest values at both ends
    moving_average_minmax   of the least and greatest value of each batch
    auto                    one of the first three, to be settled when the data has been seen

It keeps a histogram of constant size, so the rule may be chosen after calibration, by what each makes of the model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.ao.quantization import FakeQuantize
from torch.ao.quantization.observer import UniformQuantizationObserverBase
from torch.nn import functional as F  # noqa: N812 - its name everywhere

Rule = Literal["auto", "minmax", "histogram", "percentile", "moving_average_minmax"]

_BINS = 2048
_ROOM = 0.25  # of the width: a histogram that must grow grows by more, for each growth blurs it a little
_CANDIDATES = 256

#: Activations that an observer can look through: what matters is the error behind them.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "hardswish": F.hardswish,
    "gelu": F.gelu,
    "mish": F.mish,
    "sigmoid": torch.sigmoid,
    "hardsigmoid": F.hardsigmoid,
    "tanh": torch.tanh,
    "elu": F.elu,
}


def settle_rule(prepared: nn.Module, rule: Rule) -> None:
    """Let every observer whose rule was left open find its range by this one."""
    for module in prepared.modules():
        if isinstance(module, RangeObserver) and module.is_open:
            module.rule = rule


class RangeObserver(UniformQuantizationObserverBase):
    """Least and greatest value and a histogram of all values, over any number of batches, in constant memory.

    `cap` clamps what passes from above: the observer stands for a ReLU6 that an int8 kernel computes by saturating.
    `through` names the activation that reads the tensor and nothing else does: the L2 error is that of its output.
    """

    min_val: Tensor
    max_val: Tensor
    average: Tensor
    counts: Tensor
    bounds: Tensor
    zeros: Tensor

    def __init__(
        self,
        rule: Rule = "histogram",
        *,
        percentile: float = 99.99,
        averaging_constant: float = 0.01,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.rule: Rule = rule
        self.is_open = rule == "auto"
        self.percentile = percentile
        self.averaging_constant = averaging_constant
        self.cap: float | None = None
        self.through: str | None = None
        self.register_buffer("min_val", torch.tensor(float("inf")))
        self.register_buffer("max_val", torch.tensor(float("-inf")))
        self.register_buffer("average", torch.zeros(2))
        self.register_buffer("bounds", torch.zeros(2, dtype=torch.float64))
        self.register_buffer("counts", torch.zeros(_BINS, dtype=torch.float64))
        self.register_buffer("zeros", torch.zeros((), dtype=torch.float64))

    def forward(self, values: Tensor) -> Tensor:
        """Take the values in, and give them back, capped."""
        if self.cap is not None:
            values = values.clamp(max=self.cap)
        seen = values.detach().float()
        if seen.numel() == 0:
            return values
        least, greatest = torch.aminmax(seen)
        if not (least.isfinite() and greatest.isfinite()):  # such as -inf in a mask: no range holds it
            seen = seen[seen.isfinite()]
            if seen.numel() == 0:
                return values
            least, greatest = torch.aminmax(seen)
        self._average(least, greatest)
        self.min_val.copy_(torch.minimum(self.min_val, least))
        self.max_val.copy_(torch.maximum(self.max_val, greatest))
        self._count(seen, float(least), float(greatest))
        return values

    def calculate_qparams(self, **_: Any) -> tuple[Tensor, Tensor]:
        """Scale and zero point by the observer's rule."""
        low, high = self.range()
        qparams: tuple[Tensor, Tensor] = self._calculate_qparams(torch.tensor(low), torch.tensor(high))
        return qparams

    def range(self) -> tuple[float, float]:
        """The range to be held in int8, by the observer's rule; both ends 0 when nothing was seen."""
        if not self.saw_something:
            return 0.0, 0.0
        if self.rule == "moving_average_minmax":
            return float(self.average[0]), float(self.average[1])
        if self.rule == "percentile":
            return self._percentile_range()
        if self.rule == "minmax":
            return float(self.min_val), float(self.max_val)
        return self._least_error_range()

    @property
    def saw_something(self) -> bool:
        """Whether any finite value passed."""
        return bool(self.min_val <= self.max_val)

    # --- seeing ------------------------------------------------------------------------------------------------------

    def _average(self, least: Tensor, greatest: Tensor) -> None:
        batch = torch.stack([least, greatest])
        if self.saw_something:
            self.average.add_(batch - self.average, alpha=self.averaging_constant)
        else:
            self.average.copy_(batch)

    def _count(self, seen: Tensor, least: float, greatest: float) -> None:
        low, high = self.bounds.tolist()
        if low == high:  # nothing counted yet
            low, high = least, max(greatest, least + 1e-12 + abs(least) * 1e-6)
        elif least < low or greatest > high:
            room = _ROOM * (max(high, greatest) - min(low, least))
            wider = (least - room if least < low else low, greatest + room if greatest > high else high)
            self.counts.copy_(_rebinned(self.counts, (low, high), wider))
            low, high = wider
        self.bounds.copy_(torch.tensor([low, high], dtype=torch.float64))
        self.counts.add_(torch.histc(seen, bins=_BINS, min=low, max=high))
        self.zeros.add_((seen == 0).sum())

    # --- rules -------------------------------------------------------------------------------------------------------

    def _percentile_range(self) -> tuple[float, float]:
        low, high = self.bounds.tolist()
        share = self.counts.cumsum(0)
        share = share / share[-1]  # not by sum(), which adds up in another order: the last must be 1
        beyond = (100 - self.percentile) / 100
        edges = torch.linspace(low, high, _BINS + 1, dtype=torch.float64)
        first = int((share > beyond).nonzero()[0])
        last = int((share >= 1 - beyond).nonzero()[0])
        return max(float(edges[first]), float(self.min_val)), min(float(edges[last + 1]), float(self.max_val))

    def _least_error_range(self) -> tuple[float, float]:
        """The range for which rounding inside and clipping outside, behind the activation, cost least.

        With `n(x)` values at x, `f` the activation and a step `s = (high − low) / (quant_max − quant_min)` the expected
        squared error is `Σ_inside n f'² s²/12 + Σ_below n (f(x) − f(low))² + Σ_above n (f(x) − f(high))²`. Exact zeros
        cost nothing: zero is always held exactly. The sums are cumulative, so every pair of ends is weighed at once.
        """
        low, high = self.bounds.tolist()
        edges = torch.linspace(low, high, _BINS + 1, dtype=torch.float64)
        centers = (edges[1:] + edges[:-1]) / 2
        activation = ACTIVATIONS.get(self.through or "", lambda values: values)
        counts = self.counts
        rounded = counts.clone()
        if low <= 0 <= high:
            zero = min(_BINS - 1, int((0 - low) / (high - low) * _BINS))
            rounded[zero] = (rounded[zero] - self.zeros).clamp(min=0)
        at_edges, values = activation(edges), activation(centers)
        slope = (at_edges[1:] - at_edges[:-1]) / (edges[1:] - edges[:-1])
        inside = _cumulative(rounded * slope.square())
        mass, first, second = (_cumulative(counts * values**power) for power in (0, 1, 2))
        # Clipped to each edge: of all that lies below it, of all that lies above it.
        below = second - 2 * at_edges * first + at_edges.square() * mass
        above = (second[-1] - second) - 2 * at_edges * (first[-1] - first) + at_edges.square() * (mass[-1] - mass)
        chosen = torch.linspace(0, _BINS, _CANDIDATES + 1).round().long()
        lows, highs = chosen[edges[chosen] <= 0], chosen[edges[chosen] >= 0]
        if lows.numel() == 0:  # all positive: zero is held whatever the least value is
            lows = torch.zeros(1, dtype=torch.long)
        if highs.numel() == 0:
            highs = torch.full((1,), _BINS)
        wide = edges[highs].clamp(min=0)[None, :] - edges[lows].clamp(max=0)[:, None]
        if self.qscheme in (torch.per_tensor_symmetric, torch.per_channel_symmetric):
            wide = 2 * torch.maximum(edges[highs].abs()[None, :], edges[lows].abs()[:, None])
        step = wide / (self.quant_max - self.quant_min)
        error = step.square() / 12 * (inside[highs][None, :] - inside[lows][:, None])
        error = error + (below[lows][:, None] + above[highs][None, :])
        error[wide <= 0] = float("inf")
        best = int(error.argmin())
        found_low, found_high = edges[lows[best // highs.numel()]], edges[highs[best % highs.numel()]]
        return max(float(found_low), float(self.min_val)), min(float(found_high), float(self.max_val))


class CappedFakeQuantize(FakeQuantize):
    """Fake quantize of an activation; `cap` stands for a ReLU6 as in RangeObserver, with a ReLU6's gradient."""

    cap: float | None = None

    def forward(self, values: Tensor) -> Tensor:
        """Observe, quantize and dequantize."""
        quantized: Tensor = super().forward(values if self.cap is None else values.clamp(max=self.cap))
        return quantized


def _cumulative(values: Tensor) -> Tensor:
    """Sums up to each edge: one more than there are bins."""
    return torch.cat([values.new_zeros(1), values.cumsum(0)])


def _rebinned(counts: Tensor, old: tuple[float, float], new: tuple[float, float]) -> Tensor:
    """The histogram over a wider range, taking the values of a bin as spread evenly over it."""
    cumulative = _cumulative(counts)
    edges = torch.linspace(*new, _BINS + 1, dtype=torch.float64)
    position = ((edges - old[0]) / (old[1] - old[0]) * _BINS).clamp(0, _BINS)
    left = position.floor().long().clamp(max=_BINS - 1)
    at_edges = cumulative[left] + (position - left) * counts[left]
    return at_edges.diff()
