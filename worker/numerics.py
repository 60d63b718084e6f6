"""How near one model's outputs are to another's, and to the labels: accumulated over batches in constant memory.

Every sum is kept in float64. Formulas stand in the docstring of the accumulator that uses them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from shared.job_report import OutputFidelity
from worker.closeness import SQNR_LIMIT_DB, Closeness, closeness

MetricName = Literal["top1", "top5", "mse"]

_ELEMENTS_AT_ONCE = 1 << 20
_LEAST_SAMPLES, _DRAWS = 8, 1000
_NEGLIGIBLE_NOISE, _BROKEN_NOISE = 1e-8, 10 ** (SQNR_LIMIT_DB / 10)


class ModelFidelity:
    """Fidelity of all outputs of a model."""

    def __init__(self, outputs: Sequence[str]) -> None:
        self._outputs = [FidelityAccumulator(name) for name in outputs]

    def update(self, references: Sequence[Tensor], candidates: Sequence[Tensor]) -> list[Tensor]:
        """Add a batch: the float and the int8 model's outputs, in order; the relative noise of each is returned."""
        return [
            output.update(reference, candidate)
            for output, reference, candidate in zip(self._outputs, references, candidates, strict=True)
        ]

    def results(self) -> list[OutputFidelity]:
        """One entry an output, in order."""
        return [output.result() for output in self._outputs]

    def closeness(self) -> Closeness:
        """What the outputs make together."""
        return closeness(self.results())


class FidelityAccumulator:
    """Fidelity of one output: SQNR, cosine similarity and agreement of arg max; of a discrete one the last alone.

    With `f` the float and `q` the int8 output:

    - `SQNR = 20·log10(‖f‖₂ / ‖f − q‖₂)` dB over all elements of all samples; None when the two are equal;
    - `cosine = mean over samples of f·q / (‖f‖₂ ‖q‖₂)`; two zero vectors count as 1, one zero vector as 0;
    - `agreement = share of samples with arg max f = arg max q`, for outputs of shape (samples, classes ≥ 2);
      for integers and booleans the share of elements with f = q.

    Elements that are the same non-finite value in both (a masked −inf) are left out; any other non-finite element
    makes the output as far off as can be reported. Samples of which some element of f is not finite are counted, and
    those of them where q is not so in the same places.
    """

    def __init__(self, output: str) -> None:
        self._output = output
        self._signal = 0.0
        self._noise = 0.0
        self._broken = False
        self._nan = False
        self._not_finite = 0
        self._elsewhere = 0
        self._cosine_sum = 0.0
        self._agreeing = 0
        self._chosen = 0
        self._samples = 0
        self._has_classes = True
        self._discrete = False

    def update(self, reference: Tensor, candidate: Tensor) -> Tensor:
        """Add a batch; both tensors have shape (samples, …).

        Returns `‖f − q‖² / ‖f‖²` of each sample, shape (samples,), float64, over the elements that are finite in f: 0
        for discrete outputs and where f is zero, and as much as counts as broken where q is not finite there.
        """
        self._discrete = not (reference.is_floating_point() or reference.is_complex())
        self._has_classes &= reference.ndim == 2 and reference.shape[1] >= 2 and reference.is_floating_point()
        if self._discrete:
            self._add_choices(reference, candidate)
            return torch.zeros(len(_sample_rows(reference)), dtype=torch.float64)
        if self._has_classes:
            self._add_choices(reference.argmax(1), candidate.argmax(1))
        references, candidates = _sample_rows(reference), _sample_rows(candidate)
        # A few samples at a time: a batch of dense outputs in float64 can be larger than the model.
        at_once = max(1, _ELEMENTS_AT_ONCE // max(1, references.shape[1]))
        pieces = zip(torch.split(references, at_once), torch.split(candidates, at_once), strict=True)
        noise = [self._add(f.to(torch.float64), q.to(torch.float64)) for f, q in pieces]
        self._samples += references.shape[0]
        return torch.cat(noise)

    def _add_choices(self, f: Tensor, q: Tensor) -> None:
        self._agreeing += int((f == q).sum())
        self._chosen += f.numel()

    def _add(self, f: Tensor, q: Tensor) -> Tensor:
        finite = f.isfinite() & q.isfinite()
        broken = torch.zeros(len(f), dtype=torch.bool)
        if not finite.all():
            differing = ~((f == q) | (f.isnan() & q.isnan()) | finite).all(1)
            self._broken |= bool(differing.any())
            self._nan |= bool(f.isnan().any())
            lacking = ~f.isfinite().all(1)
            self._not_finite += int(lacking.sum())
            self._elsewhere += int((lacking & differing).sum())
            broken = (f.isfinite() & ~q.isfinite()).any(1)
            f = f.where(finite, 0.0)
            q = q.where(finite, 0.0)
        signal, noise = f.square().sum(1), (f - q).square().sum(1)
        self._signal += float(signal.sum())
        self._noise += float(noise.sum())
        self._cosine_sum += float(_cosine(f, q).sum())
        return (noise / signal).where(signal > 0, 0.0).where(~broken, _BROKEN_NOISE)

    @property
    def sqnr_db(self) -> float | None:
        """SQNR in dB; None when the two are equal, or discrete."""
        return -SQNR_LIMIT_DB if self._broken else _sqnr_db(self._signal, self._noise)

    def result(self) -> OutputFidelity:
        """The figures over every batch added so far."""
        agreement = self._agreeing / self._chosen if self._chosen else 1.0
        return OutputFidelity(
            output=self._output,
            discrete=self._discrete,
            sqnr_db=self.sqnr_db,
            cosine=None if self._discrete else self._cosine_sum / self._samples,
            agreement=agreement if self._discrete or self._has_classes else None,
            float_not_finite=self._of_samples(self._not_finite),
            float_is_nan=self._nan,
            not_finite_elsewhere=self._of_samples(self._elsewhere),
        )

    def _of_samples(self, count: int) -> float:
        return count / self._samples if self._samples else 0.0


class ErrorAccumulator:
    """Float against int8 of one tensor inside the model, with no regard to samples.

    With `f` the float and `q` the int8 tensor, over all elements seen:

    - `SQNR = 20·log10(‖f‖₂ / ‖f − q‖₂)` dB; None when the two are equal;
    - `cosine = f·q / (‖f‖₂ ‖q‖₂)`; two zero tensors count as 1, one zero tensor as 0;
    - `mse = mean (f − q)²`.

    A quarter of a million elements at a time are summed in float32, which is off by some 1e-6, and those sums in
    float64: a tensor in the middle of a network has millions of elements, and nobody reads its SQNR to 0.001 dB.
    Elements that are not finite in either are left out.
    """

    def __init__(self) -> None:
        self.signal = 0.0
        self.noise = 0.0
        self._product = 0.0
        self._energy = 0.0
        self._count = 0

    def update(self, reference: Tensor, candidate: Tensor) -> None:
        """Add a batch of both tensors, of the same shape."""
        pieces = zip(
            *(torch.split(t.detach().reshape(-1), _ELEMENTS_AT_ONCE // 4) for t in (reference, candidate)), strict=True
        )
        for f, q in pieces:
            self._add(f, q)

    def _add(self, f: Tensor, q: Tensor) -> None:
        difference = f - q
        noise = float(torch.dot(difference, difference))
        if not math.isfinite(noise):
            finite = difference.isfinite()
            f, q, difference = f[finite], q[finite], difference[finite]
            noise = float(torch.dot(difference, difference))
        self.noise += noise
        self.signal += float(torch.dot(f, f))
        self._energy += float(torch.dot(q, q))
        self._product += float(torch.dot(f, q))
        self._count += f.numel()

    @property
    def sqnr_db(self) -> float | None:
        """SQNR in dB; None when the two are equal."""
        return _sqnr_db(self.signal, self.noise)

    @property
    def cosine(self) -> float:
        """Cosine similarity."""
        if self.signal == 0 or self._energy == 0:
            return float(self.signal == self._energy)
        return max(-1.0, min(1.0, self._product / math.sqrt(self.signal * self._energy)))

    @property
    def mse(self) -> float:
        """Mean squared error."""
        return self.noise / max(1, self._count)


class MetricAccumulator:
    """A metric against labels.

    - `top1`, `top5`: share of samples of which the label is among the k highest outputs (samples, classes); ties are
      broken as `torch.topk` breaks them, so top1 is the share with `arg max = label`;
    - `mse`: mean over all elements of `(output − label)²`; the labels are reshaped to the output.
    """

    def __init__(self, name: MetricName) -> None:
        self.name = name
        self._sum = 0.0
        self._count = 0

    def update(self, output: Tensor, labels: Tensor) -> None:
        """Add a batch: output (samples, …), labels (samples,) of class indices or as many values as the output."""
        if self.name == "mse":
            error = output.to(torch.float64) - labels.to(torch.float64).reshape(output.shape)
            self._sum += float(error.square().sum())
            self._count += error.numel()
            return
        best = output.argmax(1, keepdim=True) if self.name == "top1" else output.topk(5, dim=1).indices
        self._sum += int((best == labels.reshape(-1, 1)).any(dim=1).sum())
        self._count += labels.numel()

    def value(self) -> float:
        """The metric over every batch added so far."""
        return self._sum / self._count


class LabelVariance:
    """The variance of labels about the mean of each value: `mean (label − mean over samples)²`, over all values.

    Batches are joined as by Chan, Golub and LeVeque 1979.
    """

    def __init__(self) -> None:
        self._samples = 0
        self._mean = torch.zeros((), dtype=torch.float64)
        self._squares = 0.0

    def update(self, labels: Tensor) -> None:
        """Add a batch of shape (samples, …)."""
        values, count = labels.to(torch.float64), labels.shape[0]
        mean = values.mean(0)
        apart, total = mean - self._mean, self._samples + count
        between = apart.square().sum() * self._samples * count / total
        self._squares += float((values - mean).square().sum() + between)
        self._mean = self._mean + apart * count / total
        self._samples = total

    def value(self) -> float:
        """Over every batch added so far."""
        return self._squares / (self._samples * self._mean.numel())


def sqnr_db(reference: Tensor, candidate: Tensor) -> float | None:
    """`20·log10(‖reference‖ / ‖reference − candidate‖)` dB of two tensors, as numbers; None when they are equal."""
    fidelity = FidelityAccumulator("")
    fidelity.update(*(each if each.is_floating_point() else each.double() for each in (reference, candidate)))
    return fidelity.sqnr_db


def surely_lost_db(noise: Sequence[Tensor], reference: Sequence[Tensor]) -> float:
    """By how many dB the first model's outputs are at least noisier than the second's, on samples like these.

    Both are relative noise powers of each output, as `ModelFidelity.update` returns them. The loss is
    `10·log10(mean noise / mean reference)`; the same rounding falls out otherwise in any two models, so told is the
    lower end of its one-sided 99 % interval when samples are drawn anew, both models' together (paired percentile
    bootstrap, Efron and Tibshirani 1993), of the output where it is greatest. 0 with fewer than eight samples, of which
    nothing can be said. Noise 80 dB below the signal is added to both: what lies below it matters to nobody. Samples on
    which the second model is not finite where it should be are left out: they say nothing of the first.
    """
    return max((_surely_lost_db(*pair) for pair in zip(noise, reference, strict=True)), default=0.0)


def _surely_lost_db(noise: Tensor, reference: Tensor) -> float:
    if len(noise) != len(reference):
        return 0.0
    right = reference < _BROKEN_NOISE
    noise, reference = noise[right], reference[right]
    if len(noise) < _LEAST_SAMPLES:
        return 0.0
    drawn = torch.randint(len(noise), (_DRAWS, len(noise)), generator=torch.Generator().manual_seed(0))
    lost = (noise[drawn].mean(1) + _NEGLIGIBLE_NOISE) / (reference[drawn].mean(1) + _NEGLIGIBLE_NOISE)
    return float(10 * lost.quantile(0.01).log10())


def accuracy_drop(name: MetricName, float_value: float, int8_value: float) -> float:
    """Absolute drop, positive is worse: float − int8, and int8 − float for mse, of which less is better."""
    return int8_value - float_value if name == "mse" else float_value - int8_value


def _sqnr_db(signal: float, noise: float) -> float | None:
    """Of sums of squares, within the limits; None without noise."""
    if noise == 0:
        return None
    if signal == 0:
        return -SQNR_LIMIT_DB
    return max(-SQNR_LIMIT_DB, min(SQNR_LIMIT_DB, 10 * math.log10(signal / noise)))


def _sample_rows(tensor: Tensor) -> Tensor:
    rows = tensor.detach()
    return rows.reshape(1, 1) if rows.ndim == 0 else rows.reshape(rows.shape[0], -1)


def _cosine(f: Tensor, q: Tensor) -> Tensor:
    f_norm = f.norm(dim=1)
    q_norm = q.norm(dim=1)
    cosine: Tensor = (f * q).sum(1) / (f_norm * q_norm)
    both_zero = ((f_norm == 0) & (q_norm == 0)).to(torch.float64)
    return torch.where((f_norm > 0) & (q_norm > 0), cosine, both_zero)
