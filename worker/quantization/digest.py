"""One hash of all that int8 is made of: equal weights and qparams, equal hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from worker.quantization.int8_modules import int8_weights, weight_scales, weight_zero_points


def weights_digest(quantized: nn.Module) -> str:
    """SHA-256, in hex, of every int8 weight with its qparams and bias and of every scale and zero point of activations.

    Kernels pack weights each in their own way; what is hashed is what they were packed from.
    """
    digest = hashlib.sha256()

    def add(name: str, *values: Tensor) -> None:
        digest.update(name.encode())
        for value in values:
            digest.update(value.detach().flatten().contiguous().view(torch.uint8).numpy().tobytes())  # any dtype

    for name, module in sorted(quantized.named_modules()):
        add(name, *_parts_of(module))
    if isinstance(quantized, fx.GraphModule):
        for node in quantized.graph.nodes:  # the qparams of operators that are functions
            if node.op == "get_attr" and isinstance(value := getattr(quantized, str(node.target), None), Tensor):
                add(str(node.target), value)
    return digest.hexdigest()


def _parts_of(module: Any) -> Iterator[Tensor]:
    """Weights as integers with their qparams, biases, and the qparams of the output."""
    for _, weight in sorted(int8_weights(module).items()):
        yield weight.int_repr()
        yield weight_scales(weight)
        yield weight_zero_points(weight)
    if callable(bias := getattr(module, "bias", None)) and isinstance(values := bias(), Tensor):
        yield values.float()
    for which in ("scale", "zero_point"):
        if isinstance(value := getattr(module, which, None), int | float):
            yield torch.tensor(float(value), dtype=torch.float64)
