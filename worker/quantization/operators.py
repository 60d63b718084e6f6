"""The operator table: what each aten operator is called in the vocabulary that FX quantization understands.

Three tables, from the plainest to the richest:

    FUNCTIONS  aten operator -> torch function, and which of its arguments go where
    METHODS    aten operator -> Tensor method (shapes, views: they work on int8 tensors as well)
    MODULES    aten operator -> the `nn.Module` that holds its weights (modules.py)

Keys are `name` or `name.overload`; the longer one wins. An operator in none of them stays aten, and float.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812 - its name everywhere


@dataclass(frozen=True)
class Function:
    """A torch function, with the schema names of the arguments that it takes in its own order."""

    target: Callable[..., Any]
    arguments: str
    unset: str = ""  #: arguments that must be at their defaults, or the operator stays aten
    keywords: str = ""  #: arguments that are passed by name, when they are not at their defaults
    always: str = ""  #: likewise, but at their defaults too: its int8 kernel has none
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
    "elu": Function(F.elu, "self", keywords="alpha", unset="scale input_scale"),
    "leaky_relu": Function(F.leaky_relu, "self", always="negative_slope", fixed=(("inplace", False),)),
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
    "chunk": Function(torch.chunk, "self chunks dim"),  # of an axis that varies; the others are slicing.py's
    "split.Tensor": Function(torch.split, "self split_size dim"),
    "split_with_sizes": Function(torch.split, "self split_sizes dim"),
    "narrow": Function(torch.narrow, "self dim start length"),
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
    "fill.Scalar": Function(torch.full_like, "self value"),
    "empty.memory_format": Function(torch.zeros, "size", keywords="dtype"),
}

METHODS: dict[str, Method] = {
    "view": Method("reshape", "self size"),  # int8 convolutions give channels-last memory, which a view may not span
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
    "new_zeros": Method("new_zeros", "self size", unset="dtype"),
    "new_ones": Method("new_ones", "self size", unset="dtype"),
    "new_full": Method("new_full", "self size fill_value", unset="dtype"),
    "contiguous": Method("contiguous", "self", unset="memory_format"),
    "clone": Method("contiguous", "self"),  # a plain copy is an identity, see raising.py
    "detach": Method("detach", "self"),
    "sym_size.int": Method("size", "self dim"),
    "sym_numel": Method("numel", "self"),
    "to.dtype": Method("to", "self dtype"),
}

#: Operators that give all of a tensor the values of another: what `x[:, 0] = y` becomes.
OVERWRITES = {"copy": True, "fill.Tensor": True}

#: Operators that return their input unchanged in evaluation mode.
IDENTITIES = frozenset({"alias", "lift_fresh_copy", "feature_dropout", "alpha_dropout"})
