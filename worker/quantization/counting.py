"""How much a layer computes: multiply-accumulates for one sample, from the shapes in the graph.

A multiply-accumulate is one product and one sum: two of the floating-point operations that others count. Only products
with another tensor's elements summed up count: biases, norms, activations, look-ups and additions do not.

    Linear                    output elements × inputs
    convolution               output elements × inputs a group × kernel elements
    transposed convolution    input elements × outputs a group × kernel elements
    LSTM, GRU, RNN            steps × elements of all weight matrices, in every layer and direction
    their cells               elements of both weight matrices
    matmul                    output elements × elements summed over
    einsum                    the sizes of all indices, where one of them is summed over
    attention                 queries × keys × (width of a key + width of a value), in every head
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from worker.quantization.grouping import CONVOLUTIONS, TRANSPOSED, argument
from worker.quantization.raising import interface

_UNKNOWN_SIZE = 2  # of a dynamic dimension whose size at export is not known


def layer_macs(raised: fx.GraphModule) -> dict[str, int]:
    """Multiply-accumulates for one sample of every layer that has any, by the layer's name, in the graph's order.

    Dynamic dimensions other than the batch have the size that they had at export.
    """
    batch = max(1, interface(raised).inputs[0].example_shape[0])
    macs: dict[str, int] = {}
    for node in raised.graph.nodes:
        total = _macs(raised, node)
        if total:
            macs[str(node.meta["layer"])] = round(total / batch)
    return macs


def depthwise_elements(raised: fx.GraphModule) -> dict[str, int]:
    """Elements that go into and come out of every depthwise convolution for one sample, by the layer's name."""
    batch = max(1, interface(raised).inputs[0].example_shape[0])
    found: dict[str, int] = {}
    for node in raised.graph.nodes:
        module = raised.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, CONVOLUTIONS) and module.groups == module.in_channels > 1:
            moved = math.prod(_shape(node.args[0])) + math.prod(_shape(node))
            name = str(node.meta["layer"])
            found[name] = found.get(name, 0) + round(moved / batch)
    return found


def float_share(macs: Mapping[str, int], quantized: Collection[str]) -> float:
    """Share of the multiply-accumulates outside of the layers named; 0 when there are none at all."""
    total = sum(macs.values())
    return sum(count for layer, count in macs.items() if layer not in quantized) / total if total else 0.0


def _macs(raised: fx.GraphModule, node: fx.Node) -> int:
    if node.op == "call_module":
        return _module_macs(raised.get_submodule(str(node.target)), node)
    if node.op != "call_function":
        return 0
    count = _FUNCTIONS.get(node.target) or _OPERATORS.get(_operator_name(node.target))
    return 0 if count is None else count(node)


def _operator_name(target: Any) -> str:
    return target._schema.name.partition("::")[2] if isinstance(target, torch._ops.OpOverload) else ""


# --- modules ---------------------------------------------------------------------------------------------------------


def _module_macs(module: nn.Module, node: fx.Node) -> int:
    if isinstance(module, nn.Linear):
        return math.prod(_shape(node)) * module.in_features
    if isinstance(module, CONVOLUTIONS):
        return math.prod(_shape(node)) * math.prod(module.weight.shape[1:])
    if isinstance(module, TRANSPOSED):
        return math.prod(_shape(node.args[0])) * math.prod(module.weight.shape[1:])
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        rows = math.prod(_shape(node.args[0])) // module.input_size
        return rows * sum(weight.numel() for weight in module.parameters() if weight.dim() == 2)
    return 0


# --- functions, and operators that stayed aten -----------------------------------------------------------------------


def _linear(node: fx.Node) -> int:
    return math.prod(_shape(node)) * _shape(node.args[1])[-1]


def _matmul(node: fx.Node) -> int:
    return math.prod(_shape(node)) * _shape(node.args[0])[-1]


def _added_matmul(node: fx.Node) -> int:
    return math.prod(_shape(node)) * _shape(node.args[1])[-1]


def _einsum(node: fx.Node) -> int:
    equation, operands = str(node.args[0]).replace(" ", ""), node.args[1]
    reads, _, gives = equation.partition("->")
    if not isinstance(operands, list | tuple) or len(operands) < 2 or (gives and set(reads) - {","} <= set(gives)):
        return 0  # nothing is multiplied, or nothing summed up
    sizes: dict[str | int, int] = {}
    for indices, operand in zip(reads.split(","), operands, strict=True):
        shape = _shape(operand)
        before, dots, behind = indices.partition("...")
        named = [*before, *range(len(before) + len(behind) - len(shape), 0), *behind] if dots else [*before]
        for index, size in zip(named, shape, strict=True):
            sizes[index] = max(size, sizes.get(index, 1))
    return math.prod(sizes.values())


def _attention(node: fx.Node) -> int:
    query, value = (_shape(argument(node, position, name)) for position, name in ((0, "query"), (2, "value")))
    return math.prod(query[:-1]) * value[-2] * (query[-1] + value[-1])


def _convolution(node: fx.Node) -> int:
    weight = _shape(node.args[1])
    transposed = "transpose" in _operator_name(node.target) or (
        _operator_name(node.target) == "convolution" and bool(node.args[6])
    )
    return math.prod(_shape(node.args[0] if transposed else node)) * math.prod(weight[1:])


def _recurrent(node: fx.Node) -> int:
    steps = _shape(node.args[0])
    parameters: Any = node.args[2]
    return math.prod(steps[:-1]) * sum(math.prod(shape) for shape in map(_shape, parameters) if len(shape) == 2)


def _cell(node: fx.Node) -> int:
    return _shape(node.args[0])[0] * (math.prod(_shape(node.args[2])) + math.prod(_shape(node.args[3])))


_FUNCTIONS: dict[Any, Callable[[fx.Node], int]] = {
    torch.matmul: _matmul,
    F.scaled_dot_product_attention: _attention,
}
_OPERATORS: dict[str, Callable[[fx.Node], int]] = {
    "linear": _linear,
    "matmul": _matmul,
    "mm": _matmul,
    "bmm": _matmul,
    "mv": _matmul,
    "dot": _matmul,
    "einsum": _einsum,
    "addmm": _added_matmul,
    "baddbmm": _added_matmul,
    "scaled_dot_product_attention": _attention,
    "conv1d": _convolution,
    "conv2d": _convolution,
    "conv3d": _convolution,
    "conv_transpose1d": _convolution,
    "conv_transpose2d": _convolution,
    "conv_transpose3d": _convolution,
    "convolution": _convolution,
    "lstm": _recurrent,
    "gru": _recurrent,
    "rnn_tanh": _recurrent,
    "rnn_relu": _recurrent,
    "lstm_cell": _cell,
    "gru_cell": _cell,
    "rnn_tanh_cell": _cell,
    "rnn_relu_cell": _cell,
}


def _shape(node: Any) -> tuple[int, ...]:
    """The shape of what a node gives, or of its first result; dynamic dimensions as they were at export."""
    value = node.meta.get("val")
    while isinstance(value, list | tuple) and value:
        value = value[0]
    return tuple(_size(size) for size in value.shape) if isinstance(value, Tensor) else ()


def _size(size: int | torch.SymInt) -> int:
    if isinstance(size, int):
        return size
    hint = size.node.hint
    return _UNKNOWN_SIZE if hint is None else int(hint)
