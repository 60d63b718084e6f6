"""What a job would do to a model: the answer to POST /v1/plan, found from the model alone.

The plan is the one that the job would make, tried out on made-up inputs as the job does it, so that a layer whose
kernel fails on this CPU is told now. What is settled by data is not known yet: which kernels are the fastest, which
layers cost the output too much.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import fx

from shared.job import Step
from shared.job_plan import (
    MAX_LAYERS,
    Instructions,
    JobPlan,
    Pace,
    PlannedLayer,
    PlannedRuntime,
    PlanWorker,
)
from shared.quantization_spec import RUNTIMES, DynamicSpec, QatSpec, Runtime, StaticSpec
from worker.candidate_names import RUNTIME_NAMES
from worker.duration import estimate
from worker.environment import cpu
from worker.inference import batch_range, padded_to, sample_bytes, usual_batch_size
from worker.job_folder import JobFolder
from worker.progress import ProgressTracker, Report, Stage
from worker.quantization import (
    DEQUANTIZED_FOR_IT,
    Group,
    InputSpec,
    Plan,
    groups,
    has_kernel,
    input_specs,
    layer_macs,
    load_program,
    passes_on,
    plan,
    raise_program,
)
from worker.steps.export import wanted_runtimes, why_not_dynamic
from worker.synthetic import synthesise

_TIMED_SECONDS = 1.0  # to find the pace of the float model
_MOST_RUNS = 12
_GROWTH = 4  # of the number of samples from one call to the next
_NO_INT8: Mapping[Runtime, Mapping[str, frozenset[str]]] = {
    # By method: operators with weights that are int8 in torch, and for which a runtime's int8 kernel is missing.
    "torch": {},
    "onnxruntime": {
        "static": frozenset({"ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"}),
        "dynamic": frozenset({"GRU", "LSTMCell", "GRUCell", "RNNCell", "Embedding", "EmbeddingBag"}),
    },
    "openvino": {},
}
_BY_DATA = (
    "The job settles by data: the ranges, which kernels are right and fastest, and which few layers cost the output so "
    "much in int8 that they stay in float."
)
_DOT_PRODUCTS = (
    ("amx", {"amx_int8"}, "AMX multiplies tiles of 8-bit integers: int8 is at its fastest here."),
    ("vnni", {"avx512_vnni", "avx_vnni"}, "VNNI adds up four products of 8-bit integers at once."),
    ("dotprod", {"dotprod", "i8mm"}, "Arm's dot product adds up four products of 8-bit integers at once."),
)


def plan_ahead(folder: JobFolder, report: Report) -> None:
    """Write outputs/plan.json; raises what the job would raise before it has read any data."""
    inputs = folder.read_plan_inputs()
    wanted = wanted_runtimes(inputs.spec.runtimes)
    torch.set_num_threads(inputs.threads)
    torch.manual_seed(inputs.spec.seed)
    tracker = ProgressTracker(report, {Step.LOAD: 1.0, Step.PREPARE: 2.0})
    with tracker.step(Step.LOAD, "Loading the model"):
        program = load_program(folder.model)
        specs = tuple(input_specs(program))
        raised = raise_program(program)
        sample_seconds = _sample_seconds(raised, specs, inputs.spec.seed)
    with tracker.step(Step.PREPARE, "Trying the plan on made-up inputs"):
        settled = plan(raised, inputs.spec)
    without = {name: _why_without(name, inputs.spec) for name in wanted}
    layers = _layers(raised, settled, [name for name in RUNTIMES if without.get(name) is None])
    pace = Pace(
        sample_seconds=sample_seconds,
        load_seconds=tracker.timings[Step.LOAD.value],
        plan_seconds=tracker.timings[Step.PREPARE.value],
        layers=len(layers),
    )
    runtimes = [
        PlannedRuntime(
            runtime=name,
            int8_share=sum(each.share for each in layers if name in each.int8_in),
            note=without[name],
        )
        for name in wanted
    ]
    int8_share = sum(each.share for each in layers if each.precision == "int8")
    answer = JobPlan(
        method=inputs.spec.method,
        model=inputs.spec.model,
        conclusion=_conclusion(layers, int8_share, runtimes),
        worker=PlanWorker(hostname="", cpu_model=""),  # the supervisor's to say
        qengine=settled.qengine,
        layers=layers[:MAX_LAYERS],
        int8_layers=sum(each.precision == "int8" for each in layers),
        float_layers=sum(each.precision == "float32" for each in layers),
        int8_share=int8_share,
        runtimes=runtimes,
        instructions=_instructions(),
        duration=estimate(inputs.spec, inputs.samples, pace, runtimes=len(wanted)),
        notes=_notes(settled, len(layers), is_by_data=inputs.spec.method != "dynamic"),
    )
    folder.plan.write_text(answer.model_dump_json())


RECIPE: Mapping[Stage, Callable[[JobFolder, Report], None]] = {"make": plan_ahead}


def _why_without(runtime: Runtime, spec: DynamicSpec | StaticSpec | QatSpec) -> str | None:
    return why_not_dynamic(runtime, spec.precision) if isinstance(spec, DynamicSpec) else None


def _layers(raised: fx.GraphModule, settled: Plan, runtimes: Sequence[Runtime]) -> list[PlannedLayer]:
    """What multiplies or is quantized, with the runtimes that have a kernel for it; the rest needs no foretelling."""
    macs = layer_macs(raised)
    total = sum(macs.values())
    method = settled.spec.method if isinstance(settled.spec, DynamicSpec) else "static"
    return [
        _layer(
            group,
            settled,
            macs.get(group.name, 0),
            total,
            [name for name in runtimes if group.op not in _NO_INT8[name].get(method, ())],
        )
        for group in groups(raised)
        if macs.get(group.name) or (group.name in settled.int8_layers and not passes_on(raised, group.nodes[0]))
    ]


def _layer(group: Group, settled: Plan, macs: int, of_macs: int, kernels_in: list[Runtime]) -> PlannedLayer:
    precision = settled.precision_of(group.name)
    reason = settled.float_layers.get(group.name) or "not known to this method"
    if precision == "int8" and not isinstance(settled.spec, DynamicSpec) and not has_kernel(group):
        precision, reason = "float32", DEQUANTIZED_FOR_IT
    return PlannedLayer(
        layer=group.name,
        op=group.op,
        precision=precision,
        macs=macs,
        share=macs / of_macs if of_macs else 0.0,
        reason=reason if precision == "float32" else None,
        int8_in=kernels_in if precision == "int8" else [],
    )


def _sample_seconds(raised: fx.GraphModule, specs: tuple[InputSpec, ...], seed: int) -> float | None:
    """Of the float model in passes over data; None where it does not run on made-up samples.

    The best of the calls that fit into a second, after a first one, with as many samples as fit or as passes take: one
    call of one sample alone, beside other work, was seen to take twenty times as long a sample.
    """
    batch = batch_range(specs)
    one = synthesise(raised, specs, 1, seed).read(0, 1).inputs
    most = usual_batch_size(batch, sample_bytes(one))
    inputs, size, best = padded_to(one, batch.low), batch.low, math.inf
    try:
        with torch.inference_mode():
            taken = _seconds(raised, inputs)  # with what the first call of all costs
            if taken >= _TIMED_SECONDS:
                return taken / size
            ends_at = time.perf_counter() + _TIMED_SECONDS
            for _ in range(_MOST_RUNS):
                if math.isfinite(best) and time.perf_counter() + taken > ends_at:
                    break
                if math.isfinite(best) and time.perf_counter() + _GROWTH * taken < ends_at and size < most:
                    size = min(most, _GROWTH * size)
                    inputs = synthesise(raised, specs, size, seed).read(0, size).inputs
                taken = _seconds(raised, inputs)
                best = min(best, taken / size)
    except Exception:  # noqa: BLE001 - whatever a user's model raises on inputs that it was not made for
        return None
    return best


def _seconds(raised: fx.GraphModule, inputs: tuple[torch.Tensor, ...]) -> float:
    began_at = time.perf_counter()
    raised(*inputs)
    return time.perf_counter() - began_at


def _instructions() -> Instructions:
    found = cpu()[1]
    for name, wanted, told in _DOT_PRODUCTS:
        if wanted & set(found):
            return Instructions(found=found, dot_product=name, note=told)
    told = "No instruction adds up products of 8-bit integers: expect little speed, and 7-bit activations."
    return Instructions(found=found, dot_product="none", note=told)


def _notes(settled: Plan, layers: int, *, is_by_data: bool) -> list[str]:
    notes = [*settled.notes]
    if is_by_data:
        notes.append(_BY_DATA)
    if layers > MAX_LAYERS:
        notes.append(f"Of {layers} layers the first {MAX_LAYERS} are listed; counts and shares are of all of them.")
    return notes


def _conclusion(layers: list[PlannedLayer], int8_share: float, runtimes: list[PlannedRuntime]) -> str:
    quantized = [each for each in layers if each.precision != "float32"]
    share = sum(each.share for each in quantized)
    to_float16 = " to float16" if {each.precision for each in quantized} == {"float16"} else ""
    counted = f"{len(quantized)} of {len(layers)} layers would be quantized{to_float16}"
    told = f"{counted}, {100 * share:.1f} % of the arithmetic"
    behind = [
        f"in {RUNTIME_NAMES[each.runtime]} {100 * each.int8_share:.1f} %"
        for each in runtimes
        if each.int8_share < int8_share - 0.005
    ]
    return f"{told}{', but ' if behind else ''}{' and '.join(behind)}."
