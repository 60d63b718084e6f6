"""Which operators torch.ao has an int8 form of, with calibrated ranges; and which qengine takes which weights."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn
from torch.ao.quantization.backend_config import get_native_backend_config

from worker.quantization.grouping import RECURRENT, Group

#: Their prepacking refuses weights whose zero points are not zero (torch 2.13).
SYMMETRIC_ONLY = ("onednn",)


DEQUANTIZED_FOR_IT = "no int8 kernel: int8 tensors are dequantized for it, and what it gives is quantized again"
"""Why something is in float that stands between int8 layers and has no kernel."""


def has_kernel(group: Group) -> bool:
    """Whether torch.ao has an int8 form of what a group begins with."""
    if isinstance(group.module, RECURRENT):
        return False
    first = group.nodes[0]
    return (type(group.module) if first.op == "call_module" else first.target) in _patterns()


@functools.cache
def holds_per_channel(qengine: str) -> bool:
    """Whether a qengine's convolutions and Linears take weights with a scale a channel: a small one of each is tried.

    All of torch 2.13's do, qnnpack's too; a build whose kernels do not refuses to pack such weights.
    """
    values = torch.quantize_per_tensor(torch.ones(1, 2, 1, 1), 1 / 64, 0, torch.quint8)
    scales, zero_points = torch.tensor([1 / 64, 1 / 4096]), torch.zeros(2, dtype=torch.long)
    weight = torch.quantize_per_channel(scales[:, None].expand(2, 2) * 32, scales, zero_points, 0, torch.qint8)
    was = torch.backends.quantized.engine
    torch.backends.quantized.engine = qengine
    try:
        linear = torch.ops.quantized.linear_prepack(weight, None)
        convolution = torch.ops.quantized.conv2d_prepack(weight[..., None, None], None, [1, 1], [0, 0], [1, 1], 1)
        found = (
            torch.ops.quantized.linear(values.flatten(1), linear, 1 / 64, 0),
            torch.ops.quantized.conv2d(values, convolution, 1 / 64, 0),
        )
    except RuntimeError:
        return False
    finally:
        torch.backends.quantized.engine = was
    return all(each.int_repr().flatten().tolist() == [64, 1] for each in found)


@functools.cache
def _patterns() -> frozenset[Any]:
    """The modules, functions and methods."""
    configs = get_native_backend_config().configs
    found = {config.pattern for config in configs if config.pattern is not None}
    return frozenset(pattern for pattern in found if not isinstance(pattern, tuple)) - {nn.LSTM, nn.GRU}
