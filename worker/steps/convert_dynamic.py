"""Convert for method dynamic: layers whose kernels compute something else than int8 stay in float.

Ranges are found at run time, so nothing is calibrated; but int8 with such ranges can be computed in float all the same,
and right kernels give that up to rounding. Each layer is held against it, and then the whole output.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from shared.errors import KernelsSaturate
from shared.job_report import KernelTrial
from worker.datasets import Samples
from worker.inference import padded_to
from worker.numerics import surely_lost_db
from worker.quantization import (
    DynamicPlan,
    Plan,
    collect_garbage,
    departing_dynamic_layers,
    dynamic_in_float,
    quantize_dynamic,
    without_departing,
)
from worker.steps.choose_kernels import MAX_LOST_DB, Converted
from worker.steps.convert import freeze_quantized
from worker.steps.float_reference import FloatReference, Measured
from worker.steps.held_back import spread
from worker.steps.load import LoadedModel

_MOST_SAMPLES = 64


def convert_dynamic(
    model: LoadedModel, plan: Plan, samples: Samples, example: tuple[Tensor, ...], *, scratch: Path
) -> Converted:
    """The int8 model, the plan without the layers of wrong kernels, and what was found, in the order it was tried.

    Measured on at most 64 of the evaluation samples. Raises KernelsSaturate when the whole output is more than 1 dB
    further from float than int8 computed in float and no layer is, NothingToQuantize when no layer is right.
    """
    assert isinstance(plan, DynamicPlan)
    float_reference = FloatReference(model, spread(samples, _MOST_SAMPLES))
    some = padded_to(samples.read(0, min(model.batch_size, samples.count)).inputs, model.batch.low)
    trials: list[KernelTrial] = []
    while True:
        module = quantize_dynamic(model.raised, plan)
        in_float = dynamic_in_float(model.raised, module)
        departing = departing_dynamic_layers(model.raised, module, in_float, *some)
        wanted = float_reference.examine(in_float)
        del in_float
        if not departing:
            break
        trials.append(_trial(plan, float_reference.examine(module), wanted, departing))
        plan = without_departing(model.raised, plan, departing)
        del module
        collect_garbage()
    int8 = freeze_quantized(module, example, qengine=plan.qengine, scratch=scratch)
    found = float_reference.examine(int8.load())
    lost_db = surely_lost_db(found.noise, wanted.noise)
    if lost_db > MAX_LOST_DB:
        raise KernelsSaturate(
            f"The {plan.qengine} kernels do not compute what they should on this CPU: they lose {lost_db:.1f} dB of "
            "the whole output, in no single layer."
        )
    return Converted(plan, int8, [*trials, _trial(plan, found, wanted, [])])


def _trial(plan: Plan, found: Measured, wanted: Measured, departing: list[str]) -> KernelTrial:
    return KernelTrial(
        qengine=plan.qengine,
        sqnr_db=found.closeness.reported_db,
        reference_sqnr_db=wanted.closeness.reported_db,
        latency_ms=None,
        saturates=bool(departing),
        chosen=not departing,
        layers=departing,
    )
