"""Convert: int8 operators are emitted, and the module is frozen to the form that users run."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worker.quantization import freeze


@dataclass(frozen=True)
class Quantized:
    """An int8 model in both forms."""

    module: nn.Module
    """What quantization made; the artifact is checked against it."""
    frozen: torch.jit.ScriptModule
    """What is evaluated, benchmarked and packaged."""


def freeze_quantized(module: nn.Module, example_inputs: tuple[Tensor, ...]) -> Quantized:
    """Freeze a converted module to TorchScript."""
    return Quantized(module, freeze(module, example_inputs))
