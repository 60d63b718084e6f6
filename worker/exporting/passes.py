"""Passes over the exported reference graph: into the forms that runtimes fuse into int8 kernels.

Each says which runtime wants it and what was seen without it. None changes what is computed by more than rounding.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from worker.exporting.rewriting import (
    Array,
    add_initializer,
    axis_of,
    constant,
    insert_after,
    maker,
    name_of,
    nodes_of,
    only_reader,
    replace,
    scale_of,
)

_SIGMOID_SCALE = np.float32(1 / 255)
#: Give a tensor another shape, in whatever type it is.
SHAPE_OPERATORS = frozenset({
    "Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose",
    "Unsqueeze",
})  # fmt: skip
#: Multiply in int8 whatever they give, if what they are given is.
_PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
#: Have a form on integers, from QDQ to QDQ.
_INTEGER_OPERATORS = frozenset({
    "Add", "AveragePool", "Clip", "GlobalAveragePool", "LeakyRelu", "MaxPool", "Mul", "Relu", "Resize", "Sigmoid",
})  # fmt: skip
#: Done by the operator before them.
_ACTIVATIONS = frozenset({"Clip", "Relu"})


def fold_transposed_weights(model: ir.Model) -> None:
    """Transpose the integers of a Linear's weight themselves, not what they are dequantized to.

    `MatMul(x, Transpose(DequantizeLinear(w)))` becomes `MatMul(x, DequantizeLinear(wᵀ))`: both runtimes look for the
    weight right before the product.
    """
    for node in nodes_of(model, "Transpose"):
        dequantize = maker(node.inputs[0], "DequantizeLinear")
        integers = None if dequantize is None else constant(dequantize.inputs[0])
        if dequantize is None or integers is None:
            continue
        order = [int(axis) for axis in node.attributes["perm"].as_ints()]
        weight = add_initializer(model, np.ascontiguousarray(integers.transpose(order)), f"{name_of(dequantize)}_t")
        axis = order.index(axis_of(dequantize, 1) % integers.ndim)
        made = insert_after(node, "DequantizeLinear", [weight, *dequantize.inputs[1:]], axis=axis)
        replace(node.outputs[0], made)


def quantize_sigmoids(model: ir.Model) -> None:
    """Quantize what a sigmoid gives, where it multiplies what it was given: SiLU. For ONNX Runtime.

    Its range is known, 0 to 1. With it both become integer operators (QLinearSigmoid, QLinearMul); OpenVINO fuses SiLU
    as it stands, and would not with this.
    """
    for node in nodes_of(model, "Sigmoid", "HardSigmoid"):
        source, gives = node.inputs[0], node.outputs[0]
        product = only_reader(gives)
        if product is None or product.op_type != "Mul" or scale_of(source) is None:
            continue
        if (behind := only_reader(product.outputs[0])) is None or behind.op_type != "QuantizeLinear":
            continue
        qparams = [
            add_initializer(model, np.array(_SIGMOID_SCALE), "sigmoid_scale"),
            add_initializer(model, np.array(0, np.uint8), "sigmoid_zero_point"),
        ]
        integers = insert_after(node, "QuantizeLinear", [gives, *qparams])
        made = insert_after(_maker(integers), "DequantizeLinear", [integers, *qparams])
        for position, value in enumerate(product.inputs):
            if value is gives:
                product.replace_input_with(position, made)


def pool_over_all(model: ir.Model) -> None:
    """Name a mean over all positions of an image what runtimes have a kernel for."""
    for node in nodes_of(model, "ReduceMean"):
        source = node.inputs[0]
        axes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
        keeps = "keepdims" not in node.attributes or node.attributes["keepdims"].as_int() == 1
        if source is None or source.shape is None or axes is None or not keeps:
            continue
        rank = len(source.shape)
        if rank == 4 and sorted(int(axis) % rank for axis in axes) == [2, 3]:
            replace(node.outputs[0], insert_after(node, "GlobalAveragePool", [source]))
            model.graph.remove(node, safe=True)  # or it would still be a reader


def pool_greatest_over_all(model: ir.Model) -> None:
    """Name a maximum over all positions of an image a pool. For OpenVINO.

    Its ReduceMax behind an int8 convolution is wrong (2026.4): 9.5 dB were left where its pool has 43.
    """
    for node in nodes_of(model, "ReduceMax"):
        source = node.inputs[0]
        axes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
        if source is None or source.shape is None or axes is None:
            continue
        rank, sizes = len(source.shape), list(source.shape)[2:]
        if rank < 4 or sorted(int(axis) % rank for axis in axes) != list(range(2, rank)):
            continue
        if not all(isinstance(size, int) for size in sizes):
            continue  # GlobalMaxPool is a ReduceMax to OpenVINO, and as wrong
        pooled = insert_after(node, "MaxPool", [source], kernel_shape=sizes)
        if "keepdims" in node.attributes and node.attributes["keepdims"].as_int() == 0:
            squeezed = add_initializer(model, np.arange(2, rank), f"{name_of(node, 1)}_squeezed")
            pooled = insert_after(_maker(pooled), "Squeeze", [pooled, squeezed])
        replace(node.outputs[0], pooled)
        model.graph.remove(node, safe=True)


def pool_over_integers(model: ir.Model) -> None:
    """Let a mean over all positions read the integers that others read of the same image.

    Where it reads floats, those must be made: of an EfficientNet each squeeze-and-excite computed its SiLU in float in
    ONNX Runtime, between transposes, and OpenVINO's convolutions gave floats. A mean's rounding is lost in its many.
    """
    for node in nodes_of(model, "GlobalAveragePool"):
        source = node.inputs[0]
        assert source is not None
        quantize = next((use.node for use in source.uses() if use.node.op_type == "QuantizeLinear"), None)
        dequantize = None if quantize is None else only_reader(quantize.outputs[0])
        if dequantize is not None and dequantize.op_type == "DequantizeLinear":
            node.replace_input_with(0, dequantize.outputs[0])
    model.graph.sort()


def spell_out_hard_sigmoids(model: ir.Model) -> None:
    """Write a hard sigmoid as the product, sum and limits that it is. For OpenVINO.

    It computes those within the convolution before; for the operator it has a slow reference alone, which wants
    channels first, and then reordered the whole image that is multiplied by it.
    """
    for node in nodes_of(model, "HardSigmoid"):
        given = (node.attributes.get_float("alpha", 0.2), node.attributes.get_float("beta", 0.5), 0.0, 1.0)
        names = ("alpha", "beta", "least", "most")
        alpha, beta, least, most = (
            add_initializer(model, np.array(number, np.float32), f"hard_sigmoid_{name}")
            for number, name in zip(given, names, strict=True)
        )
        product = insert_after(node, "Mul", [node.inputs[0], alpha])
        total = insert_after(_maker(product), "Add", [product, beta])
        replace(node.outputs[0], insert_after(_maker(total), "Clip", [total, least, most]))
        model.graph.remove(node, safe=True)


def _maker(value: ir.Value) -> ir.Node:
    node = value.producer()
    assert node is not None
    return node


def multiply_without_zero_point(model: ir.Model) -> None:
    """Subtract the zero point of an image behind its product with a number a channel. For OpenVINO.

    `(q − z)·s · c` becomes `q·s · c − c·z·s`. It multiplies integers as they are; with a zero point to subtract it made
    floats of the whole image first, at every squeeze-and-excite behind a SiLU or hard swish.
    """
    for node in nodes_of(model, "Mul"):
        images = [each for each in node.inputs if not _is_one_a_channel(each)]
        factors = [each for each in node.inputs if _is_one_a_channel(each)]
        dequantize = maker(images[0], "DequantizeLinear") if len(images) == len(factors) == 1 else None
        if dequantize is None:
            continue
        scale, zero_point = constant(dequantize.inputs[1]), constant(dequantize.inputs[2])
        if scale is None or zero_point is None or not zero_point.any():
            continue
        none = add_initializer(model, np.zeros_like(zero_point), "no_zero_point")
        shift = add_initializer(model, np.float32(scale) * zero_point.astype(np.float32), "shift")
        plain = insert_after(dequantize, "DequantizeLinear", [*dequantize.inputs[:2], none])
        node.replace_input_with(node.inputs.index(images[0]), plain)
        offset = insert_after(node, "Mul", [factors[0], shift])
        product = node.outputs[0]
        shifted = ir.node("Sub", [product, offset], name=f"{node.name}_Sub")
        shifted.outputs[0].name = f"{product.name}_Sub"
        replace(product, shifted.outputs[0])
        shifted.replace_input_with(0, product)
        _maker(offset).append(shifted)


def _is_one_a_channel(value: ir.Value | None) -> bool:
    return value is not None and value.shape is not None and [*value.shape[2:]] == [1, 1]


def leave_linears_in_float(model: ir.Model) -> None:
    """Do not quantize what a Linear gives where nothing computes with it in int8.

    torch's kernels have no other way; the others give floats as well, and it is a rounding less.
    """
    _leave_in_float(model, frozenset({"Gemm", "MatMul"}), _INTEGER_OPERATORS)


def leave_convolutions_in_float(model: ir.Model) -> None:
    """Likewise what a convolution gives. For OpenVINO; ONNX Runtime's would compute in float altogether.

    OpenVINO 2026.4 gets a patch embedding wrong that is quantized and then reshaped: 8.9 dB of a ViT's 36.3. It has no
    sigmoid on integers, but computes one within a convolution; a Clip for the limits of the range took 1 to 3 %
    of an EfficientNet's time. Biases are corrected for that, see `shift_biases`.
    """
    _leave_in_float(model, frozenset({"Conv"}), _INTEGER_OPERATORS - {"Sigmoid"})


def average_floats(model: ir.Model) -> None:
    """Average what was computed, not what it was quantized to. For OpenVINO.

    Its mean of integers over an axis of open size came out as garbage (2026.4): −152 dB for a mean over tokens; its
    average pooling of integers rounds down, which cost a DenseNet 12 dB.
    """
    for node in nodes_of(model, "ReduceMean", "AveragePool"):
        dequantize = maker(node.inputs[0], "DequantizeLinear")
        quantize = None if dequantize is None else maker(dequantize.inputs[0], "QuantizeLinear")
        if dequantize is None or quantize is None:
            continue
        # A pool beside convolutions, as in an Inception, stays with the integers that they read.
        if node.op_type == "ReduceMean" or only_reader(dequantize.outputs[0]) is node:
            node.replace_input_with(0, quantize.inputs[0])


def _leave_in_float(model: ir.Model, products: frozenset[str], integer_operators: frozenset[str]) -> None:
    for node in nodes_of(model, "QuantizeLinear"):
        source = node.inputs[0]
        assert source is not None
        dequantize = only_reader(node.outputs[0])
        if dequantize is None or dequantize.op_type != "DequantizeLinear" or not _is_product(source, products):
            continue
        if not any(_computes_in_int8(reader, integer_operators) for reader in _readers(dequantize.outputs[0])):
            replace(dequantize.outputs[0], source)


def _is_product(value: ir.Value, products: frozenset[str]) -> bool:
    """Whether a value is what one of these gives, with a bias or without."""
    node = value.producer()
    if node is not None and node.op_type == "Add" and any(constant(each) is not None for each in node.inputs):
        node = next((each.producer() for each in node.inputs if each is not None and constant(each) is None), None)
    return node is not None and node.op_type in products


def _readers(value: ir.Value) -> Iterator[ir.Node]:
    """Who computes with a value, in whatever shape."""
    for use in value.uses():
        if use.node.op_type in SHAPE_OPERATORS:
            for output in use.node.outputs:
                yield from _readers(output)
        else:
            yield use.node


def _computes_in_int8(node: ir.Node, integer_operators: frozenset[str]) -> bool:
    if node.op_type == "QuantizeLinear":
        return True
    given = [value for value in node.inputs if value is not None and constant(value) is None]
    if any(maker(value, "DequantizeLinear") is None for value in given):
        return False
    if node.op_type in _PRODUCTS:
        return True
    return node.op_type in integer_operators and all(_is_quantized(output) for output in node.outputs)


def _is_quantized(value: ir.Value) -> bool:
    """Whether all that is read of a value is its integers, or those of what an activation makes of it.

    The sums of a resnet have a ReLU between: taken for float, three convolutions gave floats to OpenVINO's reorders.
    """
    behind = [use.node for use in value.uses()]
    return bool(behind) and all(
        node.op_type == "QuantizeLinear" or (node.op_type in _ACTIVATIONS and _is_quantized(node.outputs[0]))
        for node in behind
    )


def quantize_once(model: ir.Model) -> None:
    """Drop a quantization of what is quantized so already and was only given another shape. For OpenVINO.

    It knows a shuffle of channels by Reshape, Transpose, Reshape alone; with QDQ between them each shuffle of a
    ShuffleNet V2 was a Transpose and three reorders, and the whole took 1.3 times as long.
    """
    for quantize in nodes_of(model, "QuantizeLinear"):
        source = quantize.inputs[0]
        if source is None or not _is_quantized_like(source, quantize):
            continue
        for reader in [use.node for use in quantize.outputs[0].uses()]:
            if reader.op_type == "DequantizeLinear" and _same_qparams(reader, quantize):
                replace(reader.outputs[0], source)


def _is_quantized_like(value: ir.Value, quantize: ir.Node) -> bool:
    node = value.producer()
    if node is None or node.domain:
        return False
    if node.op_type == "DequantizeLinear":
        return _same_qparams(node, quantize)
    sources = node.inputs if node.op_type == "Concat" else node.inputs[:1]
    return node.op_type in SHAPE_OPERATORS and all(
        source is not None and _is_quantized_like(source, quantize) for source in sources
    )


def _same_qparams(one: ir.Node, other: ir.Node) -> bool:
    pairs = [(constant(mine), constant(its)) for mine, its in zip(one.inputs[1:], other.inputs[1:], strict=False)]
    return len(one.inputs) == len(other.inputs) and all(
        mine is not None and its is not None and mine.size == 1 and np.array_equal(mine, its) for mine, its in pairs
    )


def keep_weights_in_float(model: ir.Model) -> None:
    """Give a float layer between integers its input by a scale a channel, all of them the same. For ONNX Runtime.

    Otherwise it takes the layer for one whose weights were forgotten, and quantizes them by itself, with one scale for
    all channels (`WeightBiasQuantization`): what was left in float for the output's sake is in int8 after all.
    """
    for node in nodes_of(model, "Conv", "ConvTranspose", "Gemm"):
        dequantize, weight = maker(node.inputs[0], "DequantizeLinear"), constant(node.inputs[1])
        if dequantize is None or weight is None or not _is_quantized(node.outputs[0]):
            continue
        scale, zero_point = constant(dequantize.inputs[1]), constant(dequantize.inputs[2])
        if scale is None or zero_point is None or scale.size != 1:
            continue
        channels, name = _channels_read(node, weight), name_of(dequantize)
        qparams = [
            add_initializer(model, np.full(channels, values.item(), values.dtype), f"{name}_{what}_a_channel")
            for what, values in (("scale", scale), ("zero_point", zero_point))
        ]
        node.replace_input_with(
            0, insert_after(dequantize, "DequantizeLinear", [dequantize.inputs[0], *qparams], axis=1)
        )


def _channels_read(node: ir.Node, weight: Array) -> int:
    """How many channels a product reads; https://onnx.ai/onnx/operators/ has the layouts of its weight."""
    if node.op_type == "Conv":
        group = node.attributes.get("group")
        return int(weight.shape[1]) * (1 if group is None else group.as_int())
    transposed = node.attributes.get("transB")
    return int(weight.shape[1 if node.op_type == "Gemm" and transposed is not None and transposed.as_int() else 0])


def plain_softmax(model: ir.Model) -> None:
    """Take out what guards a softmax against rows that are masked whole, where nothing is masked.

    `scaled_dot_product_attention` exports as `Where(IsNaN(p), 0, p)`: a comparison and a choice for every probability.
    """
    for node in nodes_of(model, "Where"):
        test, instead, otherwise = node.inputs
        is_nan = maker(test, "IsNaN")
        softmax = maker(otherwise, "Softmax")
        if is_nan is None or softmax is None or is_nan.inputs[0] is not otherwise or constant(instead) is None:
            continue
        scores = softmax.inputs[0]
        assert otherwise is not None
        if scores is not None and maker(scores, "MatMul") is not None:  # no mask was added: no row is all −∞
            replace(node.outputs[0], otherwise)


def drop_idle_masks(model: ir.Model) -> None:
    """Take out what is added to the scores of an attention that masks nothing.

    A BERT that is given no mask makes one of its own, true for every pair: in ONNX Runtime and OpenVINO it is spread
    over the batch, chosen by and added to every score.
    """
    for node in nodes_of(model, "Where"):
        test, instead, _ = node.inputs
        expand = maker(test, "Expand")
        keeps, added = constant(test if expand is None else expand.inputs[0]), constant(instead)
        if keeps is None or not keeps.all() or added is None or added.any():
            continue
        for use in [*node.outputs[0].uses()]:
            scores = next((each for each in use.node.inputs if maker(each, "MatMul") is not None), None)
            reader = only_reader(use.node.outputs[0])
            if use.node.op_type == "Add" and scores is not None and reader is not None and reader.op_type == "Softmax":
                replace(use.node.outputs[0], scores)


def drop_unread(model: ir.Model) -> None:
    """Take out what nothing reads any more."""
    RemoveUnusedNodesPass()(model)
