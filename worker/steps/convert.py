"""Convert: int8 operators are emitted, and the module is frozen to the form that users run."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

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


def in_memory(frozen: torch.jit.ScriptModule) -> io.BytesIO:
    """The model as its file would be."""
    saved = io.BytesIO()
    torch.jit.save(frozen, saved)
    return saved


def never_called(candidate: Model | Path | io.BytesIO) -> Model:
    """A copy, or a file loaded, as a user has it who runs it at one batch size; its kernels must be selected.

    oneDNN's quantized operators keep the primitive of the first shape they meet; at any other they build a new one on
    every call: 0.22 ms instead of 0.08 ms was seen for a small network that had met another batch size before.
    """
    if isinstance(candidate, torch.jit.ScriptModule):
        candidate = in_memory(candidate)
    if isinstance(candidate, io.BytesIO):
        candidate.seek(0)
    elif not isinstance(candidate, Path):
        return candidate
    loaded: Model = torch.jit.load(candidate)  # type: ignore[no-untyped-call]  # torch.jit is untyped
    return loaded
