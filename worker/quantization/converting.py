"""Emit int8 operators: from observers to kernels."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.ao.nn import quantized as nnq
from torch.ao.nn.quantized import dynamic as nnqd
from torch.ao.quantization import FakeQuantizeBase, ObserverBase
from torch.ao.quantization.fx.convert import convert as _convert

from worker.quantization.bags import QuantizedBag
from worker.quantization.copying import collect_garbage, copy_structure
from worker.quantization.grouping import module_of
from worker.quantization.int8_modules import is_per_channel, weight_scales
from worker.quantization.plans import Plan
from worker.quantization.simulating import restore_float_bias

_NONE = (None, None)


def use_kernels_of(plan: Plan) -> None:
    """Select the plan's qengine for this process: weights are packed for it, so it must stay selected."""
    torch.backends.quantized.engine = plan.qengine


def convert(prepared: fx.GraphModule, plan: Plan) -> fx.GraphModule:
    """The int8 model of a calibrated or trained one, which is left as it was. Selects the plan's qengine."""
    use_kernels_of(plan)
    # FX's own convert works on what it is given; it also wants evaluation mode and no gradients.
    model = copy_structure(prepared, frozen=True).eval()
    _take_out_float_layers(model, plan)
    hidden, hidden_modules = _hide_float_operators(model, plan), _hide_float_modules(model, plan)
    with torch.no_grad():
        converted = _convert(model)
    for node in converted.graph.nodes:
        node.target = hidden.get(node.target, node.target)
        node.meta.pop("target_dtype_info", None)  # FX's notes: in them are the observers, and in those the float layers
    converted.recompile()
    assert isinstance(converted, fx.GraphModule)
    for name, module in hidden_modules.items():
        converted.set_submodule(name, module)
    _quantize_bags(converted, plan)
    _keep_limits(converted, plan, model.meta["octavo_groups"])
    share_equal_weights(converted)
    converted.meta |= {key: value for key, value in prepared.meta.items() if key.startswith("octavo")}
    del model
    collect_garbage()
    return converted.eval()


def _quantize_bags(converted: fx.GraphModule, plan: Plan) -> None:
    """Rows in int8, for bags that are to be: they observe nothing, and FX has their sums only."""
    bags = {name: module for name, module in converted.named_modules() if isinstance(module, nn.EmbeddingBag)}
    for name, bag in bags.items():
        if name in plan.int8_layers and bag.mode != "max":
            converted.set_submodule(name, QuantizedBag(bag))


def _take_out_float_layers(model: fx.GraphModule, plan: Plan) -> None:
    """Leave in float what was given up after the observers were inserted; FX drops observers between such layers."""
    qconfigs = model.meta["_observed_graph_module_attrs"].node_name_to_qconfig
    owners = model.meta["octavo_groups"]
    in_float = {node for node in model.graph.nodes if owners.get(str(node.meta.get("layer")), "") in plan.float_reasons}
    for node in in_float:
        qconfigs[node.name] = None
        restore_float_bias(model, str(node.target))
    for node in model.graph.nodes:
        if isinstance(module_of(model, node), ObserverBase | FakeQuantizeBase):
            seen = node.all_input_nodes[0]
            if owners.get(str(seen.meta.get("layer")), "") not in plan.int8_layers:
                # FX would let every reader have what it quantizes for one of them.
                node.replace_all_uses_with(seen, lambda user: user in in_float)
    model.recompile()


def _hide_float_operators(model: fx.GraphModule, plan: Plan) -> dict[Any, Any]:
    """Put functions that lowering does not know in place of operators that stay in float; what they stand for.

    torch 2.13 lowers pools, means, concatenations and others between two int8 layers without asking for their qconfig,
    and drops the range that was observed behind them: a mean would have the step of what it averages.
    """
    owners = model.meta["octavo_groups"]
    hidden: dict[Any, Any] = {}
    for node in model.graph.nodes:
        if node.op == "call_function" and owners.get(str(node.meta.get("layer")), "") in plan.float_reasons:
            hiding = _hiding(node.target)
            hidden[hiding] = node.target
            node.target = hiding
    model.recompile()
    return hidden


class _InFloat(nn.Module):
    """A module that lowering does not know, around one that it does."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.module(values)
        return found


def _hide_float_modules(model: fx.GraphModule, plan: Plan) -> dict[str, nn.Module]:
    """Likewise of modules; those that were hidden, by name.

    A dropout between two int8 layers is lowered, and takes their float away from others that read it; a PReLU without
    a qconfig makes lowering fail.
    """
    owners = model.meta["octavo_groups"]
    hidden: dict[str, nn.Module] = {
        str(node.target): module
        for node in model.graph.nodes
        if isinstance(module := module_of(model, node), nn.Dropout | nn.PReLU)
        and owners.get(str(node.meta.get("layer")), "") in plan.float_reasons
    }
    for name, module in hidden.items():
        model.set_submodule(name, _InFloat(module))
    return hidden


@functools.cache
def _hiding(function: Callable[..., Any]) -> Callable[..., Any]:
    def in_float(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return in_float


def _keep_limits(converted: fx.GraphModule, plan: Plan, owners: Mapping[str, str]) -> None:
    """Clamp int8 weights to the plan's own quant_min and quant_max: FX clamps at the limits of the dtype.

    Of 3-bit weights trained with fake quantize at -4..3 it kept those beyond, and 5 dB of 10 were lost.
    """
    for name, module in converted.named_modules():
        if not isinstance(module, (nnq.Linear, nnq.Conv1d, nnq.Conv2d, nnq.Conv3d)):
            continue
        wanted = plan.settings_of(owners.get(name, name)).weight
        weight = module.weight()
        ints = weight.int_repr()
        kept = ints.clamp(wanted.quant_min, wanted.quant_max) if (wanted.quant_min, wanted.quant_max) != _NONE else ints
        if torch.equal(kept, ints):
            continue
        if is_per_channel(weight.qscheme()):
            weight = torch._make_per_channel_quantized_tensor(
                kept, weight.q_per_channel_scales(), weight.q_per_channel_zero_points(), weight.q_per_channel_axis()
            )
        else:
            weight = torch._make_per_tensor_quantized_tensor(kept, weight.q_scale(), weight.q_zero_point())
        module.set_weight_bias(weight, module.bias())


def share_equal_weights(quantized: nn.Module) -> None:
    """Let a layer that is called several times hold its int8 weights once, as the float model does.

    Raising gave each call a module of its own, for each has a range of its own.
    """
    packed: dict[tuple[Any, ...], Any] = {}
    for module in quantized.modules():
        if isinstance(module, (nnq.Linear, nnqd.Linear, nnq.Conv1d, nnq.Conv2d, nnq.Conv3d)):
            module._packed_params = packed.setdefault(_fingerprint(module), module._packed_params)


def _fingerprint(module: Any) -> tuple[Any, ...]:
    weight, bias = module.weight(), module.bias()
    geometry = [getattr(module, name, None) for name in ("stride", "padding", "dilation", "groups")]
    parts = [weight.int_repr(), weight_scales(weight).contiguous(), *([] if bias is None else [bias.detach()])]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.contiguous().numpy().tobytes())
    return type(module), tuple(weight.shape), str(geometry), digest.digest()
