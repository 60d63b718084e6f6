"""From a graph of PyTorch to an ONNX model, with the batch left open where the program leaves it open."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir
import torch
from torch import Tensor, fx

from worker.quantization import InputSpec

OPSET = 20  # the first with a GELU: ONNX Runtime knows it from what 18 spells it out as only in some orders


def export_onnx(
    module: fx.GraphModule, inputs: tuple[Tensor, ...], specs: Sequence[InputSpec], outputs: Sequence[str]
) -> ir.Model:
    """The module as an ONNX model whose inputs and outputs bear the program's names."""
    open_sizes = tuple(
        {axis: torch.export.Dim.AUTO for axis, symbol in enumerate(spec.symbols) if symbol is not None}
        for spec in specs
    )
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.export.export(module, inputs, dynamic_shapes=open_sizes, strict=False)
        exported = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=[spec.name for spec in specs],
            output_names=list(outputs),
        )
    assert exported is not None
    return exported.model


def save(model: ir.Model, path: Path) -> None:
    """Write the model into one file."""
    ir.save(model, path)
