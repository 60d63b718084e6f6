"""Sensitivity: what each layer costs the output, alone in int8 and alone in float.

Alone in int8 a layer shows its own cost, with nothing else to hide it; alone in float it shows what keeping it there
would gain. Both are measured by the simulation, so no model is converted, on the first samples of the evaluation data.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor

from shared.layer_report import LayerSensitivity, Sensitivity
from worker.closeness import Closeness
from worker.datasets import Batch, Samples
from worker.inference import run_model
from worker.numerics import MetricAccumulator, ModelFidelity
from worker.progress import StepProgress
from worker.quantization import LayerTrace
from worker.steps.evaluate import Yardstick
from worker.steps.load import LoadedModel

_MOST_SAMPLES = 256
_FEWEST_SAMPLES = 32  # of 8, an efficientnet gained 2.6 dB without a layer that all 500 gain nothing without
#: Of the budget: what runs over every layer may be expected to take, the rest is for what was misjudged.
_PLANNED = 0.8


class MixedModel(Protocol):
    """A model of which any layers can be in int8: a Simulation or a DynamicModel."""

    layers: tuple[str, ...]

    def run(self, *inputs: Tensor, int8: Collection[str] | None = None) -> tuple[Tensor, ...]:
        """The outputs with only these layers in int8; with None all."""

    def trace(self, *inputs: Tensor, visit: Callable[[LayerTrace], None]) -> None:
        """Run float and int8 side by side and show every int8 layer once, in order."""


def measure_sensitivity(
    model: LoadedModel,
    mixed: MixedModel,
    units: Mapping[str, Collection[str]],
    yardstick: Yardstick,
    *,
    budget_seconds: float,
    advance: StepProgress,
) -> Sensitivity:
    """Rank layers by what the output gains when they stay in float; the first of `units` are measured first.

    `units` maps a layer to the layers that move with it. As many samples are taken, of 32 to 256, as let every layer be
    reached in the budget; those it does not reach are named.
    """
    began_at = time.perf_counter()
    everything = frozenset(mixed.layers)
    trial = _Trial(model, mixed, yardstick, _sample_count(model, mixed, len(units), yardstick.samples, budget_seconds))
    base, base_metric = trial.measure(everything)
    found: list[LayerSensitivity] = []
    not_reached = list(units)
    layer_seconds = 0.0
    for layer, members in units.items():
        layer_began_at = time.perf_counter()
        if layer_began_at + layer_seconds - began_at > budget_seconds:
            break
        alone_int8, int8_metric = trial.measure(frozenset(members))
        alone_float, float_metric = trial.measure(everything - frozenset(members))
        found.append(
            LayerSensitivity(
                layer=layer,
                alone_int8_sqnr_db=alone_int8.reported_db,
                alone_float_sqnr_db=alone_float.reported_db,
                gain_db=alone_float.sqnr_db - base.sqnr_db,
                alone_int8_metric=int8_metric,
                alone_float_metric=float_metric,
            )
        )
        not_reached.remove(layer)
        layer_seconds = time.perf_counter() - layer_began_at
        advance(1 + len(found) / len(units), 2, f"Sensitivity: {len(found)} of {len(units)} layers")
    return Sensitivity(
        samples=trial.samples,
        base_sqnr_db=base.reported_db,
        base_metric=base_metric,
        budget_seconds=budget_seconds,
        seconds=time.perf_counter() - began_at,
        layers=sorted(found, key=lambda entry: entry.gain_db, reverse=True),
        not_reached=not_reached,
    )


class _Trial:
    """The float outputs of some samples, and what any mixture of int8 and float makes of them."""

    def __init__(self, model: LoadedModel, mixed: MixedModel, yardstick: Yardstick, samples: int) -> None:
        self.samples = samples
        self._model = model
        self._mixed = mixed
        self._yardstick = yardstick
        self._references = [self._run(batch, frozenset()) for batch in self._batches()]

    def measure(self, int8: Collection[str]) -> tuple[Closeness, float | None]:
        """How near the outputs are; and the metric, None without labels."""
        fidelity = ModelFidelity(self._model.outputs)
        metric = None if self._yardstick.metric is None else MetricAccumulator(self._yardstick.metric)
        for batch, reference in zip(self._batches(), self._references, strict=True):
            outputs = self._run(batch, int8)
            fidelity.update(reference, outputs)
            if metric is not None and batch.labels is not None:
                metric.update(outputs[0], batch.labels)
        return fidelity.closeness(), None if metric is None else metric.value()

    def _batches(self) -> Iterator[Batch]:
        size = _batch_size(self._model)
        for start in range(0, self.samples, size):
            yield self._yardstick.samples.read(start, min(start + size, self.samples))

    def _run(self, batch: Batch, int8: Collection[str]) -> list[Tensor]:
        with torch.inference_mode():
            return run_model(lambda *inputs: self._mixed.run(*inputs, int8=int8), batch.inputs, self._model.batch)


def _batch_size(model: LoadedModel) -> int:
    """Half of the usual one: beside the values of a layer lie their int8 ones."""
    return model.batch.clamp(max(1, model.batch_size // 2))


def _sample_count(model: LoadedModel, mixed: MixedModel, layers: int, samples: Samples, budget_seconds: float) -> int:
    """How many samples let two runs for each layer fit into the budget, by the time that a batch takes."""
    few, size = min(_FEWEST_SAMPLES, samples.count), min(_batch_size(model), samples.count)
    inputs = samples.read(0, size).inputs
    taken = []
    for _ in range(2):  # the first warms up
        began_at = time.perf_counter()
        with torch.inference_mode():
            run_model(mixed.run, inputs, model.batch)
        taken.append(time.perf_counter() - began_at)
    affordable = int(_PLANNED * budget_seconds / (2 * max(1, layers) * max(1e-9, taken[-1])))
    return min(samples.count, max(few, min(_MOST_SAMPLES, affordable * size)))
