"""The pass for batch norms that stand alone, as in a DenseNet: on integers, if these have no zero point."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from worker.exporting.passes import SHAPE_OPERATORS
from worker.exporting.rewriting import add_initializer, affine_qparams, constant, maker, name_of, nodes_of, only_reader


def read_norms_by_scale_alone(model: ir.Model) -> None:
    """Shift what a batch norm reads, so that it has no zero point, and let the norm take the shift back. For OpenVINO.

    It computes a norm that stands alone with the quantization behind it, on integers, if they have no zero point; with
    one it converts them to floats first: a DenseNet took 1.65 times as long. `x + s·z` quantized without a zero
    point gives the integers of `x` quantized with it, so that nothing is lost.
    """
    read = [node for norm in nodes_of(model, "BatchNormalization") for node in _dequantized_for(norm.inputs[0])]
    offsets: dict[ir.Node, float] = {}  # of what goes into a QuantizeLinear
    # What is pooled, or joined with others, shares its qparams with them.
    for scale, zero in {qparams for node in read if (qparams := affine_qparams(node)) is not None}:
        alike = [
            node
            for node in nodes_of(model, "QuantizeLinear", "DequantizeLinear")
            if affine_qparams(node) == (scale, zero)
        ]
        readers = {reader for node in alike if node.op_type == "DequantizeLinear" for reader in _carried_to(node)}
        if any(reader.op_type not in ("BatchNormalization", "QuantizeLinear") for reader in readers):
            continue
        shift = scale * zero
        for node in alike:
            without = add_initializer(model, np.array(0, np.uint8), f"{name_of(node)}_zero_point_0")
            node.replace_input_with(2, without)
            if node.op_type == "QuantizeLinear":
                offsets[node] = offsets.get(node, 0.0) + shift
        for reader in readers:
            if reader.op_type == "QuantizeLinear":
                offsets[reader] = offsets.get(reader, 0.0) - shift
            elif (mean := constant(reader.inputs[3])) is not None:
                shifted = add_initializer(model, (mean + shift).astype(mean.dtype), f"{name_of(reader, 3)}_shifted")
                reader.replace_input_with(3, shifted)
    for quantize, offset in offsets.items():
        if offset:
            _add_to_what_is_quantized(model, quantize, offset)


def _add_to_what_is_quantized(model: ir.Model, quantize: ir.Node, offset: float) -> None:
    source = quantize.inputs[0]
    assert source is not None
    product = maker(source, "Conv")
    bias = None if product is None or len(product.inputs) < 3 else constant(product.inputs[2])
    if product is not None and bias is not None and only_reader(source) is quantize:
        shifted = add_initializer(model, (bias + offset).astype(bias.dtype), f"{name_of(product, 2)}_shifted")
        product.replace_input_with(2, shifted)
        return
    shift = add_initializer(model, np.array(offset, np.float32), f"{source.name}_shift")
    made = ir.node("Add", [source, shift], name=f"{quantize.name}_Add", metadata_props=dict(quantize.metadata_props))
    made.outputs[0].name = f"{source.name}_shifted"
    quantize.prepend(made)
    quantize.replace_input_with(0, made.outputs[0])


def _dequantized_for(value: ir.Value | None) -> Iterator[ir.Node]:
    """What dequantizes a value, through what leaves a shift as it is."""
    node = None if value is None else value.producer()
    if node is None:
        return
    if node.op_type == "DequantizeLinear":
        yield node
    elif _carries(node):
        for source in node.inputs if node.op_type == "Concat" else node.inputs[:1]:
            yield from _dequantized_for(source)


def _carried_to(node: ir.Node) -> Iterator[ir.Node]:
    """Who computes with what a node gives, or with what carries it on."""
    for output in node.outputs:
        for use in output.uses():
            if _carries(use.node):
                yield from _carried_to(use.node)
            else:
                yield use.node


def _carries(node: ir.Node) -> bool:
    """Whether a shift of all that goes in is the same shift of all that comes out."""
    if node.op_type == "AveragePool":
        pads = node.attributes.get("pads")
        return pads is None or not any(pads.as_ints())
    return node.op_type == "MaxPool" or node.op_type in SHAPE_OPERATORS
