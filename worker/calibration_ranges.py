"""How the ranges of activations grow and vary with the calibration samples: do they suffice, and how many would?

The ranges stand in tensors of shape (…, tensors, 2): least and greatest value, NaN for a tensor that saw nothing. The
width of a range is `max(greatest, 0) − min(least, 0)`, for int8 always holds zero: its scale is proportional to that.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

SUBSETS = 8
"""Disjoint parts of the calibration data, interleaved batch by batch: what the order of the data is matters little."""
REPORTED_SUBSETS = 4
"""Each is two of them: `scale_spread` is over parts of a quarter of the data."""
ENOUGH_GROWTH = 0.05
"""Ranges that twice the samples widen by less than this are wide enough; see `enough_samples`."""

LEAST_SAMPLES = 32
"""Fewer are never enough."""

_FURTHEST = 64  # times the samples seen: no growth is extrapolated beyond
_QUICKEST, _SLOWEST = -1.0, -0.2  # powers by which growth falls; three doublings tell them badly


class RangeTracker:
    """Notes what the observers of prepared models see, subset by subset, in constant memory.

    It holds `SUBSETS × 2` numbers for a tensor, however many samples there are. An observer is a module with buffers
    `min_val` and `max_val` for a whole tensor; what it gives back is what it has taken in.
    """

    def __init__(self, prepared: Sequence[nn.Module]) -> None:
        self._observers = [
            module
            for model in prepared
            for name, module in model.named_modules()
            if _is_activation_observer(name, module)
        ]
        self._batches = 0
        self._ranges = _nothing(SUBSETS, len(self._observers))

    @contextmanager
    def watching(self) -> Iterator[RangeTracker]:
        """Watch the observers while the body runs the prepared models; it calls `next_batch` after each batch."""
        handles = [observer.register_forward_hook(self._hook(index)) for index, observer in enumerate(self._observers)]
        try:
            yield self
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def seeing_only(self, subset: int) -> Iterator[None]:
        """Let the observers answer, while the body runs, as if one reported subset had been all: by least and greatest.

        An observer that saw nothing there keeps what it has.
        """
        ranges = _reported(self.ranges)[subset]
        kept = [_answers(observer) for observer in self._observers]
        try:
            for observer, (low, high) in zip(self._observers, ranges.tolist(), strict=True):
                if math.isfinite(low):
                    _answer(observer, torch.tensor(low), torch.tensor(high), "minmax")
            yield
        finally:
            for observer, answers in zip(self._observers, kept, strict=True):
                _answer(observer, *answers)

    @property
    def reported_subsets(self) -> int:
        """How many parts the report speaks of."""
        return min(REPORTED_SUBSETS, self._batches)

    def next_batch(self) -> None:
        """Tell that a batch has been run: the next is of the next subset."""
        self._batches += 1

    @property
    def ranges(self) -> Tensor:
        """(subsets, tensors, 2): of the subsets that had any batch, at most `SUBSETS`."""
        return self._ranges[: min(SUBSETS, self._batches)]

    def _hook(self, index: int) -> Any:
        def note(_module: nn.Module, _inputs: tuple[Any, ...], output: Any) -> None:
            if not isinstance(output, Tensor) or output.numel() == 0:
                return
            least, greatest = torch.aminmax(output.detach())
            if not (least.isfinite() and greatest.isfinite()):  # such as -inf in a mask: no range holds it
                finite = output[output.isfinite()]
                if finite.numel() == 0:
                    return
                least, greatest = torch.aminmax(finite)
            entry = self._ranges[self._batches % SUBSETS, index]
            entry[0] = torch.fmin(entry[0], least)
            entry[1] = torch.fmax(entry[1], greatest)

        return note


def scale_spread(ranges: Tensor) -> float | None:
    """Median over the tensors of (greatest − least scale) / mean scale over disjoint subsets; None from fewer than two.

    Takes (subsets, tensors, 2); more than four subsets are taken as four. Scales are proportional to widths.
    """
    ranges = _reported(ranges)
    if ranges.shape[0] < 2:
        return None
    widths = _widths(ranges)
    mean = widths.mean(0)
    return _median((widths.amax(0) - widths.amin(0))[mean > 0] / mean[mean > 0])


def coverage(ranges: Tensor) -> float | None:
    """Median over the tensors of the width that half of the data finds / the width that all of it finds.

    Takes (subsets, tensors, 2); the halves are all that can be made of the subsets. None from fewer than two.
    """
    curve = growth_curve(ranges)
    return 1 / (1 + curve[-1][1]) if curve else None


def growth_curve(ranges: Tensor) -> list[tuple[float, float]]:
    """By which share ranges widen when the data doubles: (share of the data that is doubled, median growth), in order.

    From the mean width over every choice of 1, 2, 4 … of the subsets: far less noisy than what was seen after the
    first, second, … batch, and blind to the order of the data.
    """
    subsets = ranges.shape[0]
    widths = []
    size = 1
    while size <= subsets:
        chosen = [united(ranges[list(choice)]) for choice in itertools.combinations(range(subsets), size)]
        widths.append((size, torch.stack([_widths(each) for each in chosen]).mean(0)))
        size *= 2
    curve = []
    for (fewer, narrow), (_, wide) in itertools.pairwise(widths):
        ratio = _median((narrow / wide)[wide > 0])
        if ratio is None or ratio <= 0:
            return []
        curve.append((fewer / subsets, 1 / ratio - 1))
    return curve


def enough_samples(ranges: Tensor, samples: int, growth: float = ENOUGH_GROWTH) -> int | None:
    """How many samples would do, of which twice as many widen the median range by less than `growth`; None if unknown.

    Takes (subsets, tensors, 2) and how many samples they are of. Where a doubling that was seen is small enough, and
    all after it, the answer is what it started from; else growth is taken to go on falling as a power of the number.
    Never less than 32: of a dozen samples or fewer, ranges of transformers grew slowly and cost 2 to 8 dB all the same.

    Measured on six networks of the zoo, static, 4 to 512 samples: where SQNR had stopped rising, the last doubling
    widened ranges by 3 to 6 %, but for a small perceptron with 11 %; where it was 5 dB or more below, by 8 to 14 %.
    """
    curve = [(share * samples, grown) for share, grown in growth_curve(ranges)]
    for index, (fewer, _) in enumerate(curve):
        if all(later < growth for _, later in curve[index:]):
            return max(LEAST_SAMPLES, math.ceil(fewer))
    found = _extrapolated(curve, growth)
    return None if found is None else max(LEAST_SAMPLES, found)


def _extrapolated(curve: Sequence[tuple[float, float]], growth: float) -> int | None:
    """By least squares on `log g = a − b log n`, with b as it is for networks; None beyond what can be told."""
    known = [(math.log(samples), math.log(grown)) for samples, grown in curve if grown > 0]
    if len(known) < 2:
        return None
    mean_x = sum(x for x, _ in known) / len(known)
    mean_y = sum(y for _, y in known) / len(known)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in known) / sum((x - mean_x) ** 2 for x, _ in known)
    slope = min(_SLOWEST, max(_QUICKEST, slope))
    logarithm = mean_x + (math.log(growth) - mean_y) / slope
    seen = 2 * curve[-1][0]
    if logarithm > math.log(seen * _FURTHEST):
        return None
    return math.ceil(max(seen, math.exp(logarithm)))


def united(ranges: Tensor) -> Tensor:
    """(subsets, tensors, 2) to (tensors, 2): what all of them saw."""
    low, high = ranges[..., 0], ranges[..., 1]
    least = low.where(low.isfinite(), math.inf).amin(0)
    greatest = high.where(high.isfinite(), -math.inf).amax(0)
    found = torch.stack([least, greatest], -1)
    return found.where(found.isfinite(), math.nan)


def _reported(ranges: Tensor) -> Tensor:
    """(subsets, tensors, 2) with at most four subsets, of one or two each."""
    parts = min(REPORTED_SUBSETS, ranges.shape[0])
    return torch.stack([united(ranges[index::REPORTED_SUBSETS]) for index in range(parts)])


def _answers(observer: Any) -> tuple[Tensor, Tensor, str | None]:
    return observer.min_val.clone(), observer.max_val.clone(), getattr(observer, "rule", None)


def _answer(observer: Any, low: Tensor, high: Tensor, rule: str | None) -> None:
    observer.min_val.copy_(low)
    observer.max_val.copy_(high)
    if hasattr(observer, "rule"):  # ranging.py's can answer by others
        observer.rule = rule


def _is_activation_observer(name: str, module: nn.Module) -> bool:
    buffers = (getattr(module, "min_val", None), getattr(module, "max_val", None))
    per_tensor = all(isinstance(buffer, Tensor) and buffer.dim() == 0 for buffer in buffers)
    return per_tensor and "weight" not in name


def _nothing(*shape: int) -> Tensor:
    return torch.full((*shape, 2), math.nan)


def _widths(ranges: Tensor) -> Tensor:
    return ranges[..., 1].clamp(min=0) - ranges[..., 0].clamp(max=0)


def _median(values: Tensor) -> float | None:
    known = values[values.isfinite()]
    return float(known.median()) if known.numel() else None
