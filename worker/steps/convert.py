"""Convert: int8 operators are emitted, and the module is frozen to the form that users run."""

from __future__ import annotations

import io
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worker.inference import Model
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


def never_called(candidate: Model) -> Model:
    """A copy as a user has it who loads the artifact and runs it at one batch size; its kernels must be selected.

    oneDNN's quantized operators keep the primitive of the first shape they meet; at any other they build a new one on
    every call: 0.22 ms instead of 0.08 ms was seen for a small network that had met another batch size before.
    """
    if not isinstance(candidate, torch.jit.ScriptModule):
        return candidate
    saved = io.BytesIO()
    torch.jit.save(candidate, saved)
    saved.seek(0)
    loaded: Model = torch.jit.load(saved)  # type: ignore[no-untyped-call]  # torch.jit is untyped
    return loaded
