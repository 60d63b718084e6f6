"""What the passes over an ONNX model have in common: finding constants and scales, making nodes and initializers."""

from __future__ import annotations

import itertools
from collections.abc import Container, Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Array = NDArray[Any]

LAYER = "octavo.layer"
"""The name of the user's layer that a node is of, among its metadata."""


def nodes_of(model: ir.Model, *op_types: str) -> Iterator[ir.Node]:
    """The nodes of these types, in order; the model may be changed meanwhile."""
    yield from [node for node in model.graph if node.op_type in op_types and not node.domain]


def layers_by_node(model: ir.Model) -> dict[str, str]:
    """By name of a node, the layer that it is of; those of none are left out."""
    return {str(node.name): node.metadata_props[LAYER] for node in model.graph if LAYER in node.metadata_props}


def constant(value: ir.Value | None) -> Array | None:
    """The values of an initializer or constant; None for anything that is computed."""
    if value is None or value.const_value is None:
        return None
    return value.const_value.numpy()


def maker(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """The node that gives a value, if it is of this type."""
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == op_type and not node.domain else None


def only_reader(value: ir.Value) -> ir.Node | None:
    """The only node that reads a value; None for several, none, or an output of the model."""
    readers = {use.node for use in value.uses()}
    return next(iter(readers)) if len(readers) == 1 and not value.is_graph_output() else None


def scale_of(value: ir.Value | None) -> Array | None:
    """The scale of what a DequantizeLinear gives; None for any other value."""
    node = maker(value, "DequantizeLinear")
    return None if node is None else constant(node.inputs[1])


def affine_qparams(node: ir.Node) -> tuple[float, int] | None:
    """One scale and a zero point other than 0, of unsigned integers, that a node (de)quantizes with; None otherwise."""
    scale, zero_point = constant(node.inputs[1]), constant(node.inputs[2] if len(node.inputs) > 2 else None)
    if scale is None or zero_point is None or zero_point.dtype != np.uint8 or zero_point.size != 1:
        return None
    zero = int(zero_point.item())
    return (float(scale.item()), zero) if zero else None


def axis_of(node: ir.Node, default: int) -> int:
    """The `axis` of a node."""
    found = node.attributes.get("axis")
    return default if found is None else int(found.as_int())


def name_of(node: ir.Node, position: int = 0) -> str:
    """The name of what a node reads at this position."""
    value = node.inputs[position]
    return str(node.name if value is None else value.name)


def add_initializer(model: ir.Model, values: Array, like: str) -> ir.Value:
    """A new initializer with a free name like this one."""
    name = _free(like, model.graph.initializers)
    tensor = ir.tensor(values, name=name)
    value = ir.Value(name=name, shape=ir.Shape(values.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    model.graph.register_initializer(value)
    return value


def _free(like: str, taken: Container[str]) -> str:
    names = (like if count == 0 else f"{like}_{count}" for count in itertools.count())
    return next(name for name in names if name not in taken)


def insert_after(node: ir.Node, op_type: str, inputs: Sequence[ir.Value | None], **attributes: Any) -> ir.Value:
    """A node of one output behind another node, of the same layer and with a free name."""
    assert node.graph is not None
    name = _free(f"{node.name}_{op_type}", {str(each.name) for each in node.graph})
    layer = {LAYER: node.metadata_props[LAYER]} if LAYER in node.metadata_props else {}
    made = ir.node(op_type, inputs, attributes, name=name, metadata_props=layer)
    made.outputs[0].name = f"{node.outputs[0].name}{name.removeprefix(str(node.name))}"
    node.append(made)
    return made.outputs[0]


def replace(old: ir.Value, new: ir.Value) -> None:
    """Let whatever reads one value read another, outputs of the model too."""
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)


def scalar(values: Array) -> float | None:
    """The one number in an array; None where there are several."""
    return float(np.asarray(values).reshape(())) if np.asarray(values).size == 1 else None
