"""The reference graph: int8 spelled out in float, with every quantization an operator of its own (QDQ).

    quantize_per_tensor, dequantize_per_tensor     around what is computed in int8
    dequantize_per_channel                         of weights, which are integers in the graph

It computes what the simulation does, from the integers that the torch artifact holds, and is what other runtimes are
given: they fuse the pattern into kernels of their own. The operators are those of PyTorch 2 Export quantization.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.ao.quantization import FakeQuantizeBase, ObserverBase
from torch.ao.quantization.fx import _decomposed  # noqa: F401 - declares torch.ops.quantized_decomposed
from torch.func import functional_call
from torch.nn import functional

from worker.quantization.copying import copy_structure
from worker.quantization.int8_modules import int8_weights
from worker.quantization.plans import Plan
from worker.quantization.quantizers import quantizer_of
from worker.quantization.simulating import first_layer, restore_float_bias

_PER_CHANNEL = (torch.per_channel_affine, torch.per_channel_symmetric)


def reference_graph(prepared: fx.GraphModule, converted: fx.GraphModule, plan: Plan) -> fx.GraphModule:
    """The reference graph of a calibrated or trained model and of what it was converted to; both are left alone."""
    # Trained modules keep their batch norm inside; what torch.ao makes plain of them is theirs alone.
    model = copy_structure(prepared, frozen=True).eval()
    _spell_out_weights(model, converted)
    _spell_out_activations(model, plan)
    model.graph.lint()
    model.recompile()
    model.delete_all_unused_submodules()
    return model


# --- weights ---------------------------------------------------------------------------------------------------------


class _FromIntegers(nn.Module):
    """A layer that computes with a weight kept in int8."""

    weight: Tensor
    scale: Tensor | float
    zero_point: Tensor | int
    bias: Tensor | None

    def __init__(self, layer: nn.Module, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.layer = layer
        layer.weight = nn.Parameter(torch.empty(0), requires_grad=False)  # it is given the integers': let go of floats
        self.axis = weight.q_per_channel_axis() if weight.qscheme() in _PER_CHANNEL else None
        integers = weight.int_repr()
        limits = torch.iinfo(integers.dtype)
        self.limits = (limits.min, limits.max)
        # Copies: packed weights give out tensors whose memory goes when they do.
        self.register_buffer("weight", integers.contiguous())
        if self.axis is None:  # as numbers, which is how alone the ONNX exporter takes them
            self.scale, self.zero_point = weight.q_scale(), weight.q_zero_point()
        else:
            self.register_buffer("scale", weight.q_per_channel_scales().float().clone())
            self.register_buffer("zero_point", weight.q_per_channel_zero_points().long().clone())
        self.register_buffer("bias", None if bias is None else bias.detach().clone())

    def forward(self, *inputs: Tensor) -> Tensor:
        """The layer's output, before any activation that is fused with it."""
        least, greatest = self.limits
        operators, kind = torch.ops.quantized_decomposed, self.weight.dtype
        if self.axis is None:
            weight = operators.dequantize_per_tensor(self.weight, self.scale, self.zero_point, least, greatest, kind)
        else:
            weight = operators.dequantize_per_channel(
                self.weight, self.scale, self.zero_point, self.axis, least, greatest, kind
            )
        tensors = {"weight": weight} if self.bias is None else {"weight": weight, "bias": self.bias}
        found: Tensor = functional_call(self.layer, tensors, inputs)
        return found


class _Rows(nn.Module):
    """A table of int8 rows, each with a scale and an offset of its own."""

    weight: Tensor
    scale: Tensor
    offset: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        scale = weight.q_per_channel_scales().float().clone()
        self.register_buffer("weight", weight.int_repr())
        self.register_buffer("scale", scale[:, None])
        self.register_buffer("offset", -weight.q_per_channel_zero_points().float()[:, None] * scale[:, None])

    def forward(self, indices: Tensor) -> Tensor:
        """The rows at these places."""
        # An embedding is exported as Gather; indexing as GatherND, of which OpenVINO has its slow reference alone.
        weight, scale, offset = (functional.embedding(indices, each) for each in (self.weight, self.scale, self.offset))
        return weight.float() * scale + offset


def _spell_out_weights(model: fx.GraphModule, converted: fx.GraphModule) -> None:
    held = dict(converted.named_modules(remove_duplicate=False))
    for name in {str(node.target) for node in model.graph.nodes if node.op == "call_module"}:
        weight = int8_weights(held[name]).get("weight") if name in held else None
        module = _plain(model.get_submodule(name))
        if weight is not None and isinstance(module, nn.Embedding):
            model.set_submodule(name, _Rows(weight))
        elif weight is not None and not isinstance(module, nn.EmbeddingBag):
            found: Any = held[name]
            layer = _FromIntegers(first_layer(module), weight, found.bias())
            behind = [*module][1:] if isinstance(module, nn.Sequential) else []
            model.set_submodule(name, nn.Sequential(layer, *behind) if behind else layer)
        else:
            restore_float_bias(model, name)
            model.set_submodule(name, module)


def _plain(module: nn.Module) -> nn.Module:
    """A module of quantization-aware training without its fake quantize, and with its batch norm folded."""
    trained: Any = module
    return trained.to_float().eval() if hasattr(module, "weight_fake_quant") else module


# --- activations -----------------------------------------------------------------------------------------------------


def _spell_out_activations(model: fx.GraphModule, plan: Plan) -> None:
    """In place of each observer: quantize and dequantize for those that read int8, nothing for those that do not.

    What an int8 layer gives is quantized for whoever reads it; what a float layer gives for int8 layers alone.
    """
    owners: dict[str, str] = model.meta["octavo_groups"]
    modules = dict(model.named_modules(remove_duplicate=False))

    def in_int8(node: fx.Node) -> bool:
        return owners.get(str(node.meta.get("layer", "")), "") in plan.int8_layers

    def observes(node: fx.Node) -> bool:
        return node.op == "call_module" and isinstance(modules[str(node.target)], ObserverBase | FakeQuantizeBase)

    for node in [each for each in model.graph.nodes if observes(each)]:
        observer = modules[str(node.target)]
        source = node.all_input_nodes[0]
        made_in_int8 = in_int8(source) or (source.op == "call_function" and source.target is _DEQUANTIZE)
        with model.graph.inserting_before(node):
            capped = _capped(model, source, getattr(observer, "cap", None))
            quantized = _quantized(model, capped, observer)
        for user in list(node.users):
            user.replace_input_with(node, quantized if made_in_int8 or in_int8(user) else capped)
        model.graph.erase_node(node)
        model.delete_submodule(str(node.target))


_QUANTIZE = torch.ops.quantized_decomposed.quantize_per_tensor.default
_DEQUANTIZE = torch.ops.quantized_decomposed.dequantize_per_tensor.default


def _capped(model: fx.GraphModule, source: fx.Node, cap: float | None) -> fx.Node:
    return source if cap is None else model.graph.call_function(torch.clamp, (source,), {"max": cap})


def _quantized(model: fx.GraphModule, source: fx.Node, observer: nn.Module) -> fx.Node:
    quantizer = quantizer_of(observer)
    if quantizer is None:
        return source
    how = (quantizer.scale, quantizer.zero_point, 0, 255, torch.uint8)
    integers = model.graph.call_function(_QUANTIZE, (source, *how))
    return model.graph.call_function(_DEQUANTIZE, (integers, *how))
