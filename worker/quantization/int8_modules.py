"""What conversion put in a layer's place, and the weights that it holds."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from shared.layer_report import LayerPrecision
from worker.quantization.bags import QuantizedBag

_INT8_MODULES = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized")
_REFERENCE_MODULES = "torch.ao.nn.quantized.reference"


def precision_of(module: nn.Module | None) -> LayerPrecision:
    """How a layer stores its weights, or computes: float32 for a module that nothing took the place of."""
    if isinstance(module, QuantizedBag):
        return "int8"
    if module is None or not type(module).__module__.startswith(_INT8_MODULES) or is_reference(module):
        return "float32"
    return "float16" if _weight_dtype(module) is torch.float16 else "int8"


def is_reference(module: nn.Module) -> bool:
    """Whether FX made a layer ready for int8 and then found no kernel for it where it stands: it computes in float."""
    return type(module).__module__.startswith(_REFERENCE_MODULES)


def _weight_dtype(module: Any) -> Any:
    """As the layers of dynamic quantization keep it; None of the others, which have int8 weights or none."""
    if hasattr(module, "weight_dtype"):  # a recurrent cell
        return module.weight_dtype
    return getattr(getattr(module, "_packed_params", module), "dtype", None)


def int8_weights(module: nn.Module) -> dict[str, Tensor]:
    """The quantized weights of a module by name: a recurrent layer has several, a norm or a float16 layer none."""
    if precision_of(module) != "int8":
        return {}
    plain: Any = module.rows if isinstance(module, QuantizedBag) else module
    if hasattr(plain, "get_weight"):  # LSTM, GRU and cells
        found = dict(plain.get_weight())
    elif callable(getattr(plain, "weight", None)):
        found = {"weight": plain.weight()}
    else:
        found = {}
    return {name: weight for name, weight in found.items() if weight.is_quantized}


def weight_values(quantized: nn.Module, layer: str) -> Tensor | None:
    """The first weight of a quantized layer, as it computes with it; None for a layer without one."""
    modules = dict(quantized.named_modules(remove_duplicate=False))
    weights = int8_weights(modules[layer]) if layer in modules else {}
    return next((weight.dequantize().flatten() for weight in weights.values()), None)


def per_channel_gain_db(quantized: nn.Module, layer: str) -> float | None:
    """By how much a scale a channel would bring the weights nearer to float; None where they have that, or are none.

    Rounding leaves a noise in proportion to scale²: `10·log10(max_c m² / mean_c m²)`, with the greatest magnitude `m`
    of each output channel.
    """
    modules = dict(quantized.named_modules(remove_duplicate=False))
    module = modules.get(layer)
    weight = None if module is None else int8_weights(module).get("weight")
    if (
        weight is None
        or weight.dim() < 2
        or weight.qscheme() not in (torch.per_tensor_affine, torch.per_tensor_symmetric)
    ):
        return None
    axis = 1 if "Transpose" in type(module).__name__ else 0
    greatest = weight.dequantize().transpose(0, axis).flatten(1).abs().amax(1)
    mean = float(greatest.square().mean())
    return 10 * math.log10(float(greatest.max()) ** 2 / mean) if mean > 0 else 0.0
