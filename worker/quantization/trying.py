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
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.ao.nn import quantized as nnq
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from shared.errors import ModelUnsupported
from shared.quantization_spec import DynamicSpec
from worker.quantization.converting import convert
from worker.quantization.dynamic_planning import choose_dynamic_plan
from worker.quantization.dynamic_trying import without_wrong_kernels
from worker.quantization.grouping import TRANSPOSED, groups
from worker.quantization.loading import InputSpec
from worker.quantization.planning import Plan, choose_plan, only_weighted, require_something
from worker.quantization.preparing import prepare
from worker.quantization.raising import interface

#: A right kernel differs from the reference by rounding: at most one step of the output, here and there.
_RIGHT_KERNEL_STEPS = 1.0
_ATTEMPTS = 20

_CONVOLUTIONS: dict[type[nn.Module], Callable[..., Tensor]] = {
    nnq.Conv1d: F.conv1d,
    nnq.Conv2d: F.conv2d,
    nnq.Conv3d: F.conv3d,
}
_TRANSPOSED: dict[type[nn.Module], Callable[..., Tensor]] = {
    nnq.ConvTranspose1d: F.conv_transpose1d,
    nnq.ConvTranspose2d: F.conv_transpose2d,
    nnq.ConvTranspose3d: F.conv_transpose3d,
}


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
    inputs = _made_up(interface(raised).inputs)
    if isinstance(spec, DynamicSpec):
        dynamic = choose_dynamic_plan(raised, spec)
        return without_wrong_kernels(raised, dynamic, inputs) if _runs(raised, inputs) else dynamic
    chosen = choose_plan(raised, spec)
    if not _runs(raised, inputs):
        return replace(chosen, notes=(*chosen.notes, "not tried out: the model does not run on random inputs"))
    all_groups = groups(raised)
    for _ in range(_ATTEMPTS):
        faults = _faults(raised, chosen, inputs)
        if not faults:
            return chosen
        for fault in faults:
            if fault.layer in chosen.int8_layers:
                chosen = chosen.without(fault.layer, fault.reason)
            elif hopeless := _refused_alone(raised, chosen, inputs):
                for layer in hopeless:
                    chosen = chosen.without(layer, fault.reason)
            else:
                chosen = only_weighted(all_groups, chosen, fault.reason)
        require_something(chosen, all_groups)
    raise ModelUnsupported("No choice of int8 operators runs for this model.", hint="Try method dynamic.")


def _made_up(specs: tuple[InputSpec, ...]) -> tuple[Tensor, ...]:
    """Normal floats, zeros for indices (always valid), ones for masks: at the shape of the export, batches small."""
    generator = torch.Generator().manual_seed(0)
    inputs = []
    for spec in specs:
        shape = spec.with_batch(spec.bounds[0][0]) if spec.batch_symbol else spec.example_shape
        if spec.dtype.is_floating_point:
            inputs.append(torch.randn(shape, generator=generator).to(spec.dtype))
        else:
            fill = torch.ones if spec.dtype is torch.bool else torch.zeros
            inputs.append(fill(shape, dtype=spec.dtype))
    return tuple(inputs)


def _runs(raised: fx.GraphModule, inputs: tuple[Tensor, ...]) -> bool:
    try:
        with torch.no_grad():
            raised(*inputs)
    except Exception:  # noqa: BLE001 - whatever a user's model raises on inputs that it was not made for
        return False
    return True


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
        inspector = _Inspector(converted)
        try:
            inspector.run(*inputs)
        except Exception as error:  # noqa: BLE001 - likewise its kernels
            return [Fault(inspector.layer, f"its int8 form fails: {_first_line(error)}")]
    return inspector.faults


def _refused_alone(raised: fx.GraphModule, plan: Plan, inputs: tuple[Tensor, ...]) -> list[str]:
    """Transposed convolutions that cannot be converted by themselves: of all layers, their kernels lack most."""
    layers = [group.name for group in groups(raised) if isinstance(group.module, TRANSPOSED)]
    return [
        layer
        for layer in layers
        if layer in plan.int8_layers
        and any(not fault.layer for fault in _faults(raised, replace(plan, int8_layers=frozenset({layer})), inputs))
    ]


class _Inspector(fx.Interpreter):
    """Runs a converted graph node by node, and recomputes each int8 layer from what went into it."""

    def __init__(self, converted: fx.GraphModule) -> None:
        super().__init__(converted)
        self.faults: list[Fault] = []
        self.layer = ""

    def run_node(self, n: fx.Node) -> Any:
        self.layer = str(n.target) if n.op == "call_module" else str(n.meta.get("layer", ""))
        return super().run_node(n)

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        found = super().call_module(target, args, kwargs)
        wanted = _reference(self.fetch_attr(target), args[0])
        if wanted is not None:
            off = (found.int_repr().float() - wanted).abs().mean().item()
            if off > _RIGHT_KERNEL_STEPS:
                engine = torch.backends.quantized.engine
                self.faults.append(Fault(str(target), f"its {engine} kernel is wrong: off by {off:.0f} of 255 steps"))
        return found


def _reference(module: nn.Module, given: Any) -> Tensor | None:
    """What an int8 layer should give, as integers; None for what is not checked."""
    if not isinstance(given, Tensor) or not given.is_quantized:
        return None
    plain: Any = module
    if isinstance(module, nnq.Linear):
        result: Tensor | None = F.linear(given.dequantize(), plain.weight().dequantize(), plain.bias())
    elif isinstance(module, nnq.PReLU):
        result = F.prelu(given.dequantize(), plain.weight.dequantize())
    else:
        result = _convolved(plain, given.dequantize())
    if result is None:
        return None
    if "ReLU" in type(module).__name__:
        result = result.relu()
    return (torch.round(result / plain.scale) + plain.zero_point).clamp(0, 255)


def _convolved(module: Any, given: Tensor) -> Tensor | None:
    for kind, convolve in _CONVOLUTIONS.items():
        if kind in type(module).__mro__:
            weight, bias = module.weight().dequantize(), module.bias()
            return convolve(given, weight, bias, module.stride, module.padding, module.dilation, module.groups)
    for kind, convolve in _TRANSPOSED.items():
        if kind in type(module).__mro__:
            settings = (module.stride, module.padding, module.output_padding, module.groups, module.dilation)
            return convolve(given, module.weight().dequantize(), module.bias(), *settings)
    return None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
