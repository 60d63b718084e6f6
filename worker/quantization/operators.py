"""The operator table: what each aten operator is called in the vocabulary that FX quantization understands.

Three tables, from the plainest to the richest:

    FUNCTIONS  aten operator -> torch function, and which of its arguments go where
    METHODS    aten operator -> Tensor method (shapes, views: they work on int8 tensors as well)
    MODULES    aten operator -> how to build the `nn.Module` that holds its weights (or its training behaviour)

Keys are `name` or `name.overload`; the longer one wins. An operator in none of them stays aten, and float.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its name everywhere


@dataclass(frozen=True)
class Function:
    """A torch function, with the schema names of the arguments that it takes in its own order."""

    target: Callable[..., Any]
    arguments: str
    unset: str = ""  #: arguments that must be at their defaults, or the operator stays aten
    keywords: str = ""  #: arguments that are passed by name, when they are not at their defaults
    fixed: tuple[tuple[str, Any], ...] = ()  #: keywords that the operator implies


@dataclass(frozen=True)
class Method:
    """A Tensor method, likewise; its first argument is the tensor."""

    target: str
    arguments: str
    unset: str = ""


FUNCTIONS: dict[str, Function] = {
    # activations
    "relu": Function(F.relu, "self"),
    "relu6": Function(F.relu6, "self"),
    "hardtanh": Function(F.hardtanh, "self min_val max_val"),
    "hardswish": Function(F.hardswish, "self"),
    "hardsigmoid": Function(F.hardsigmoid, "self"),
    "silu": Function(F.silu, "self"),
    "mish": Function(F.mish, "self"),
    "gelu": Function(F.gelu, "self", keywords="approximate"),
    "elu": Function(F.elu, "self alpha", unset="scale input_scale"),
    "leaky_relu": Function(F.leaky_relu, "self negative_slope"),
    "sigmoid": Function(torch.sigmoid, "self"),
    "tanh": Function(torch.tanh, "self"),
    "softmax.int": Function(F.softmax, "self dim", unset="dtype"),
    "_softmax": Function(F.softmax, "self dim"),
    "log_softmax.int": Function(F.log_softmax, "self dim", unset="dtype"),
    "_log_softmax": Function(F.log_softmax, "self dim"),
    "clamp": Function(torch.clamp, "self min max"),
    # arithmetic
    "add.Tensor": Function(torch.add, "self other", unset="alpha"),
    "add.Scalar": Function(torch.add, "self other", unset="alpha"),
    "sub.Tensor": Function(torch.sub, "self other", unset="alpha"),
    "mul.Tensor": Function(torch.mul, "self other"),
    "mul.Scalar": Function(torch.mul, "self other"),
    "div.Tensor": Function(torch.div, "self other"),
    "matmul": Function(torch.matmul, "self other"),
    "mm": Function(torch.matmul, "self mat2"),
    "bmm": Function(torch.matmul, "self mat2"),
    "mean.dim": Function(torch.mean, "self dim keepdim", unset="dtype"),
    "scaled_dot_product_attention": Function(
        F.scaled_dot_product_attention,
        "query key value attn_mask dropout_p is_causal",
        keywords="scale enable_gqa",
    ),
    # joining and splitting
    "flatten.using_ints": Function(torch.flatten, "self start_dim end_dim"),
    "cat": Function(torch.cat, "tensors dim"),
    "stack": Function(torch.stack, "tensors dim"),
    "chunk": Function(torch.chunk, "self chunks dim"),
    "split.Tensor": Function(torch.split, "self split_size dim"),
    "split_with_sizes": Function(torch.split, "self split_sizes dim"),
    "channel_shuffle": Function(F.channel_shuffle, "self groups"),
    "pixel_shuffle": Function(F.pixel_shuffle, "self upscale_factor"),
    "pixel_unshuffle": Function(F.pixel_unshuffle, "self downscale_factor"),
    # pooling and resizing
    "max_pool1d": Function(F.max_pool1d, "self kernel_size stride padding dilation ceil_mode"),
    "max_pool2d": Function(F.max_pool2d, "self kernel_size stride padding dilation ceil_mode"),
    "max_pool3d": Function(F.max_pool3d, "self kernel_size stride padding dilation ceil_mode"),
    "avg_pool1d": Function(F.avg_pool1d, "self kernel_size stride padding ceil_mode count_include_pad"),
    "avg_pool2d": Function(
        F.avg_pool2d, "self kernel_size stride padding ceil_mode count_include_pad divisor_override"
    ),
    "avg_pool3d": Function(
        F.avg_pool3d, "self kernel_size stride padding ceil_mode count_include_pad divisor_override"
    ),
    "adaptive_avg_pool1d": Function(torch.adaptive_avg_pool1d, "self output_size"),
    "adaptive_avg_pool2d": Function(F.adaptive_avg_pool2d, "self output_size"),
    "_adaptive_avg_pool2d": Function(F.adaptive_avg_pool2d, "self output_size"),
    "adaptive_avg_pool3d": Function(F.adaptive_avg_pool3d, "self output_size"),
    "_adaptive_avg_pool3d": Function(F.adaptive_avg_pool3d, "self output_size"),
    "upsample_nearest1d.vec": Function(F.interpolate, "input output_size scale_factors", fixed=(("mode", "nearest"),)),
    "upsample_nearest2d.vec": Function(F.interpolate, "input output_size scale_factors", fixed=(("mode", "nearest"),)),
    "upsample_bilinear2d.vec": Function(
        F.interpolate, "input output_size scale_factors", keywords="align_corners", fixed=(("mode", "bilinear"),)
    ),
    "pad": Function(F.pad, "self pad mode value"),
    "constant_pad_nd": Function(F.pad, "self pad", keywords="value"),
    # new tensors: `torch.jit.trace` rejects traced sizes in their aten forms
    "arange": Function(torch.arange, "end", keywords="dtype"),
    "arange.start": Function(torch.arange, "start end", keywords="dtype"),
    "arange.start_step": Function(torch.arange, "start end step", keywords="dtype"),
    "zeros": Function(torch.zeros, "size", keywords="dtype"),
    "ones": Function(torch.ones, "size", keywords="dtype"),
    "full": Function(torch.full, "size fill_value", keywords="dtype"),
    "empty.memory_format": Function(torch.zeros, "size", keywords="dtype"),
}

METHODS: dict[str, Method] = {
    "view": Method("view", "self size"),
    "view.dtype": Method("view", "self dtype"),
    "_unsafe_view": Method("reshape", "self size"),
    "reshape": Method("reshape", "self shape"),
    "unflatten.int": Method("unflatten", "self dim sizes"),
    "permute": Method("permute", "self dims"),
    "transpose.int": Method("transpose", "self dim0 dim1"),
    "t": Method("t", "self"),
    "squeeze": Method("squeeze", "self"),
    "squeeze.dim": Method("squeeze", "self dim"),
    "squeeze.dims": Method("squeeze", "self dim"),
    "unsqueeze": Method("unsqueeze", "self dim"),
    "expand": Method("expand", "self size", unset="implicit"),
    "expand_as": Method("expand_as", "self other"),
    "repeat": Method("repeat", "self repeats"),
    "contiguous": Method("contiguous", "self", unset="memory_format"),
    "clone": Method("contiguous", "self"),  # a plain copy is an identity, see raising.py
    "detach": Method("detach", "self"),
    "sym_size.int": Method("size", "self dim"),
    "to.dtype": Method("to", "self dtype"),
}


class Call(Protocol):
    """What a rule may ask about one call of an operator; raising.py answers."""

    name: str

    def __getitem__(self, argument: str) -> Any:
        """An argument by its schema name: as given, else its default."""

    def weight(self, argument: str, *, transposed: bool = False) -> nn.Parameter | None:
        """The model's own tensor that an argument is; None when it is absent or computed."""

    def weights(self, argument: str) -> list[nn.Parameter | None]:
        """Likewise for a list of tensors."""

    def is_computed(self, argument: str) -> bool:
        """Whether an argument is a tensor that is not the model's own."""

    def dimensions(self, argument: str) -> int:
        """How many axes an argument has."""


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


_CONVOLUTIONS = {
    False: {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d},
    True: {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d},
}


def _spread(value: Any, dimensions: int) -> Any:
    """`[1]` stands for the same in every dimension."""
    if isinstance(value, str):
        return value
    return tuple(value) * dimensions if len(value) == 1 else tuple(value)


def _convolution(call: Call, *, transposed: bool = False) -> Raised | None:
    weight = call.weight("weight")
    if weight is None or call.is_computed("bias"):
        return None
    dimensions = weight.dim() - 2
    groups = call["groups"]
    in_channels, out_channels = (
        (weight.shape[0], weight.shape[1] * groups) if transposed else (weight.shape[1] * groups, weight.shape[0])
    )
    settings = {
        name: _spread(call[name], dimensions)
        for name in ("stride", "padding", "dilation", *(["output_padding"] if transposed else []))
    }
    module = _CONVOLUTIONS[transposed][dimensions](
        in_channels,
        out_channels,
        tuple(weight.shape[2:]),
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
    module = nn.Embedding(*weight.shape, padding_idx=padding if padding >= 0 else None, device=_META)
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


_CELLS = {"lstm_cell": nn.LSTMCell, "gru_cell": nn.GRUCell}


def _cell(kind: str) -> ModuleRule:
    def rule(call: Call) -> Raised | None:
        names = {"weight_ih": "w_ih", "weight_hh": "w_hh", "bias_ih": "b_ih", "bias_hh": "b_hh"}
        tensors = {name: call.weight(argument) for name, argument in names.items()}
        if any(tensor is None for tensor in tensors.values()):
            return None
        input_weight, hidden_weight = tensors["weight_ih"], tensors["weight_hh"]
        assert input_weight is not None
        assert hidden_weight is not None
        module = _CELLS[kind](input_weight.shape[1], hidden_weight.shape[1], device=_META)
        return Raised(_given(module, **tensors), "input hx")

    return rule


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
}

#: Operators that return their input unchanged in evaluation mode.
IDENTITIES = frozenset({"alias", "lift_fresh_copy", "feature_dropout", "alpha_dropout"})
