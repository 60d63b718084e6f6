"""Convert: int8 operators are emitted, and the module is frozen to the form that users run."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from worker.quantization import freeze


@dataclass(frozen=True)
class Quantized:
    """An int8 model in both forms."""

    module: nn.Module
    """What quantization made; the artifact is checked against it."""
    file: Path
    """What is evaluated, benchmarked and packaged: it is frozen, and in memory only while it runs."""
    qengine: str
    """Whose kernels both are for."""

    def load(self) -> torch.jit.ScriptModule:
        """The frozen model; its kernels are selected, for weights are packed for them as they are loaded."""
        torch.backends.quantized.engine = self.qengine
        loaded: torch.jit.ScriptModule = torch.jit.load(self.file)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return loaded


def freeze_quantized(
    module: nn.Module, example_inputs: tuple[Tensor, ...], *, qengine: str, scratch: Path
) -> Quantized:
    """Freeze a converted module to TorchScript and write it to a file of its own in this folder."""
    file = scratch / f"int8_{uuid.uuid4()}.pt"
    torch.jit.save(freeze(module, example_inputs), file)
    return Quantized(module, file, qengine)
