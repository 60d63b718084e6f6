"""Method dynamic: modules become those of `quantize_dynamic`, which hold int8 weights and find ranges at run time."""

from __future__ import annotations

import copy

import torch
from torch import fx, nn
from torch.ao.quantization import (
    QConfig,
    default_dynamic_qconfig,
    float_qparams_weight_only_qconfig,
    per_channel_dynamic_qconfig,
)
from torch.ao.quantization import quantize_dynamic as _quantize_dynamic

from worker.quantization.converting import share_equal_weights, use_kernels_of
from worker.quantization.planning import Plan


def quantize_dynamic(raised: fx.GraphModule, plan: Plan) -> nn.Module:
    """A copy whose Linears and recurrent layers hold int8 weights. Selects the plan's qengine."""
    use_kernels_of(plan)
    qconfigs = {
        name: _qconfig(module, plan)
        for name, module in raised.named_modules(remove_duplicate=False)
        if name in plan.int8_layers
    }
    with torch.no_grad():
        quantized: nn.Module = _quantize_dynamic(copy.deepcopy(raised).eval(), qconfigs)
    share_equal_weights(quantized)
    return quantized


def _qconfig(module: nn.Module, plan: Plan) -> QConfig:
    if isinstance(module, nn.Embedding):
        return float_qparams_weight_only_qconfig
    return (
        per_channel_dynamic_qconfig if plan.per_channel and isinstance(module, nn.Linear) else default_dynamic_qconfig
    )
