"""Operators that hold weights, or behave otherwise in training: how to build the module that each one was.

Every rule is asked about one call and answers with a module and the inputs it is called with, or with None: a weight
that is computed and not the model's own, or a setting that no module has, leaves the operator aten.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from worker.quantization.calls import Call


@dataclass(frozen=True)
class Raised:
    """A module in place of an operator: its inputs by schema name."""

    module: nn.Module
    inputs: str
    #: how the results of the module are laid out, when they are not those of the operator
    results: Sequence[tuple[int, ...]] | None = None


ModuleRule = Callable[[Call], Raised | None]
_META = torch.device("meta")  # the weights come from the program: none are made


def _given(module: nn.Module, **tensors: Tensor | None) -> nn.Module:
    """The module with its parameters and buffers set to the program's own tensors."""
    for name, tensor in tensors.items():
        if isinstance(tensor, nn.Parameter) and name not in module._buffers:
            module._parameters[name] = tensor
        elif tensor is not None:
            module._buffers[name] = tensor.detach()
    return module.eval()


_CONVOLUTIONS: dict[bool, dict[int, Callable[..., nn.Module]]] = {
    False: {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d},
    True: {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d},
}


def _spread(value: Any, dimensions: int) -> tuple[int, ...]:
    """`[1]` stands for the same in every dimension."""
    return tuple(value) * dimensions if len(value) == 1 else tuple(value)


def _padding(value: Any, kernel: Sequence[int], dilation: Sequence[int]) -> tuple[int, ...] | str:
    """Padding as numbers, which int8 kernels want; `same` stays a word where it is wider on one side."""
    if value == "valid":
        return (0,) * len(kernel)
    if value == "same":
        totals = [step * (size - 1) for size, step in zip(kernel, dilation, strict=True)]
        return value if any(total % 2 for total in totals) else tuple(total // 2 for total in totals)
    return _spread(value, len(kernel))


def _convolution(call: Call, *, transposed: bool = False) -> Raised | None:
    weight = call.weight("weight")
    if weight is None or call.is_computed("bias"):
        return None
    dimensions = weight.dim() - 2
    groups = call["groups"]
    in_channels, out_channels = (
        (weight.shape[0], weight.shape[1] * groups) if transposed else (weight.shape[1] * groups, weight.shape[0])
    )
    kernel = tuple(weight.shape[2:])
    dilation = _spread(call["dilation"], dimensions)
    settings = {"output_padding": _spread(call["output_padding"], dimensions)} if transposed else {}
    module = _CONVOLUTIONS[transposed][dimensions](
        in_channels,
        out_channels,
        kernel,
        stride=_spread(call["stride"], dimensions),
        padding=_padding(call["padding"], kernel, dilation),
        dilation=dilation,
        groups=groups,
        bias=call.weight("bias") is not None,
        device=_META,
        **settings,
    )
    return Raised(_given(module, weight=weight, bias=call.weight("bias")), "input")


def _transposed_convolution(call: Call) -> Raised | None:
    return _convolution(call, transposed=True)


def _any_convolution(call: Call) -> Raised | None:
    return _convolution(call, transposed=call["transposed"])


def _linear_module(weight: nn.Parameter, bias: nn.Parameter | None) -> nn.Module:
    module = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device=_META)
    return _given(module, weight=weight, bias=bias)


def _linear(call: Call) -> Raised | None:
    weight = call.weight("weight")
    if weight is None or call.is_computed("bias"):
        return None
    return Raised(_linear_module(weight, call.weight("bias")), "input")


def _addmm(call: Call) -> Raised | None:
    """`bias + x @ weight`, as decomposed Linear and GPT-2's Conv1D write it."""
    weight, bias = call.weight("mat2", transposed=True), call.weight("self")
    if weight is None or bias is None or bias.dim() != 1 or (call["beta"], call["alpha"]) != (1, 1):
        return None
    return Raised(_linear_module(weight, bias), "mat1")


def _matmul(call: Call) -> Raised | None:
    """`x @ weight`, when the weight is a matrix of the model's own."""
    matrix = "mat2" if call.name == "mm" else "other"
    weight = call.weight(matrix, transposed=True)
    if weight is None or weight.dim() != 2:
        return None
    return Raised(_linear_module(weight, None), "self")


_BATCH_NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


def _batch_norm(call: Call) -> Raised | None:
    mean, variance = call.weight("running_mean"), call.weight("running_var")
    if mean is None or variance is None or call.is_computed("weight") or call.is_computed("bias"):
        return None
    dimensions = call.dimensions("input")
    module = _BATCH_NORMS[dimensions](
        mean.shape[0], eps=call["eps"], momentum=call["momentum"], affine=True, device=_META
    )
    weight, bias = call.weight("weight"), call.weight("bias")
    return Raised(
        _given(
            module,
            weight=nn.Parameter(torch.ones_like(mean)) if weight is None else weight,
            bias=nn.Parameter(torch.zeros_like(mean)) if bias is None else bias,
            running_mean=mean,
            running_var=variance,
            num_batches_tracked=torch.tensor(0),
        ),
        "input",
    )


def _layer_norm(call: Call) -> Raised | None:
    if call.is_computed("weight") or call.is_computed("bias"):
        return None
    weight, bias = call.weight("weight"), call.weight("bias")
    module = nn.LayerNorm(
        tuple(call["normalized_shape"]),
        eps=call["eps"],
        elementwise_affine=weight is not None,
        bias=bias is not None,
        device=_META,
    )
    return Raised(_given(module, weight=weight, bias=bias), "input")


def _native_layer_norm(call: Call) -> Raised | None:
    raised = _layer_norm(call)
    return None if raised is None else Raised(raised.module, raised.inputs, results=((),))


def _native_group_norm(call: Call) -> Raised | None:
    weight, bias = call.weight("weight"), call.weight("bias")
    if weight is None or bias is None:
        return None
    module = nn.GroupNorm(call["group"], weight.shape[0], eps=call["eps"], device=_META)
    return Raised(_given(module, weight=weight, bias=bias), "input", results=((),))


def _group_norm(call: Call) -> Raised | None:
    weight, bias = call.weight("weight"), call.weight("bias")
    if weight is None or bias is None:
        return None
    module = nn.GroupNorm(call["num_groups"], weight.shape[0], eps=call["eps"], device=_META)
    return Raised(_given(module, weight=weight, bias=bias), "input")


def _embedding(call: Call) -> Raised | None:
    weight = call.weight("weight")
    if weight is None or call["sparse"] or call["scale_grad_by_freq"]:
        return None
    padding = call["padding_idx"]
    module = nn.Embedding(weight.shape[0], weight.shape[1], padding_idx=padding if padding >= 0 else None, device=_META)
    return Raised(_given(module, weight=weight), "indices")


def _prelu(call: Call) -> Raised | None:
    weight = call.weight("weight")
    if weight is None:
        return None
    return Raised(_given(nn.PReLU(weight.numel(), device=_META), weight=weight), "self")


def _dropout(call: Call) -> Raised | None:
    return Raised(nn.Dropout(call["p"]).eval(), "input")


_RECURRENT: dict[str, Callable[..., nn.RNNBase]] = {
    "lstm": nn.LSTM,
    "gru": nn.GRU,
    "rnn_tanh": lambda *args, **kwargs: nn.RNN(*args, nonlinearity="tanh", **kwargs),
    "rnn_relu": lambda *args, **kwargs: nn.RNN(*args, nonlinearity="relu", **kwargs),
}


def _recurrent(kind: str) -> ModuleRule:
    def rule(call: Call) -> Raised | None:
        tensors = call.weights("params")
        if any(tensor is None for tensor in tensors):
            return None
        bidirectional, layers = call["bidirectional"], call["num_layers"]
        per_layer = len(tensors) // (layers * (2 if bidirectional else 1))
        if per_layer not in (2, 4):
            return None  # projections: their int8 kernel does not exist
        input_weight, hidden_weight = tensors[0], tensors[1]
        assert input_weight is not None
        assert hidden_weight is not None
        module = _RECURRENT[kind](
            input_weight.shape[1],
            hidden_weight.shape[1],
            layers,
            bias=call["has_biases"],
            batch_first=call["batch_first"],
            dropout=call["dropout"],
            bidirectional=bidirectional,
            device=_META,
        )
        names = [name for group in module._all_weights for name in group]
        for name, tensor in zip(names, tensors, strict=True):
            module._parameters[name] = tensor
        module._init_flat_weights()
        # (output, h, c) of the operator is (output, (h, c)) of the LSTM module, (output, h) of the others
        results = ((0,), (1, 0), (1, 1)) if kind == "lstm" else ((0,), (1,))
        return Raised(module.eval(), "input hx", results=results)

    return rule


_CELLS: dict[str, Callable[..., nn.Module]] = {
    "lstm_cell": nn.LSTMCell,
    "gru_cell": nn.GRUCell,
    "rnn_tanh_cell": functools.partial(nn.RNNCell, nonlinearity="tanh"),
    "rnn_relu_cell": functools.partial(nn.RNNCell, nonlinearity="relu"),
}


def _cell(kind: str) -> ModuleRule:
    def rule(call: Call) -> Raised | None:
        input_weight, hidden_weight = call.weight("w_ih"), call.weight("w_hh")
        biases = {"bias_ih": call.weight("b_ih"), "bias_hh": call.weight("b_hh")}
        given = [bias is not None for bias in biases.values()]
        if input_weight is None or hidden_weight is None or any(given) != all(given):
            return None
        if call.is_computed("b_ih") or call.is_computed("b_hh"):
            return None
        module = _CELLS[kind](input_weight.shape[1], hidden_weight.shape[1], bias=all(given), device=_META)
        return Raised(_given(module, weight_ih=input_weight, weight_hh=hidden_weight, **biases), "input hx")

    return rule


_BAG_MODES = ("sum", "mean", "max")


def _embedding_bag(call: Call) -> Raised | None:
    """Rows summed bag by bag. Of the operator's four results only the first is the module's."""
    weight = call.weight("weight")
    if weight is None or call["sparse"] or call["scale_grad_by_freq"]:
        return None
    padding = call["padding_idx"]
    module = nn.EmbeddingBag(
        weight.shape[0],
        weight.shape[1],
        mode=_BAG_MODES[call["mode"]],
        include_last_offset=call["include_last_offset"],
        padding_idx=padding if padding is not None and padding >= 0 else None,
        device=_META,
    )
    return Raised(_given(module, weight=weight), "indices offsets per_sample_weights", results=((),))


MODULES: dict[str, ModuleRule] = {
    "conv1d": _convolution,
    "conv2d": _convolution,
    "conv3d": _convolution,
    "conv_transpose1d": _transposed_convolution,
    "conv_transpose2d": _transposed_convolution,
    "conv_transpose3d": _transposed_convolution,
    "convolution": _any_convolution,
    "linear": _linear,
    "addmm": _addmm,
    "mm": _matmul,
    "matmul": _matmul,
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "native_layer_norm": _native_layer_norm,
    "group_norm": _group_norm,
    "native_group_norm": _native_group_norm,
    "embedding": _embedding,
    "prelu": _prelu,
    "_prelu_kernel": _prelu,
    "dropout": _dropout,
    "lstm.input": _recurrent("lstm"),
    "gru.input": _recurrent("gru"),
    "rnn_tanh.input": _recurrent("rnn_tanh"),
    "rnn_relu.input": _recurrent("rnn_relu"),
    "lstm_cell": _cell("lstm_cell"),
    "gru_cell": _cell("gru_cell"),
    "rnn_tanh_cell": _cell("rnn_tanh_cell"),
    "rnn_relu_cell": _cell("rnn_relu_cell"),
    "embedding_bag": _embedding_bag,
    "_embedding_bag": _embedding_bag,
    "_embedding_bag_forward_only": _embedding_bag,
}
