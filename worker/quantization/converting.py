"""Emit int8 operators: from observers to kernels."""

from __future__ import annotations

import copy
import hashlib
from typing import Any

import torch
from torch import fx, nn
from torch.ao.nn import quantized as nnq
from torch.ao.nn.quantized import dynamic as nnqd
from torch.ao.quantization.fx.convert import convert as _convert

from worker.quantization.planning import Plan

_PER_CHANNEL = (torch.per_channel_affine, torch.per_channel_symmetric)


def use_kernels_of(plan: Plan) -> None:
    """Select the plan's qengine for this process: weights are packed for it, so it must stay selected."""
    torch.backends.quantized.engine = plan.qengine


def convert(prepared: fx.GraphModule, plan: Plan) -> fx.GraphModule:
    """The int8 model of a calibrated or trained one, which is left as it was. Selects the plan's qengine."""
    use_kernels_of(plan)
    # FX's own convert works on what it is given; it also wants evaluation mode and no gradients.
    model = copy.deepcopy(prepared).eval()
    with torch.no_grad():
        converted = _convert(model)
    assert isinstance(converted, fx.GraphModule)
    share_equal_weights(converted)
    converted.meta |= {key: value for key, value in prepared.meta.items() if key.startswith("octavo")}
    return converted.eval()


def share_equal_weights(quantized: nn.Module) -> None:
    """Let a layer that is called several times hold its int8 weights once, as the float model does.

    Raising gave each call a module of its own, for each has a range of its own.
    """
    packed: dict[tuple[Any, ...], Any] = {}
    for module in quantized.modules():
        if isinstance(module, (nnq.Linear, nnqd.Linear, nnq.Conv1d, nnq.Conv2d, nnq.Conv3d)):
            module._packed_params = packed.setdefault(_fingerprint(module), module._packed_params)


def _fingerprint(module: Any) -> tuple[Any, ...]:
    weight, bias = module.weight(), module.bias()
    geometry = [getattr(module, name, None) for name in ("stride", "padding", "dilation", "groups")]
    scales = weight.q_per_channel_scales() if weight.qscheme() in _PER_CHANNEL else torch.tensor(weight.q_scale())
    parts = [weight.int_repr(), scales.contiguous(), *([] if bias is None else [bias.detach()])]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.contiguous().numpy().tobytes())
    return type(module), tuple(weight.shape), str(geometry), digest.digest()
