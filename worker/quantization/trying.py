"""Try a plan on made-up inputs before any data is spent on it, and give up in float what its kernels get wrong.

    1. prepare, observe, convert and run: an operator that fails stays in float
    2. recompute every int8 layer in float from the integers it was given: a layer whose kernel computes something else
       stays in float

The second is no luxury. Seen with torch 2.13: `onednn` transposed convolutions are wrong unless they have as many
outputs as inputs; `fbgemm` ones whose kernel is as wide as their stride are wrong; PReLU is wrong at the slope that it
starts with. None says a word.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from shared.errors import ModelUnsupported, NothingToQuantize
from shared.quantization_spec import DynamicSpec
from worker.quantization.converting import convert
from worker.quantization.copying import collect_garbage, weight_bytes
from worker.quantization.counting import float_share, layer_macs
from worker.quantization.dynamic_planning import choose_dynamic_plan
from worker.quantization.dynamic_trying import without_wrong_kernels
from worker.quantization.float_reasons import FloatReason
from worker.quantization.grouping import TRANSPOSED, groups
from worker.quantization.int8_modules import is_reference
from worker.quantization.islands import without_islands
from worker.quantization.kernel_check import KernelInspector
from worker.quantization.loading import InputSpec
from worker.quantization.planning import choose_plan, only_weighted
from worker.quantization.plans import Plan, require_something, told_in_float
from worker.quantization.preparing import prepare
from worker.quantization.raising import interface

#: Mean over a layer's output: made-up inputs tell a kernel that is wrong; what real sums saturate shows later.
_RIGHT_KERNEL_STEPS = 1.0
_ATTEMPTS = 20
#: Of all multiply-accumulates: less in int8 is not worth other kernels, which may hold fewer bits.
_WORTH_MACS = 0.1


@dataclass(frozen=True)
class Fault:
    """A layer that must stay in float."""

    layer: str
    reason: str


def plan(raised: fx.GraphModule, spec: Any) -> Plan:
    """How to quantize a raised model by this spec: chosen from its graph and the CPU, then tried out.

    Raises NothingToQuantize when no layer would be int8, SpecInvalid when an override matches nothing or settings
    contradict each other, ModelUnsupported when no choice of int8 operators runs.
    """
    inputs = _inputs_that_tell(raised)
    if isinstance(spec, DynamicSpec):
        dynamic = choose_dynamic_plan(raised, spec)
        if not _runs(raised, inputs):
            return dynamic
        right = without_wrong_kernels(raised, dynamic, inputs)
        collect_garbage(weight_bytes(raised))  # the copy on which it was tried
        return right
    first = choose_plan(raised, spec)
    try:
        chosen = _tried(raised, first, inputs)
    except NothingToQuantize:
        other = _with_kernels_for_transposed(raised, first, frozenset(), inputs)
        if other is None:
            raise
        return other
    return _with_kernels_for_transposed(raised, first, chosen.int8_layers, inputs) or chosen


def _with_kernels_for_transposed(
    raised: fx.GraphModule, first: Plan, kept: frozenset[str], inputs: tuple[Tensor, ...]
) -> Plan | None:
    """A plan with other kernels, where those of `first` fail or get wrong what is much of the model's arithmetic.

    `kept` are the int8 layers that trying left of it; None where the spec names the kernels, or no others do better.
    Only of transposed convolutions do kernels get so much wrong, each others of them. With 7-bit activations a network
    that ends in them is worth more than with all of them in float: it is for its speed that it is quantized.
    """
    spec = first.spec
    if isinstance(spec, DynamicSpec) or spec.qengine != "auto":
        return None
    macs = layer_macs(raised)
    transposed = {group.name for group in groups(raised) if isinstance(group.module, TRANSPOSED)}
    given_up = transposed & first.int8_layers - kept
    everything = sum(macs.values())
    if sum(macs.get(layer, 0) for layer in given_up) < _WORTH_MACS * max(1, everything):
        return None
    found, in_float = None, float_share(macs, kept)
    for qengine in ("x86", "fbgemm"):
        if qengine in torch.backends.quantized.supported_engines and qengine != first.qengine:
            try:
                again = choose_plan(raised, spec.model_copy(update={"qengine": qengine}))
                other = _tried(raised, again, inputs)
            except NothingToQuantize:
                continue
            if float_share(macs, other.int8_layers) < in_float - _WORTH_MACS:
                found, in_float = other, float_share(macs, other.int8_layers)
    if found is None:
        return None
    more = ", ".join(sorted(given_up & found.int8_layers))
    return replace(found, spec=spec, barred=found.barred | {first.qengine}).noting(
        f"kernels of {found.qengine}, for those of {first.qengine} cannot compute {more}"
    )


def _tried(raised: fx.GraphModule, first: Plan, inputs: tuple[Tensor, ...]) -> Plan:
    chosen = without_islands(raised, first)
    if not _runs(raised, inputs):
        return chosen.noting("not tried out: the model does not run on random inputs")
    all_groups = groups(raised)
    for _ in range(_ATTEMPTS):
        faults = _faults(raised, chosen, inputs)
        collect_garbage(weight_bytes(raised))  # the copies on which it was tried
        if not faults:
            return _told(chosen)
        placed = [fault for fault in faults if fault.layer in chosen.int8_layers]
        placed = placed or _culprits(
            raised, chosen, inputs, [group.name for group in all_groups if group.name in chosen.int8_layers]
        )
        for fault in placed:
            chosen = chosen.without(fault.layer, FloatReason("failed", fault.reason))
        if not placed:
            chosen = only_weighted(all_groups, chosen, faults[0].reason)
        require_something(chosen, all_groups)
        chosen = without_islands(raised, chosen)
    raise ModelUnsupported("No choice of int8 operators runs for this model.", hint="Try method dynamic.")


def _told(plan: Plan) -> Plan:
    """The same plan with a note of what an override asked for and kernels do not do."""
    given_up = {layer: plan.float_reasons[layer] for layer in sorted(plan.asked_layers - plan.int8_layers)}
    return plan.noting(told_in_float(given_up)) if given_up else plan


def _made_up(specs: tuple[InputSpec, ...], integer: int = 0) -> tuple[Tensor, ...]:
    """Normal floats, one number for all integers, ones for truth values: at the shape of the export, batches small."""
    generator = torch.Generator().manual_seed(0)
    inputs = []
    for spec in specs:
        shape = spec.with_batch(spec.bounds[0][0]) if spec.batch_symbol else spec.example_shape
        if spec.dtype.is_floating_point:
            inputs.append(torch.randn(shape, generator=generator).to(spec.dtype))
        else:
            inputs.append(torch.full(shape, True if spec.dtype is torch.bool else integer, dtype=spec.dtype))
    return tuple(inputs)


def _inputs_that_tell(raised: fx.GraphModule) -> tuple[Tensor, ...]:
    """Made-up inputs on which the model runs and gives numbers, if there are such.

    Zeros are always valid as indices; as a mask they may leave nothing, and then nothing but NaN comes of it.
    """
    candidates = [_made_up(interface(raised).inputs, integer) for integer in (0, 1)]
    return next((inputs for inputs in candidates if _runs(raised, inputs, finite=True)), candidates[0])


def _runs(raised: fx.GraphModule, inputs: tuple[Tensor, ...], *, finite: bool = False) -> bool:
    """Whether the model runs on these inputs, and with `finite` whether no output is NaN."""
    try:
        with torch.no_grad():
            outputs = raised(*inputs)
    except Exception:  # noqa: BLE001 - whatever a user's model raises on inputs that it was not made for
        return False
    return not finite or not any(bool(output.isnan().any()) for output in outputs)


def _faults(raised: fx.GraphModule, plan: Plan, inputs: tuple[Tensor, ...]) -> list[Fault]:
    """What goes wrong when the plan is carried out; a fault without a layer could not be placed."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            prepared = prepare(raised, plan, inputs)
            prepared(*inputs)
            converted = convert(prepared, plan)
        except Exception as error:  # noqa: BLE001 - torch.ao raises whatever it stumbles over
            return [Fault("", _first_line(error))]
        unserved = [name for name, module in converted.named_modules() if is_reference(module)]
        if unserved:
            owners = converted.meta["octavo_groups"]
            layers = dict.fromkeys(owner for layer, owner in owners.items() if _within(unserved, layer))
            return [Fault(layer, "torch finds no int8 kernel for it where it stands") for layer in layers]
        inspector = KernelInspector(converted)
        try:
            inspector.run(*inputs)
        except Exception as error:  # noqa: BLE001 - likewise its kernels
            return [Fault(inspector.layer, f"its int8 form fails: {_first_line(error)}")]
    engine = torch.backends.quantized.engine
    return [
        Fault(each.layer, f"its {engine} kernel is wrong: off by {each.mean_steps:.0f} of 255 steps")
        for each in inspector.deviations
        if each.mean_steps > _RIGHT_KERNEL_STEPS
    ]


def _culprits(raised: fx.GraphModule, plan: Plan, inputs: tuple[Tensor, ...], layers: list[str]) -> list[Fault]:
    """Of these layers those that fail with no other in int8, or bring others down, found by halving.

    None where it takes several of them together.
    """
    faults = _faults(raised, replace(plan, int8_layers=frozenset(layers)), inputs)
    collect_garbage(weight_bytes(raised))
    if not faults:
        return []
    if len(layers) == 1:
        return [Fault(layers[0], faults[0].reason)]
    middle = len(layers) // 2
    return [fault for half in (layers[:middle], layers[middle:]) for fault in _culprits(raised, plan, inputs, half)]


def _within(modules: list[str], layer: str) -> bool:
    return any(name == layer or name.startswith(f"{layer}.") for name in modules)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
