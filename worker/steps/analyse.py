"""Analyse: what every layer did, compared with the float model on the evaluation data, and what it costs the output.

describe      qparams, fusions, quant boundaries, graphs: what the int8 model is made of
trace         float and int8 side by side, batch by batch, for as long as the evaluation itself may allow
sensitivity   each layer alone in int8 and alone in float, the most telling first, within its own budget
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import fx

from shared.layer_report import Fusion, Graphs, Histogram, LayerSummary, Qparams, QuantBoundary, Sensitivity
from shared.quantization_spec import DynamicSpec, QatSpec, StaticSpec
from worker.datasets import batches
from worker.inference import padded_to
from worker.layer_facts import Bounds, LayerAccumulator, LayerFacts
from worker.progress import StepProgress
from worker.quantization import (
    OUTLIER_STRETCH,
    Description,
    DynamicModel,
    FloatKind,
    LayerTrace,
    Plan,
    describe,
    parked,
    per_channel_gain_db,
    simulate,
    weight_values,
)
from worker.steps.convert import Quantized
from worker.steps.evaluate import Yardstick
from worker.steps.load import LoadedModel
from worker.steps.sensitivity import MixedModel, measure_sensitivity

_BINS = 96
#: The trace may take this many times the evaluation; the rest of «twice» is for describing.
_SHARE_OF_EVALUATION = 1.6
_LEAST_SECONDS = 0.5  # of a quick evaluation: too little time to matter, and to measure less in
_LEAST_BATCHES = 8  # so that a small time budget still sees several
_STREAMS = 4  # what is live at once: the float model, the int8 model, int8 on float inputs, and what is made of them
_CLIPPING_FLAGGED = 0.001


@dataclass(frozen=True)
class Analysis:
    """What the report says of layers, and what findings are made from."""

    layers: list[LayerSummary]
    float_kinds: Mapping[str, FloatKind]
    """Of the layers in float: the kind of reason."""
    sensitivity: Sensitivity | None
    boundaries: list[QuantBoundary]
    fusions: list[Fusion]
    beyond_kernels: frozenset[tuple[str, ...]]
    """The layers of fusions that are none for want of a kernel."""
    graphs: Graphs
    histograms: list[Histogram]
    facts: Mapping[str, LayerFacts]
    """By layer; empty when layers were not to be compared."""
    per_channel_gains_db: Mapping[str, float]
    """Of layers whose weights have one scale: how much nearer to float a scale a channel would bring them."""
    samples: int
    """How many evaluation samples the layers were compared on: as many as the time allowed."""


def analyse(
    model: LoadedModel,
    prepared: fx.GraphModule | None,
    plan: Plan,
    int8: Quantized,
    yardstick: Yardstick,
    *,
    spec: DynamicSpec | StaticSpec | QatSpec,
    evaluation_seconds: float,
    advance: StepProgress,
) -> Analysis:
    """Explain an int8 model layer by layer; `prepared` is what it was converted from, None for dynamic quantization.

    The trace takes at most 1.6 times `evaluation_seconds` and one batch, the sensitivity what the spec gives it.
    Memory: the live activations of a batch of the evaluation, for the trace takes a quarter of it four times.
    """
    assert isinstance(int8.module, fx.GraphModule)
    advance(0, 1, "Describing the int8 model")
    one = padded_to(yardstick.samples.read(0, 1).inputs, model.batch.clamp(1))
    described = describe(model.raised, prepared, int8.module, plan, one)
    facts: dict[str, LayerFacts] = {}
    samples, sensitivity = 0, None
    mixed: MixedModel = DynamicModel(model.raised, int8.module) if prepared is None else simulate(prepared, plan)
    unneeded = [] if prepared is None else [model.raised]  # a simulation is float and int8 at once
    with parked(*unneeded, beside=[] if prepared is None else [prepared]):
        if spec.analysis.layers:
            budget = max(_LEAST_SECONDS, _SHARE_OF_EVALUATION * evaluation_seconds)
            facts, samples = _trace(model, mixed, described, yardstick, budget_seconds=budget, advance=advance)
        if spec.analysis.sensitivity_seconds > 0:
            units = _units(described.layers, described.absorbed, mixed.layers)
            order = sorted(units, key=lambda layer: _felt_sqnr_db(facts.get(layer)))
            sensitivity = measure_sensitivity(
                model,
                mixed,
                {layer: units[layer] for layer in order},
                yardstick,
                budget_seconds=spec.analysis.sensitivity_seconds,
                advance=advance,
            )
    layers = [_with_facts(layer, facts.get(layer.name)) for layer in described.layers]
    return Analysis(
        layers=layers,
        float_kinds=described.float_kinds,
        sensitivity=sensitivity,
        boundaries=described.boundaries,
        fusions=described.fusions,
        beyond_kernels=described.beyond_kernels,
        graphs=described.graphs,
        histograms=_histograms(layers, facts, sensitivity, int8.module, spec.analysis.histograms),
        facts=facts,
        per_channel_gains_db={
            layer.name: gain for layer in layers if (gain := per_channel_gain_db(int8.module, layer.name)) is not None
        },
        samples=samples,
    )


# --- the trace -------------------------------------------------------------------------------------------------------


def _trace(
    model: LoadedModel,
    mixed: MixedModel,
    described: Description,
    yardstick: Yardstick,
    *,
    budget_seconds: float,
    advance: StepProgress,
) -> tuple[dict[str, LayerFacts], int]:
    by_name = {layer.name: layer for layer in described.layers}
    accumulators: dict[str, LayerAccumulator] = {}

    def visit(trace: LayerTrace) -> None:
        layer = by_name.get(trace.layer)
        if layer is None:  # only gives its input another shape
            return
        if layer.name not in accumulators:
            accumulators[layer.name] = _accumulator(layer, described)
        accumulators[layer.name].update(trace)

    samples, count = yardstick.samples, yardstick.samples.count
    batch_size = model.batch.clamp(max(1, min(model.batch_size // _STREAMS, count // _LEAST_BATCHES)))
    began_at, done = time.perf_counter(), 0
    with torch.inference_mode():
        for batch in batches(samples, batch_size):
            mixed.trace(*padded_to(batch.inputs, model.batch.low), visit=visit)
            done += batch.size
            seconds = time.perf_counter() - began_at
            advance(max(done / count, min(1.0, seconds / budget_seconds)), 2, "Comparing layer by layer")
            if seconds > budget_seconds:
                break
    return {layer: accumulator.result() for layer, accumulator in accumulators.items()}, done


def _accumulator(layer: LayerSummary, described: Description) -> LayerAccumulator:
    output = next((_bounds(qparams) for qparams in layer.qparams if qparams.role == "output"), None)
    inputs = tuple(_bounds(qparams) for qparams in layer.qparams if qparams.role == "input")
    return LayerAccumulator(layer.op, output, inputs, described.through.get(layer.name))


def _bounds(qparams: Qparams) -> Bounds | None:
    """What kernels can hold: they clamp at the dtype's limits, and `reduce_range` only chooses the scale."""
    if qparams.scale is None:
        return None
    low, high = ((limit - qparams.zero_point) * qparams.scale for limit in (0, 255))
    return Bounds(low, high, qparams.scale, qparams.min, qparams.max)


def _units(
    layers: list[LayerSummary], absorbed: Mapping[str, str], movable: Collection[str]
) -> dict[str, frozenset[str]]:
    """What is moved between int8 and float as one: a layer with those that it computes in int8."""
    return {
        layer.name: frozenset({layer.name, *(gone for gone, by in absorbed.items() if by == layer.name)})
        for layer in layers
        if layer.name in movable and layer.precision != "float32"
    }


def _felt_sqnr_db(facts: LayerFacts | None) -> float:
    felt = None if facts is None else facts.felt_sqnr_db
    return math.inf if felt is None else felt


# --- into the report -------------------------------------------------------------------------------------------------


def _with_facts(layer: LayerSummary, facts: LayerFacts | None) -> LayerSummary:
    if facts is None:
        return layer
    inputs = iter(facts.inputs)
    qparams = []
    for tensor in layer.qparams:
        seen = facts.output if tensor.role == "output" else next(inputs, None) if tensor.role == "input" else None
        stretch = facts.stretch if tensor.role == "output" and tensor.stretch is None else tensor.stretch
        flags = list(tensor.flags)
        if seen is not None and seen.clipping is not None and seen.clipping.rate >= _CLIPPING_FLAGGED:
            flags.append("clips")
        if stretch is not None and stretch >= OUTLIER_STRETCH and "outliers" not in flags:
            flags.append("outliers")
        clipping = None if seen is None else seen.clipping
        qparams.append(tensor.model_copy(update={"clipping": clipping, "stretch": stretch, "flags": flags}))
    return layer.model_copy(update={"error": facts.error, "qparams": qparams})


def _histograms(
    layers: list[LayerSummary],
    facts: Mapping[str, LayerFacts],
    sensitivity: Sensitivity | None,
    quantized: fx.GraphModule,
    wanted: int | Literal["all"],
) -> list[Histogram]:
    """Of outputs and weights: the layers that cost the output most first, then those with the greatest own error."""
    ranked = {} if sensitivity is None else {entry.layer: -entry.gain_db for entry in sensitivity.layers}
    int8 = [layer for layer in layers if layer.precision == "int8"]
    order = sorted(int8, key=lambda layer: (ranked.get(layer.name, 0.0), _felt_sqnr_db(facts.get(layer.name))))
    found = []
    for layer in order if wanted == "all" else order[:wanted]:
        seen = facts.get(layer.name)
        output = next((qparams for qparams in layer.qparams if qparams.role == "output"), None)
        if seen is not None and seen.histogram is not None and output is not None:
            found.append(_histogram(layer.name, "output", seen.histogram, output))
        weight = next((qparams for qparams in layer.qparams if qparams.role == "weight"), None)
        values = weight_values(quantized, layer.name)
        if weight is not None and values is not None and weight.min is not None and weight.max is not None:
            counts = torch.histc(values.float(), _BINS, weight.min, weight.max)
            found.append(
                _histogram(layer.name, "weight", (weight.min, weight.max, tuple(int(n) for n in counts)), weight)
            )
    return found


def _histogram(
    layer: str,
    role: Literal["weight", "output"],
    values: tuple[float, float, tuple[int, ...]],
    qparams: Qparams,
) -> Histogram:
    low, high, counts = values
    scale = qparams.scale or 0.0
    if role == "weight" and qparams.channels is not None:  # the range that holds every channel's
        scale = qparams.channels.scale_max
    return Histogram(
        layer=layer,
        role=role,
        low=low,
        high=high,
        counts=_rebinned(counts, _BINS),
        range_min=(qparams.quant_min - qparams.zero_point) * scale,
        range_max=(qparams.quant_max - qparams.zero_point) * scale,
    )


def _rebinned(counts: tuple[int, ...], bins: int) -> list[int]:
    """The same counts in at most this many bins of equal width; a bin that lies in two is dealt out to both."""
    if len(counts) <= bins:
        return list(counts)
    cumulative = torch.cat([torch.zeros(1, dtype=torch.float64), torch.tensor(counts, dtype=torch.float64).cumsum(0)])
    edges = torch.linspace(0, len(counts), bins + 1, dtype=torch.float64)
    left = edges.floor().long().clamp(max=len(counts) - 1)
    at_edges = cumulative[left] + (edges - left) * torch.tensor(counts, dtype=torch.float64)[left]
    return [round(float(count)) for count in at_edges.diff()]
