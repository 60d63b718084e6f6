"""The passes for biases: corrected for a runtime's arithmetic, and as the integers that its kernels add."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from worker.exporting.rewriting import (
    LAYER,
    Array,
    add_initializer,
    axis_of,
    constant,
    insert_after,
    maker,
    name_of,
    nodes_of,
    scalar,
    scale_of,
)

_INT32_LIMIT = 2**31 - 1


def shift_biases(model: ir.Model, shifts: Mapping[str, Array]) -> None:
    """Add to the biases of products, by the layer that they are of: one number a channel each."""
    for node in nodes_of(model, "Conv", "Gemm"):
        shift = shifts.get(node.metadata_props.get(LAYER, ""))
        bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
        if shift is None or bias is None or bias.shape != shift.shape:
            continue
        shifted = add_initializer(model, (bias + shift).astype(bias.dtype), f"{name_of(node, 2)}_shifted")
        node.replace_input_with(2, shifted)


def fit_biases_into_integers(model: ir.Model) -> None:
    """Let a weight's scale be no less than lets the bias fit into int32, at the product's scale. For ONNX Runtime.

    A filter that is all zero, as pruning leaves them, has the least scale that there is: its bias overflowed without a
    word, in 16 channels 1.2 dB were left of 43.6. Where a bias is that large the weight's rounding is lost in it.
    """
    for node in nodes_of(model, "Conv", "Gemm"):
        bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
        dequantize, of_input = maker(node.inputs[1], "DequantizeLinear"), scale_of(node.inputs[0])
        step = None if of_input is None else scalar(of_input)
        integers = None if dequantize is None else constant(dequantize.inputs[0])
        scale = None if dequantize is None else constant(dequantize.inputs[1])
        if bias is None or dequantize is None or integers is None or scale is None or step is None:
            continue
        least = 2 * np.abs(bias.astype(np.float64)) / (step * _INT32_LIMIT)
        if scale.size == 1:
            least = least.max(initial=0).reshape(scale.shape)
        if least.shape != scale.shape or (least <= scale).all():
            continue
        fitting, shape = np.maximum(scale, least).astype(np.float32), [1] * integers.ndim
        shape[axis_of(dequantize, 1)] = -1
        rounded = np.round(integers * (scale.astype(np.float64) / fitting).reshape(shape)).astype(integers.dtype)
        made = insert_after(
            dequantize,
            "DequantizeLinear",
            [
                add_initializer(model, rounded, f"{name_of(dequantize)}_fitting"),
                add_initializer(model, fitting, f"{name_of(dequantize, 1)}_fitting"),
                *dequantize.inputs[2:],
            ],
            axis=axis_of(dequantize, 1),
        )
        node.replace_input_with(1, made)


def hold_biases_as_integers(model: ir.Model) -> None:
    """Give a Gemm its bias in int32, at the product's scale. For ONNX Runtime.

    Its QGemm wants that where the output is float; without it 12 of 14 Linears of a BERT computed in float.
    """
    for node in nodes_of(model, "Gemm"):
        if len(node.inputs) < 3 or (bias := constant(node.inputs[2])) is None:
            continue
        of_input, of_weight = scale_of(node.inputs[0]), scale_of(node.inputs[1])
        if of_input is None or of_weight is None or (step := scalar(of_input)) is None:
            continue
        scale = (step * of_weight.astype(np.float64)).astype(np.float32)
        integers = np.round(bias.astype(np.float64) / scale)
        if np.abs(integers).max(initial=0) > _INT32_LIMIT:
            continue
        name = name_of(node, 2)
        held = add_initializer(model, integers.astype(np.int32), f"{name}_int32")
        made = ir.node("DequantizeLinear", [held, add_initializer(model, scale, f"{name}_scale")], {"axis": 0})
        made.outputs[0].name = f"{node.outputs[0].name}_bias"  # several Linears may read the same bias
        node.prepend(made)
        node.replace_input_with(2, made.outputs[0])
