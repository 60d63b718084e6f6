"""What conversion put in a layer's place, and the weights that it holds."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from shared.layer_report import LayerPrecision
from worker.quantization.bags import QuantizedBag

_INT8_MODULES = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized")
_PER_CHANNEL = (torch.per_channel_affine, torch.per_channel_symmetric, torch.per_channel_affine_float_qparams)
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


def is_per_channel(qscheme: torch.qscheme) -> bool:
    """Whether it has a scale for every channel, or for every row of a table."""
    return qscheme in _PER_CHANNEL


def weight_scales(weight: Tensor) -> Tensor:
    """Of a quantized weight: one, or one a channel."""
    return weight.q_per_channel_scales() if is_per_channel(weight.qscheme()) else torch.tensor(weight.q_scale())


def weight_zero_points(weight: Tensor) -> Tensor:
    """Likewise."""
    per_channel = is_per_channel(weight.qscheme())
    return weight.q_per_channel_zero_points() if per_channel else torch.tensor(weight.q_zero_point())


def weight_values(quantized: nn.Module, layer: str) -> Tensor | None:
    """The first weight of a quantized layer, as it computes with it; None for a layer without one."""
    module = _module_named(quantized, layer)
    weights = {} if module is None else int8_weights(module)
    return next((weight.dequantize().flatten() for weight in weights.values()), None)


def per_channel_gain_db(quantized: nn.Module, layer: str) -> float | None:
    """By how much a scale a channel would bring the weights nearer to float; None where they have that, or are none.

    Rounding leaves a noise in proportion to scale²: `10·log10(max_c m² / mean_c m²)`, with the greatest magnitude `m`
    of each output channel.
    """
    module = _module_named(quantized, layer)
    weight = None if module is None else int8_weights(module).get("weight")
    if weight is None or weight.dim() < 2 or is_per_channel(weight.qscheme()):
        return None
    axis = 1 if "Transpose" in type(module).__name__ else 0
    greatest = weight.dequantize().transpose(0, axis).flatten(1).abs().amax(1)
    mean = float(greatest.square().mean())
    return 10 * math.log10(float(greatest.max()) ** 2 / mean) if mean > 0 else 0.0


def _module_named(root: nn.Module, name: str) -> nn.Module | None:
    """None for an operator that is a function."""
    try:
        return root.get_submodule(name)
    except AttributeError:
        return None
