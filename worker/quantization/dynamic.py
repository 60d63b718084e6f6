"""Method dynamic: layers become torch.ao's dynamic ones, which hold int8 or float16 weights.

What torch.ao's own `quantize_dynamic` does not do is done here: activations keep all 8 bits where the CPU holds them,
layers without biases get zero ones (its recurrent kernels want them), a layer called often is stored once, and bags are
what they were.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from torch import fx, nn
from torch.ao.nn import quantized as nnq
from torch.ao.nn.quantized import dynamic as nnqd
from torch.ao.quantization import (
    QConfig,
    default_dynamic_quant_observer,
    float16_dynamic_qconfig,
)

from worker.quantization.bags import QuantizedBag
from worker.quantization.converting import use_kernels_of
from worker.quantization.copying import copy_structure
from worker.quantization.dynamic_planning import DynamicPlan
from worker.quantization.int8_modules import precision_of
from worker.quantization.plans import Plan
from worker.quantization.qconfigs import LayerSettings, qconfig_for

_QUANTIZED: dict[type[nn.Module], Any] = {
    nn.Linear: nnqd.Linear,
    nn.LSTM: nnqd.LSTM,
    nn.GRU: nnqd.GRU,
    nn.LSTMCell: nnqd.LSTMCell,
    nn.GRUCell: nnqd.GRUCell,
    nn.RNNCell: nnqd.RNNCell,
    nn.Embedding: nnq.Embedding,
    nn.EmbeddingBag: QuantizedBag,
}


def quantize_dynamic(raised: fx.GraphModule, plan: Plan) -> fx.GraphModule:
    """A copy whose planned layers hold int8 or float16 weights; the others share theirs with `raised`.

    Selects the plan's qengine.
    """
    assert isinstance(plan, DynamicPlan)
    use_kernels_of(plan)
    model = copy_structure(raised).eval()
    made: dict[Hashable, nn.Module] = {}
    with torch.no_grad():
        for name in sorted(plan.int8_layers):
            module, settings, float16 = model.get_submodule(name), plan.settings_of(name), name in plan.float16_layers
            key = (repr(module), *(id(tensor) for tensor in module.parameters()), repr(settings), float16)
            if key not in made:
                made[key] = _quantized(module, settings, float16=float16)
            model.set_submodule(name, made[key])
    return model


def holds_float16(module: nn.Module) -> bool:
    """Whether a layer of a quantized module stores its weights in float16."""
    return any(precision_of(layer) == "float16" for layer in module.modules())


def _quantized(module: nn.Module, settings: LayerSettings, *, float16: bool) -> nn.Module:
    """torch.ao's layer for a float one, which may gain zero biases."""
    _fill_in_biases(module)
    module.qconfig = _qconfig(module, settings, float16=float16)  # type: ignore[assignment]  # how torch.ao is told
    quantized = _QUANTIZED[type(module)].from_float(module)
    if not float16 and not settings.activation.reduce_range:
        _use_full_range(quantized)
    result: nn.Module = quantized.eval()
    return result


def _use_full_range(quantized: Any) -> None:
    """Activations of 8 bits and not 7, by the layer's own version, of which the older had none else.

    The cells have no such switch: torch keeps theirs to 7 bits.
    """
    if isinstance(quantized, nnqd.Linear | nnqd.LSTM | nnqd.GRU):
        quantized.version = None  # type: ignore[assignment]  # torch lets None stand for the first
    if isinstance(quantized, nnqd.LSTM | nnqd.GRU):
        quantized.set_weight_bias(quantized.get_weight() | quantized.get_bias())


def _fill_in_biases(module: nn.Module) -> None:
    if not isinstance(module, nn.RNNBase | nn.RNNCellBase) or module.bias:
        return
    for name, weight in list(module.named_parameters()):
        module.register_parameter(name.replace("weight", "bias"), nn.Parameter(torch.zeros(weight.shape[0])))
    module.bias = True


def _qconfig(module: nn.Module, settings: LayerSettings, *, float16: bool) -> QConfig:
    if float16:
        return float16_dynamic_qconfig
    qconfig = qconfig_for(type(module).__name__, settings, trainable=False)
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):  # a scale a row, whatever is asked
        return qconfig
    return QConfig(activation=default_dynamic_quant_observer, weight=qconfig.weight)
