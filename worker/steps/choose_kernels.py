"""Choose kernels: of those that compute what they should, the fastest on this CPU.

The ranges that calibration found, and so every int8 weight and scale, are the same for all kernels. But `x86` and
`fbgemm` add up pairs of products in 16 bits on some paths and saturate where `onednn` does not: of a trained
mobilenet_v2 they left 11 and 2 dB of 23. So every layer is recomputed on real samples from the integers that went into
it: kernels of which a layer is off by more than rounding are not offered. Of the others the fastest is taken, if it is
clearly faster than the plan's own. How near the whole output is, beside the simulation's, stands in the report.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, fx

from shared.errors import KernelsSaturate
from shared.job_report import KernelTrial
from shared.quantization_spec import DynamicSpec
from worker.datasets import Samples, batches
from worker.inference import Model, padded_to, run_model
from worker.latency import computing_with
from worker.numerics import FidelityAccumulator
from worker.quantization import Plan, convert, departing_layers, simulate, use_kernels_of
from worker.steps.convert import Quantized, freeze_quantized, never_called
from worker.steps.load import LoadedModel

_KERNELS = ("onednn", "x86", "fbgemm")
_REFERENCE = "reference"
_MIN_GAIN = 1.05
_CHECKED_BATCHES = 2
_TRIAL_SECONDS = 0.5
_WARM_UP = 3
_MIN_ROUNDS, _MAX_ROUNDS = 5, 100


def convert_for_this_cpu(
    model: LoadedModel, prepared: fx.GraphModule, plan: Plan, samples: Samples, example: tuple[Tensor, ...]
) -> tuple[Plan, Quantized, list[KernelTrial]]:
    """The int8 model with the kernels that the spec names, or with the fastest right ones where it says `auto`.

    The plan returned names the kernels; they stay selected for this process. Raises KernelsSaturate when none of those
    that may be used computes what the simulation does.
    """
    names = [plan.qengine]
    if not isinstance(plan.spec, DynamicSpec) and plan.spec.qengine == "auto":
        names += [name for name in _KERNELS if name not in names and name in torch.backends.quantized.supported_engines]
    converted = {name: freeze_quantized(convert(prepared, replace(plan, qengine=name)), example) for name in names}
    simulation = simulate(prepared, plan)
    outputs_of: dict[str, Model] = {name: int8.frozen for name, int8 in converted.items()}
    closeness_db = _closeness_db(model, outputs_of | {_REFERENCE: simulation.run}, samples)
    reference_db = closeness_db.pop(_REFERENCE)
    some = padded_to(samples.read(0, min(model.batch_size, samples.count)).inputs, model.batch.low)
    departing = {name: _departing(converted[name], name, some) for name in names}
    right = [name for name, layers in departing.items() if not layers]
    if not right:
        raise KernelsSaturate(_told(departing))
    medians_ms = (
        _medians_ms(model, {name: converted[name].frozen for name in right}, samples, plan.spec.benchmark.threads[0])
        if len(right) > 1
        else {}
    )
    fastest = min(right, key=lambda name: medians_ms.get(name, 0.0))
    if plan.qengine in right and medians_ms and medians_ms[plan.qengine] < _MIN_GAIN * medians_ms[fastest]:
        fastest = plan.qengine
    trials = [
        KernelTrial(
            qengine=name,
            sqnr_db=_reportable(db),
            reference_sqnr_db=_reportable(reference_db),
            latency_ms=medians_ms.get(name),
            saturates=name not in right,
            chosen=name == fastest,
            layers=departing[name],
        )
        for name, db in closeness_db.items()
    ]
    settled = replace(plan, qengine=fastest)
    use_kernels_of(settled)
    return settled, converted[fastest], trials


def _departing(int8: Quantized, qengine: str, inputs: tuple[Tensor, ...]) -> list[str]:
    assert isinstance(int8.module, fx.GraphModule)
    torch.backends.quantized.engine = qengine
    return departing_layers(int8.module, *inputs)


def _told(departing: Mapping[str, list[str]]) -> str:
    found = "; ".join(
        f"{name} in {len(layers)} layers, first {layers[0]}" for name, layers in departing.items() if layers
    )
    return f"The int8 kernels do not compute what they should on this CPU, their sums saturate: {found}."


def _closeness_db(model: LoadedModel, candidates: Mapping[str, Model], samples: Samples) -> dict[str, float]:
    """SQNR of each candidate's worst output against the float model's, on the first batches of real samples."""
    fidelity = {name: [FidelityAccumulator(output) for output in model.outputs] for name in candidates}
    with torch.inference_mode():
        for batch in itertools.islice(batches(samples, model.batch_size), _CHECKED_BATCHES):
            wanted = run_model(model.raised, batch.inputs, model.batch)
            for name, candidate in candidates.items():
                found = run_model(candidate, batch.inputs, model.batch)
                for accumulator, reference, output in zip(fidelity[name], wanted, found, strict=True):
                    accumulator.update(reference, output)
    return {name: min(_finite(each.sqnr_db) for each in accumulators) for name, accumulators in fidelity.items()}


def _reportable(sqnr_db: float) -> float | None:
    return None if math.isinf(sqnr_db) else sqnr_db


def _finite(sqnr_db: float | None) -> float:
    return float("inf") if sqnr_db is None else sqnr_db


def _medians_ms(
    model: LoadedModel, candidates: Mapping[str, torch.jit.ScriptModule], samples: Samples, threads_measured: int
) -> dict[str, float]:
    """Median latency of each candidate at the smallest batch, taken in turn for half a second."""
    inputs = padded_to(samples.read(0, 1).inputs, model.batch.clamp(1))
    taken: dict[str, list[float]] = {name: [] for name in candidates}
    fresh: dict[str, Model] = {}
    for name, candidate in candidates.items():
        torch.backends.quantized.engine = name  # weights are packed for the kernels when the copy is loaded
        fresh[name] = never_called(candidate)
    deadline = time.perf_counter() + _TRIAL_SECONDS
    with torch.inference_mode(), computing_with(threads_measured):
        for run in fresh.values():
            for _ in range(_WARM_UP):
                run(*inputs)
        for round_ in range(_MAX_ROUNDS):
            if round_ >= _MIN_ROUNDS and time.perf_counter() > deadline:
                break
            for name, run in fresh.items():
                began_at = time.perf_counter()
                run(*inputs)
                taken[name].append((time.perf_counter() - began_at) * 1e3)
    return {name: statistics.median(times) for name, times in taken.items()}
