"""Choose kernels: of those that compute what they should, the fastest on this CPU.

The ranges that calibration found, and so every int8 weight and scale, are the same for all kernels. But `x86` and
`fbgemm` add up pairs of products in 16 bits on some paths and saturate where `onednn` does not: of a trained
mobilenet_v2 they left 11 and 2 dB of 23. So every layer is recomputed on real samples from the integers that went into
it: kernels of which a layer is off by more than rounding are not offered, nor those that leave the whole output more
than 1 dB further from float than int8 computed in float is, by more than chance. Of the others the fastest is taken, if
it is clearly faster than the plan's own.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, fx

from shared.errors import KernelsSaturate, ModelUnsupported
from shared.job_report import KernelTrial
from shared.quantization_spec import DynamicSpec
from worker.closeness import Closeness
from worker.datasets import Samples
from worker.inference import Model, padded_to
from worker.latency import computing_with
from worker.numerics import surely_lost_db
from worker.quantization import Plan, collect_garbage, convert, departing_layers, parked, simulate, use_kernels_of
from worker.steps.convert import Quantized, freeze_quantized
from worker.steps.float_reference import FloatReference
from worker.steps.load import LoadedModel

_KERNELS = ("onednn", "x86", "fbgemm")
MIN_GAIN = 1.05
MAX_LOST_DB = 1.0
_TRIAL_SECONDS = 0.5
_WARM_UP = 3
_MIN_ROUNDS, _MAX_ROUNDS = 5, 100


@dataclass(frozen=True)
class Converted:
    """An int8 model, the plan with its kernels, and what was tried."""

    plan: Plan
    int8: Quantized
    kernels: list[KernelTrial]


def convert_for_this_cpu(
    model: LoadedModel,
    prepared: fx.GraphModule,
    plan: Plan,
    samples: Samples,
    example: tuple[Tensor, ...],
    *,
    scratch: Path,
) -> Converted:
    """The int8 model with the kernels that the spec names, or with the fastest right ones where it says `auto`.

    The plan in the result names the kernels; they stay selected for this process. `scratch` is a folder for the
    int8 models' files. Raises KernelsSaturate when none of the kernels that may be used computes what it should, and
    ModelUnsupported when the model cannot be frozen with any of them.
    """
    names = [plan.qengine]
    if not isinstance(plan.spec, DynamicSpec) and plan.spec.qengine == "auto":
        supported = set(torch.backends.quantized.supported_engines) - plan.barred
        names += [name for name in _KERNELS if name not in names and name in supported]
    some = padded_to(samples.read(0, min(model.batch_size, samples.count)).inputs, model.batch.low)
    speed_inputs = padded_to(samples.read(0, 1).inputs, model.batch.clamp(1))
    float_reference = FloatReference(model, samples)
    reference = float_reference.examine(simulate(prepared, plan).run)
    tried: dict[str, _Tried] = {}
    medians_ms: dict[str, float] = {}
    int8: Quantized | None = None
    with parked(model.raised, beside=[prepared]):
        for name in names:  # one after the other: each is a model
            int8 = None
            collect_garbage()
            try:
                int8 = _converted(prepared, replace(plan, qengine=name), example, scratch)
            except ModelUnsupported as error:
                tried[name] = _Tried(refused=error)
                continue
            measured = float_reference.examine(int8.load())
            lost_db = surely_lost_db(measured.noise, reference.noise)
            tried[name] = _Tried(int8.file, measured.closeness, lost_db, _departing(int8, some))
        right = {name: each.file for name, each in tried.items() if each.file is not None and each.is_right}
        if not right:
            raise _fault(tried)
        if len(right) > 1:
            with parked(prepared):  # all of them are in memory
                medians_ms = _medians_ms(right, speed_inputs, plan.spec.benchmark.threads[0])
        fastest = min(right, key=lambda name: medians_ms.get(name, 0.0))
        if plan.qengine in right and medians_ms and medians_ms[plan.qengine] < MIN_GAIN * medians_ms[fastest]:
            fastest = plan.qengine
        settled = replace(plan, qengine=fastest)
        if int8 is not None and fastest == names[-1]:
            use_kernels_of(settled)
        else:
            int8 = None
            int8 = _converted(prepared, settled, example, scratch)
    for file in {each.file for each in tried.values() if each.file is not None} - {int8.file}:
        file.unlink()
    collect_garbage()
    trials = [
        KernelTrial(
            qengine=name,
            sqnr_db=None if each.closeness is None else each.closeness.reported_db,
            reference_sqnr_db=reference.closeness.reported_db,
            latency_ms=medians_ms.get(name),
            saturates=name not in right,
            chosen=name == fastest,
            layers=each.departing,
        )
        for name, each in tried.items()
    ]
    return Converted(settled, int8, trials)


@dataclass(frozen=True)
class _Tried:
    """What came of some kernels."""

    file: Path | None = None
    closeness: Closeness | None = None
    lost_db: float = 0.0
    departing: list[str] = field(default_factory=list)
    refused: ModelUnsupported | None = None
    """Such as of fbgemm's transposed convolutions, which answer otherwise from one call to the next."""

    @property
    def is_right(self) -> bool:
        return self.refused is None and not self.departing and self.lost_db <= MAX_LOST_DB


def _fault(tried: Mapping[str, _Tried]) -> ModelUnsupported | KernelsSaturate:
    """Why none is right."""
    refused = [each.refused for each in tried.values() if each.refused is not None]
    return refused[0] if len(refused) == len(tried) else KernelsSaturate(_told(tried))


def _converted(prepared: fx.GraphModule, plan: Plan, example: tuple[Tensor, ...], scratch: Path) -> Quantized:
    converted = convert(prepared, plan)
    with parked(prepared, beside=[converted]):
        return freeze_quantized(converted, example, qengine=plan.qengine, scratch=scratch)


def _departing(int8: Quantized, inputs: tuple[Tensor, ...]) -> list[str]:
    assert isinstance(int8.module, fx.GraphModule)
    return departing_layers(int8.module, *inputs)


def _told(tried: Mapping[str, _Tried]) -> str:
    found = "; ".join(f"{name} {_fault_of(each)}" for name, each in tried.items())
    return f"The int8 kernels do not compute what they should on this CPU: {found}."


def _fault_of(tried: _Tried) -> str:
    if tried.refused is not None:
        return "differs from one batch to another"
    if tried.departing:
        return f"in {len(tried.departing)} layers, first {tried.departing[0]}"
    return f"by at least {tried.lost_db:.1f} dB of the whole output, in no single layer"


def _medians_ms(candidates: Mapping[str, Path], inputs: tuple[Tensor, ...], threads_measured: int) -> dict[str, float]:
    """Median latency of each candidate on these inputs, taken in turn for half a second."""
    taken: dict[str, list[float]] = {name: [] for name in candidates}
    fresh: dict[str, Model] = {}
    for name, candidate in candidates.items():
        torch.backends.quantized.engine = name  # weights are packed for the kernels when the copy is loaded
        fresh[name] = torch.jit.load(candidate)  # type: ignore[no-untyped-call]  # torch.jit is untyped
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
