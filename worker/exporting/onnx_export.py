"""From a graph of PyTorch to an ONNX model, with the batch left open where the program leaves it open."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir
import torch
from torch import Tensor, fx

from worker.quantization import InputSpec

OPSET = 18

_NODE = re.compile(r"%(\w+)")
_OPERATOR = re.compile(r"OpOverload\(op='([\w.]+)'")
_LAYER = "nn_module_stack"

# That torchvision is not installed it says four times.
logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)


class CannotExport(Exception):
    """An operator has no counterpart in ONNX; the message names it and its layer."""


def export_onnx(
    module: fx.GraphModule, inputs: tuple[Tensor, ...], specs: Sequence[InputSpec], outputs: Sequence[str]
) -> ir.Model:
    """The module as an ONNX model whose inputs and outputs bear the program's names. Raises CannotExport."""
    open_sizes = tuple(
        {axis: torch.export.Dim.AUTO for axis, symbol in enumerate(spec.symbols) if symbol is not None}
        for spec in specs
    )
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.export.export(module, inputs, dynamic_shapes=open_sizes, strict=False)
        try:
            exported = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                input_names=[spec.name for spec in specs],
                output_names=list(outputs),
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise CannotExport(_what_failed(error, program)) from error
    assert exported is not None
    return exported.model


def _what_failed(error: BaseException, program: torch.export.ExportedProgram) -> str:
    """The operator and where it is: the exporter names them deep in the chain of its errors."""
    chain, link = [str(error)], error.__cause__
    while link is not None:
        chain.append(str(link))
        link = link.__cause__
    told = "\n".join(reversed(chain))
    operator = _OPERATOR.search(told)
    what = f"The operator {operator.group(1)}" if operator else "An operator"
    layer = _layer_near(_NODE.findall(told), program)
    return f"{what}{f', at or behind the layer {layer},' if layer else ''} cannot be written as ONNX."


def _layer_near(names: Sequence[str], program: torch.export.ExportedProgram) -> str | None:
    """The layer of the first of these nodes that lies in one, or of what it was computed from."""
    # The exporter decomposes the program first, into nodes of other names, and numbers some of them.
    nodes = {node.name: node for node in (*program.run_decompositions().graph.nodes, *program.graph.nodes)}
    known = [name if name in nodes else re.sub(r"_\d+$", "", name) for name in names]
    waiting = [nodes[name] for name in known if name in nodes]
    seen = set(waiting)
    while waiting:
        node = waiting.pop(0)
        if inside := [path for path, _ in node.meta.get(_LAYER, {}).values() if path]:
            return str(inside[-1])
        behind = [each for each in node.all_input_nodes if each not in seen]
        seen.update(behind)
        waiting += behind
    return None


def save(model: ir.Model, path: Path) -> None:
    """Write the model into one file."""
    ir.save(model, path)
