"""What one layer was seen to do on the evaluation data, batch by batch in constant memory.

error       float against int8 at its output: made in the layer, arriving at it, both together
ranges      what its output reached, what the quantized range cuts off, what calibration had never seen
channels    whether one of them stretches the range that all share, and what mean error each has
histogram   how the values are spread
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from shared.layer_report import Clipping, LayerError
from worker.numerics import ErrorAccumulator
from worker.quantization import LayerTrace, stretch_of

_BINS = 2048
_SAMPLED = 1 << 14  # values a batch that histograms are made of: they cost more than all else
_LAST_AXIS_OPS = frozenset({"Linear", "LayerNorm", "Embedding", "EmbeddingBag", "LSTM", "GRU", "gelu", "GELU"})


@dataclass(frozen=True)
class Seen:
    """A tensor's values on the evaluation data, against its quantized range and what calibration saw."""

    min: float
    max: float
    clipping: Clipping | None  #: None without a quantized range
    outside_calibration: float | None  #: share of the values outside of what calibration saw; None if it saw nothing
    widest_channel: int
    channel_ratio: float  #: the greatest magnitude in that channel / in the median channel

    @property
    def is_constant(self) -> bool:
        """Whether it is one value."""
        return self.min == self.max


@dataclass(frozen=True)
class LayerFacts:
    """What was measured of a layer."""

    error: LayerError
    output: Seen
    inputs: tuple[Seen, ...]  #: of the tensors that are quantized for it, in the order of its qparams
    stretch: float | None
    felt_sqnr_db: float | None  #: of the error made in it, as those who read it see it; see `_FeltError`
    cut_off_share: float  #: of the energy of the error made in it, what clipping its output makes up, both as felt
    mean_error_share: float  #: of the energy of the error made in the layer, what a constant a channel makes up
    histogram: tuple[float, float, tuple[int, ...]] | None  #: low, high, counts


@dataclass(frozen=True)
class Bounds:
    """What a tensor is held against: the quantized range, and the values that calibration saw."""

    low: float
    high: float
    step: float
    least: float | None
    greatest: float | None


class LayerAccumulator:
    """Takes the batches of one layer."""

    def __init__(
        self,
        op: str,
        output: Bounds | None,
        inputs: tuple[Bounds | None, ...],
        through: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """`through` is the activation that alone reads its output."""
        self._op = op
        self._felt = _FeltError(through, output)
        self._own = ErrorAccumulator()
        self._total = ErrorAccumulator()
        self._arriving: list[ErrorAccumulator] = []
        self._output = _RangeAccumulator(output)
        self._inputs = [_RangeAccumulator(bounds) for bounds in inputs]
        self._mean_errors = _MeanErrors()
        self._histogram: _Histogram | None = None

    def update(self, trace: LayerTrace) -> None:
        """Add a batch; what is not finite, such as a mask's -inf, has no range and no error, and counts as 0."""
        trace = _finite(trace)
        self._own.update(trace.reference, trace.own)
        self._total.update(trace.reference, trace.total)
        while len(self._arriving) < len(trace.arriving):
            self._arriving.append(ErrorAccumulator())
        for accumulator, (reference, found) in zip(self._arriving, trace.arriving, strict=False):
            accumulator.update(reference, found)
        axis = -1 if self._op in _LAST_AXIS_OPS else 1
        self._output.update(trace.reference, axis)
        if len(trace.arriving) == len(self._inputs):
            for ranges, (reference, _) in zip(self._inputs, trace.arriving, strict=True):
                ranges.update(reference, axis)
        self._mean_errors.update(trace.reference, trace.own, axis)
        self._felt.update(trace.reference, trace.own, axis)
        if self._histogram is None:
            self._histogram = _Histogram(trace.reference, trace.quantizer.range if trace.quantizer else None)
        self._histogram.update(trace.reference)

    def result(self) -> LayerFacts:
        """The figures over every batch added so far."""
        arriving = [a.sqnr_db for a in self._arriving if a.sqnr_db is not None]
        output = self._output.result()
        histogram = self._histogram
        return LayerFacts(
            error=LayerError(
                own_sqnr_db=self._own.sqnr_db,
                arriving_sqnr_db=min(arriving, default=None),
                sqnr_db=self._total.sqnr_db,
                cosine=self._total.cosine,
                mse=self._total.mse,
            ),
            output=output,
            inputs=tuple(ranges.result() for ranges in self._inputs if ranges.count),
            stretch=None if histogram is None else histogram.stretch(output.min, output.max),
            felt_sqnr_db=self._felt.sqnr_db,
            cut_off_share=self._felt.cut_off_share,
            mean_error_share=self._mean_errors.share_of(self._own.noise),
            histogram=None if histogram is None else histogram.within(output.min, output.max),
        )


def _finite(trace: LayerTrace) -> LayerTrace:
    """With 0 wherever one of the tensors that belong together is not finite."""
    reference, total, own = _zero_where_infinite(trace.reference, trace.total, trace.own)
    arriving = [_zero_where_infinite(*pair) for pair in trace.arriving]
    return replace(
        trace,
        reference=reference,
        total=total,
        own=own,
        arriving=tuple((of_float, found) for of_float, found in arriving),
    )


def _zero_where_infinite(*tensors: Tensor) -> list[Tensor]:
    if all(math.isfinite(float(tensor.sum())) for tensor in tensors):  # a sum tells, and is quick
        return list(tensors)
    finite = functools.reduce(torch.logical_and, (tensor.isfinite() for tensor in tensors))
    return [tensor.where(finite, 0.0) for tensor in tensors]


@dataclass
class _RangeAccumulator:
    bounds: Bounds | None
    least: float = math.inf
    greatest: float = -math.inf
    below: int = 0
    above: int = 0
    unseen: int = 0
    count: int = 0
    channels: Tensor = field(default_factory=lambda: torch.zeros(0))  #: the greatest magnitude in each

    def update(self, values: Tensor, axis: int) -> None:
        if values.numel() == 0 or not values.is_floating_point():
            return
        lows, highs = _by_channel(values, axis, torch.amin), _by_channel(values, axis, torch.amax)
        magnitudes = torch.maximum(-lows, highs)
        if self.channels.shape != magnitudes.shape:  # the first batch, or an axis that varies: start anew
            self.channels = torch.zeros_like(magnitudes)
        self.channels = torch.maximum(self.channels, magnitudes)
        least, greatest = float(lows.min()), float(highs.max())
        self.least, self.greatest = min(self.least, least), max(self.greatest, greatest)
        self.count += values.numel()
        bounds = self.bounds
        if bounds is None:
            return
        half = bounds.step / 2  # as far beyond the range rounding is no worse than inside of it
        if least < bounds.low - half:
            self.below += int(torch.count_nonzero(values < bounds.low - half))
        if greatest > bounds.high + half:
            self.above += int(torch.count_nonzero(values > bounds.high + half))
        if bounds.least is not None and bounds.greatest is not None:
            if least < bounds.least - half:
                self.unseen += int(torch.count_nonzero(values < bounds.least - half))
            if greatest > bounds.greatest + half:
                self.unseen += int(torch.count_nonzero(values > bounds.greatest + half))

    def result(self) -> Seen:
        clipping = outside = None
        if self.bounds is not None and self.count:
            below, above = self.below / self.count, self.above / self.count
            clipping = Clipping(rate=below + above, below=below, above=above)
            outside = None if self.bounds.least is None else self.unseen / self.count
        alive = self.channels[self.channels > 0]  # a channel that gives nothing tells nothing of the others
        return Seen(
            min=self.least,
            max=self.greatest,
            clipping=clipping,
            outside_calibration=outside,
            widest_channel=int(self.channels.argmax()) if alive.numel() else 0,
            channel_ratio=float(alive.max() / alive.median()) if alive.numel() else 1.0,
        )


@dataclass
class _MeanErrors:
    """The mean of the error made in the layer, channel by channel."""

    sums: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    rows: int = 0  #: values a channel

    def update(self, reference: Tensor, own: Tensor, axis: int) -> None:
        sums = (_by_channel(own, axis, torch.sum) - _by_channel(reference, axis, torch.sum)).to(torch.float64)
        if self.sums.shape != sums.shape:
            self.sums, self.rows = torch.zeros_like(sums), 0
        self.sums = self.sums + sums
        self.rows += reference.numel() // max(1, sums.numel())

    def share_of(self, noise: float) -> float:
        """What these means make up of the energy of all error: `rows · Σ mean² / noise`."""
        if not self.rows or noise <= 0:
            return 0.0
        return min(1.0, float((self.sums / self.rows).square().sum()) * self.rows / noise)


class _FeltError:
    """The error made in a layer as its readers see it: behind an activation, every channel by its own measure.

    A range may cut off what SiLU makes next to zero of anyway; and a channel a hundred times as large as the others
    hides in the SQNR of the whole that nothing is left of them. So it is the mean over the channels of noise / signal,
    at most 1 each, of what the activation gives. Likewise what clipping to `bounds` makes up of the noise.
    """

    def __init__(self, through: Callable[[Tensor], Tensor] | None, bounds: Bounds | None) -> None:
        self._through = through
        self._bounds = bounds
        self._signal = self._noise = torch.zeros(0)
        self._cut_off = self._energy = 0.0

    def update(self, reference: Tensor, own: Tensor, axis: int) -> None:
        clipped = self._clipped(reference)
        if self._through is not None:
            reference, own = self._through(reference), self._through(own)
            clipped = None if clipped is None else self._through(clipped)
        if clipped is not None:
            self._cut_off += float((clipped - reference).square_().sum())
        signal = _by_channel(reference.square(), axis, torch.sum)
        noise = _by_channel((own - reference).square_(), axis, torch.sum)
        if self._signal.shape != signal.shape:
            self._signal, self._noise = torch.zeros_like(signal), torch.zeros_like(noise)
        self._signal, self._noise = self._signal + signal, self._noise + noise
        self._energy += float(noise.sum())

    def _clipped(self, reference: Tensor) -> Tensor | None:
        """The tensor within the quantized range; None where that changes nothing."""
        bounds = self._bounds
        if bounds is None or reference.numel() == 0 or not reference.is_floating_point():
            return None
        least, greatest = (float(end) for end in torch.aminmax(reference))
        return reference.clamp(bounds.low, bounds.high) if least < bounds.low or greatest > bounds.high else None

    @property
    def cut_off_share(self) -> float:
        """Of the energy of the noise, what lies beyond the range."""
        return min(1.0, self._cut_off / self._energy) if self._energy > 0 else 0.0

    @property
    def sqnr_db(self) -> float | None:
        """In dB; None without any noise."""
        alive = self._signal > 0
        shares = (self._noise[alive] / self._signal[alive]).clamp(max=1.0)
        mean = float(shares.mean()) if shares.numel() else 0.0
        return -10 * math.log10(mean) if mean > 0 else None


def _by_channel(values: Tensor, axis: int, reduce: Callable[..., Tensor]) -> Tensor:
    """A value a channel; tensors without samples have one channel."""
    if values.ndim < 2:
        return reduce(values).reshape(1)
    axis %= values.ndim
    return reduce(values, dim=[dim for dim in range(values.ndim) if dim != axis])


class _Histogram:
    """Counts over a range that the first batch and the quantized range set; what lies beyond is left out."""

    def __init__(self, first: Tensor, quantized: tuple[float, float] | None) -> None:
        least, greatest = (float(end) for end in torch.aminmax(first))
        room = (greatest - least) / 4
        low, high = quantized or (least, greatest)
        widest = torch.finfo(torch.float32).max / 2  # `histc` computes the width in float32
        self.low, self.high = max(min(low, least - room), -widest), min(max(high, greatest + room), widest)
        self.counts = torch.zeros(_BINS)

    def update(self, values: Tensor) -> None:
        flat = values.detach().reshape(-1)
        sampled = flat[:: max(1, flat.numel() // _SAMPLED)]
        if self.high > self.low:
            self.counts += torch.histc(sampled.float(), _BINS, self.low, self.high)

    def stretch(self, least: float, greatest: float) -> float | None:
        return stretch_of(self.counts, self.low, self.high, least, greatest)

    def within(self, least: float, greatest: float) -> tuple[float, float, tuple[int, ...]] | None:
        """The part that holds the values: low, high and the counts there."""
        if not self.high > self.low or not least <= greatest:
            return None
        width = (self.high - self.low) / _BINS
        first = max(0, min(_BINS - 1, int((least - self.low) / width)))
        last = max(first, min(_BINS - 1, int((greatest - self.low) / width)))
        counts = tuple(int(count) for count in self.counts[first : last + 1])
        return self.low + first * width, self.low + (last + 1) * width, counts
