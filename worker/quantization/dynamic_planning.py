"""Choose what method dynamic quantizes: the layers that torch has kernels for, whose ranges are found at run time."""

from __future__ import annotations

import torch
from torch import fx, nn

from shared.errors import SpecInvalid
from shared.quantization_spec import DynamicSpec
from worker.quantization.grouping import RECURRENT, groups
from worker.quantization.overriding import asked_by, overrides_by_group
from worker.quantization.planning import Plan, require_something

#: What `quantize_dynamic` has kernels for.
DYNAMIC_MODULES = (nn.Linear, nn.LSTM, nn.GRU, nn.LSTMCell, nn.GRUCell, nn.Embedding)


def choose_dynamic_plan(raised: fx.GraphModule, spec: DynamicSpec) -> Plan:
    """The plan for a raised model.

    Raises NothingToQuantize when no layer would be int8, SpecInvalid when an override matches nothing or settings
    contradict each other.
    """
    all_groups = groups(raised)
    overridden = overrides_by_group(all_groups, spec.overrides)
    int8, reasons = set(), {}
    for group in all_groups:
        override = overridden.get(group.name)
        if override is not None and override.is_float:
            reasons[group.name] = f"overridden: {asked_by(override)}"
        elif isinstance(group.module, DYNAMIC_MODULES):
            int8.add(group.name)
        elif group.is_weighted:
            reasons[group.name] = "convolutions have no int8 kernel with dynamic ranges: use method static"
        elif isinstance(group.module, RECURRENT):
            reasons[group.name] = "this recurrent layer has no int8 kernel"
    plan = Plan(
        spec=spec,
        qengine=_qengine(),
        operators="weighted",
        int8_layers=frozenset(int8),
        float_reasons=reasons,
        per_channel=_per_channel(spec),
    )
    require_something(plan, all_groups)
    return plan


def _qengine() -> str:
    supported = torch.backends.quantized.supported_engines
    return next(name for name in ("fbgemm", "x86", "onednn", "qnnpack") if name in supported)


def _per_channel(spec: DynamicSpec) -> bool:
    observer, qscheme = spec.weight.observer, spec.weight.qscheme
    per_channel = observer == "per_channel_minmax"
    if qscheme != "auto" and (qscheme == "per_channel_symmetric") != per_channel:
        raise SpecInvalid(
            f"weight.observer {observer} and weight.qscheme {qscheme} contradict each other.",
            hint="Leave weight.qscheme at auto: it follows the observer.",
        )
    return per_channel
