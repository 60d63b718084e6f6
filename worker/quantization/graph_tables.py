"""The FX graph before and after as tables, node by node: what `print_tabular` prints, with layer, precision, shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, fx

from shared.layer_report import GraphNode, LayerPrecision
from worker.quantization.grouping import module_of
from worker.quantization.int8_modules import precision_of
from worker.quantization.labelling import Labelled, is_boundary
from worker.quantization.observing import Observed

_LONGEST_ARGUMENTS = 200

Precision = LayerPrecision | Literal["boundary", "other"]
Shape = list[int | None]


def float_table(raised: fx.GraphModule) -> list[GraphNode]:
    """The raised graph, all of it in float."""
    shapes = float_shapes(raised)
    return [
        _line(node, layer=_layer(node), precision=_float_precision(node), shape=shapes.get(node), root=raised)
        for node in raised.graph.nodes
    ]


def int8_table(graphs: Labelled, observed: Observed) -> list[GraphNode]:
    """The quantized graph; a dimension that varies with the batch is null, as in the float one."""
    layers, quantized = graphs.layers, graphs.quantized
    of_layer = {_layer(node): shape for node, shape in float_shapes(graphs.raised).items()}
    shapes: dict[fx.Node, Shape] = {}
    for node in quantized.graph.nodes:
        shape = of_layer.get(layers.get(node, ""))
        if shape is None and is_boundary(node):
            shape = shapes.get(node.all_input_nodes[0])
        if shape is None and node in observed.given:
            shape = list(observed.given[node].shape)
        if shape is not None:
            shapes[node] = shape
    return [
        _line(
            node,
            layer=layers.get(node),
            precision=_precision(quantized, node, observed),
            shape=shapes.get(node),
            root=quantized,
        )
        for node in quantized.graph.nodes
    ]


def float_shapes(raised: fx.GraphModule) -> Mapping[fx.Node, Shape]:
    """The shape of every tensor of a raised graph; null for dimensions that vary."""
    return {
        node: [size if isinstance(size, int) else None for size in node.meta["val"].shape]
        for node in raised.graph.nodes
        if isinstance(node.meta.get("val"), Tensor)
    }


def _line(
    node: fx.Node, *, layer: str | None, precision: Precision, shape: Shape | None, root: fx.GraphModule
) -> GraphNode:
    module = module_of(root, node)
    target = str(node.target) if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    arguments = ", ".join([*map(str, node.args), *(f"{key}={value}" for key, value in node.kwargs.items())])
    if len(arguments) > _LONGEST_ARGUMENTS:
        arguments = f"{arguments[: _LONGEST_ARGUMENTS - 1]}…"
    return GraphNode(
        name=node.name,
        op=node.op,
        target=target if module is None else f"{target}: {type(module).__name__}",
        args=arguments,
        inputs=[source.name for source in node.all_input_nodes],
        layer=layer,
        precision=precision,
        shape=shape,
    )


def _layer(node: fx.Node) -> str | None:
    return str(node.meta["layer"]) if node.meta.get("layer") else None


def _float_precision(node: fx.Node) -> Precision:
    value = node.meta.get("val")
    computes = node.op.startswith("call_") or node.op == "placeholder"
    return "float32" if computes and isinstance(value, Tensor) and value.is_floating_point() else "other"


def _precision(quantized: fx.GraphModule, node: fx.Node, observed: Observed) -> Precision:
    if is_boundary(node):
        return "boundary"
    precision = precision_of(module_of(quantized, node))
    if precision != "float32":
        return precision
    given = observed.given.get(node)
    if given is None or node.op in ("get_attr", "output"):
        return "other"
    if given.is_int8:
        return "int8"
    return "float32" if given.dtype is torch.float32 else "other"
