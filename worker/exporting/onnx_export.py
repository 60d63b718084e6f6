"""From a graph of PyTorch to an ONNX model, by way of a program that can wait in a file."""

from __future__ import annotations

import ast
import inspect
import logging
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from worker.exporting.rewriting import LAYER
from worker.quantization import InputSpec, is_function, layer_of_scopes, with_named_functions

OPSET = 20  # the first with a GELU: ONNX Runtime knows it from what 18 spells it out as only in some orders

_NODE = re.compile(r"%(\w+)")
_OPERATOR = re.compile(r"OpOverload\(op='([\w.]+)'")
_MODULES = "nn_module_stack"
_SCOPES = "pkg.torch.onnx.name_scopes"
_WITHOUT_HEADS = 3  # axes

# That torchvision is not installed it says four times.
logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)


class CannotExport(Exception):
    """An operator has no counterpart in ONNX; the message names it and its layer."""


def trace(module: fx.GraphModule, inputs: tuple[Tensor, ...], specs: Sequence[InputSpec]) -> ExportedProgram:
    """The module as a program of PyTorch, with the batch left open where `specs` leave it open."""
    open_sizes = tuple(
        {axis: torch.export.Dim.AUTO for axis, symbol in enumerate(spec.symbols) if symbol is not None}
        for spec in specs
    )
    with torch.no_grad(), _AttentionWithHeads():
        return torch.export.export(with_named_functions(module), inputs, dynamic_shapes=open_sizes, strict=False)


class _AttentionWithHeads(TorchFunctionMode):
    """Attention over (batch, position, width) as that of one head: the exporter knows it with heads alone."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not functional.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        given = inspect.signature(_attention).bind(*args, **(kwargs or {})).arguments
        if given["query"].ndim != _WITHOUT_HEADS:
            return func(**given)
        for name in ("query", "key", "value", "attn_mask"):
            tensor = given.get(name)
            if tensor is not None and tensor.ndim == _WITHOUT_HEADS:
                given[name] = tensor.unsqueeze(1)
        return func(**given).squeeze(1)


def _attention(  # noqa: PLR0917 - as torch has it, which tells no signature of its own
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> None: ...


def export_onnx(program: ExportedProgram, specs: Sequence[InputSpec], outputs: Sequence[str]) -> ir.Model:
    """The program as an ONNX model whose inputs and outputs bear these names, and its nodes those of their layers.

    Raises CannotExport.
    """
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
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
    for node in exported.model.graph:
        layer = layer_of_scopes(ast.literal_eval(node.metadata_props.get(_SCOPES, "[]")))
        if layer is not None:
            node.metadata_props[LAYER] = layer
    return exported.model


def save(model: ir.Model, path: Path, *, weights_apart: bool = False) -> None:
    """Write the model into one file, or its weights into another beside it: then they are never in memory twice."""
    ir.save(model, path, external_data=f"{path.name}.data" if weights_apart else None)


def _what_failed(error: BaseException, program: ExportedProgram) -> str:
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


def _layer_near(names: Sequence[str], program: ExportedProgram) -> str | None:
    """The layer of the first of these nodes that lies in one, or of what it was computed from."""
    # The exporter decomposes the program first, into nodes of other names, and numbers some of them.
    nodes = {node.name: node for node in (*program.run_decompositions().graph.nodes, *program.graph.nodes)}
    known = [name if name in nodes else re.sub(r"_\d+$", "", name) for name in names]
    waiting = [nodes[name] for name in known if name in nodes]
    seen = set(waiting)
    while waiting:
        node = waiting.pop(0)
        if inside := [path for path, _ in node.meta.get(_MODULES, {}).values() if path and not is_function(path)]:
            return str(inside[-1])
        behind = [each for each in node.all_input_nodes if each not in seen]
        seen.update(behind)
        waiting += behind
    return None
