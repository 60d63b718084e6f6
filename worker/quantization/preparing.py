"""Insert observers or fake quantize: `prepare` for calibration, `prepare_qat` for training.

`prepare_fx` would trace the raised graph again and lose what raising found: buffers would become constants, and every
function would belong to the root. So its two halves, fuse and prepare, are called here as it calls them, with the layer
that each node really is as its scope: a qconfig is set layer by layer, and FX has nothing left to guess.
"""

from __future__ import annotations

import copy
import functools
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.ao.nn.intrinsic.qat import freeze_bn_stats
from torch.ao.quantization import (
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    QConfigMapping,
    disable_observer,
)
from torch.ao.quantization.backend_config import BackendConfig, ObservationType, get_native_backend_config
from torch.ao.quantization.fx.fuse import fuse
from torch.ao.quantization.fx.prepare import prepare as insert_observers
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from shared.quantization_spec import QatSpec
from worker.quantization.copying import collect_garbage, copy_structure
from worker.quantization.grouping import TRANSPOSED, Group, groups
from worker.quantization.learnable_scales import LearnableFakeQuantize
from worker.quantization.plans import Plan
from worker.quantization.qconfigs import LayerSettings, qconfig_for
from worker.quantization.ranging import CappedFakeQuantize, RangeObserver

_LEAST_FOLD_FACTOR = 1e-4  # 80 dB below a channel that is on: no step of int8 is so fine


def prepare(raised: fx.GraphModule, plan: Plan, example_inputs: tuple[Tensor, ...]) -> fx.GraphModule:
    """A copy with batch norm folded and observers inserted: run calibration data through it, then convert it."""
    return _prepare(raised, plan, example_inputs, trainable=False).eval()


def prepare_qat(raised: fx.GraphModule, plan: Plan, example_inputs: tuple[Tensor, ...]) -> fx.GraphModule:
    """A copy in training mode, with fake quantize: train it, then convert it. Batch norm stays live inside."""
    return _prepare(raised, plan, example_inputs, trainable=True).train()


def freeze_observers(prepared: nn.Module) -> None:
    """Keep the ranges as they are from now on."""
    prepared.apply(disable_observer)


def freeze_batch_norm(prepared: nn.Module) -> None:
    """Use the running statistics of batch norm from now on, as at inference; to be repeated after `train()`."""
    prepared.apply(freeze_bn_stats)
    for module in prepared.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def _prepare(
    raised: fx.GraphModule, plan: Plan, example_inputs: tuple[Tensor, ...], *, trainable: bool
) -> fx.GraphModule:
    mapping = _qconfig_mapping(raised, plan, trainable=trainable)
    model = (copy.deepcopy(raised) if trainable else copy_structure(raised, frozen=True)).train(trainable)
    for parameter in model.parameters():
        parameter.requires_grad_(trainable and parameter.is_floating_point())
    _absorb_clamps(model, plan)
    with _copied_as_themselves(model.parameters()):
        fused = fuse(model, trainable)
    scopes = {node.name: (str(node.meta.get("layer", "")), type(None)) for node in fused.graph.nodes}
    prepared = insert_observers(fused, mapping, trainable, scopes, example_inputs, backend_config=_backend_config())
    prepared.meta["octavo_groups"] = {
        str(node.meta["layer"]): group.name for group in groups(raised) for node in group.nodes
    }
    _widen_shared_ranges(prepared)
    if trainable:
        _keep_fold_factors_from_zero(prepared)
    _look_behind(prepared, plan)
    prepared.meta |= {key: value for key, value in raised.meta.items() if key.startswith("octavo")}
    assert isinstance(prepared, fx.GraphModule)
    del model, fused
    collect_garbage()
    return prepared


@functools.cache
def _backend_config() -> BackendConfig:
    """The one of torch, but that a sum or product with a number has a range of its own.

    torch shares one observer between `x` and `0.01 * x`: the product keeps 2 of 255 steps.
    """
    found = get_native_backend_config()
    for config in found.configs:
        if config._num_tensor_args_to_observation_type:
            own = ObservationType.OUTPUT_USE_DIFFERENT_OBSERVER_AS_INPUT
            config._set_num_tensor_args_to_observation_type(dict.fromkeys((0, 1, 2), own))
    return found


@contextmanager
def _copied_as_themselves(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Let `deepcopy` give these parameters back, and not copies.

    To fold a batch norm torch copies the layer and then replaces its weight: the places of the copies, of one layer
    after the other, are left as holes in the heap, and take as much memory as the model.
    """
    found: list[Any] = [*parameters]
    for each in found:
        each.__deepcopy__ = functools.partial(_itself, each)
    try:
        yield
    finally:
        for each in found:
            del each.__deepcopy__


def _itself(parameter: nn.Parameter, _memo: dict[int, Any]) -> nn.Parameter:
    return parameter


def _keep_fold_factors_from_zero(prepared: fx.GraphModule) -> None:
    """Give channels that batch norm switches off, as pruning does, a weight too small to show.

    torch.ao trains a layer by folding batch norm into its weight and dividing the output by the same factor: where that
    is zero the first loss is NaN.
    """
    for module in prepared.modules():
        norm = getattr(module, "bn", None)
        if not hasattr(module, "weight_fake_quant") or not isinstance(norm, nn.modules.batchnorm._BatchNorm):
            continue
        with torch.no_grad():
            assert norm.running_var is not None
            least = _LEAST_FOLD_FACTOR * torch.sqrt(norm.running_var + norm.eps)
            norm.weight.copy_(torch.where(norm.weight.abs() < least, least.copysign(norm.weight), norm.weight))


def _widen_shared_ranges(prepared: fx.GraphModule) -> None:
    """Where one moving average serves several tensors, let the range be their union instead.

    A moving average over a convolution's output and over the mean of that output settles between the two and clips the
    first: `two_inputs` of the zoo lost 24 dB to it.
    """
    named = [
        (name, module)
        for name, module in prepared.named_modules(remove_duplicate=False)
        if isinstance(getattr(module, "activation_post_process", module), MovingAverageMinMaxObserver)
        and not name.endswith(".activation_post_process")
    ]
    uses = Counter(id(module) for _, module in named)
    unions: dict[int, nn.Module] = {}
    for name, module in named:
        if uses[id(module)] > 1:
            parent, _, child = name.rpartition(".")
            union = unions.setdefault(id(module), _union_of(module))
            setattr(prepared.get_submodule(parent), child, union)


def _union_of(module: nn.Module) -> nn.Module:
    observer: Any = getattr(module, "activation_post_process", module)
    settings = {"dtype": observer.dtype, "qscheme": observer.qscheme, "reduce_range": observer.reduce_range}
    if observer is module:
        return MinMaxObserver(**settings)
    return CappedFakeQuantize(MinMaxObserver, quant_min=0, quant_max=255, **settings)


def _qconfig_mapping(raised: fx.GraphModule, plan: Plan, *, trainable: bool) -> QConfigMapping:
    """A qconfig for every layer that is to be int8, and None for all others."""
    mapping = QConfigMapping().set_global(None)
    learnable = isinstance(plan.spec, QatSpec) and plan.spec.qat.learnable_scales
    for node in raised.graph.nodes:
        mapping.set_module_name(str(node.meta.get("layer", "")), None)
    for group in groups(raised):
        if group.name not in plan.int8_layers or isinstance(group.module, nn.EmbeddingBag):
            continue  # a bag is converting.py's: FX would sum where a mean is asked
        for node in group.nodes:
            qconfig = qconfig_for(
                _op(raised, node), _settings_of(group, plan), trainable=trainable, learnable=trainable and learnable
            )
            mapping.set_module_name(str(node.meta["layer"]), qconfig)
    return mapping


def _settings_of(group: Group, plan: Plan) -> LayerSettings:
    settings = plan.settings_of(group.name)
    if settings.per_channel and isinstance(group.module, TRANSPOSED):
        # FX has no transposed convolution with a scale a channel.
        weight = settings.weight.model_copy(update={"observer": "minmax", "qscheme": "per_tensor_symmetric"})
        return replace(settings, weight=weight)
    return settings


def _absorb_clamps(model: fx.GraphModule, plan: Plan) -> None:
    """Turn a ReLU6 whose int8 kernel saturates at its end into a ReLU, which FX fuses; its observer keeps the end.

    FX itself leaves the clamp behind the convolution and gives both one range: 2 to 3 dB of a trained mobilenet_v2.
    """
    for group in groups(model):
        clamp = group.nodes[-1]
        if group.name in plan.int8_layers and plan.settings_of(group.name).cap is not None:
            clamp.target, clamp.args = F.relu, clamp.args[:1]
    model.recompile()


def _look_behind(prepared: fx.GraphModule, plan: Plan) -> None:
    """Tell the observer of each int8 layer's output what its kernel clamps, and what alone reads it."""
    owners = prepared.meta["octavo_groups"]
    observers = dict(prepared.named_modules(remove_duplicate=False))
    for node in prepared.graph.nodes:
        owner = owners.get(str(node.meta.get("layer", "")), "")
        if owner not in plan.int8_layers:
            continue
        for user in node.users:
            observer = observers.get(str(user.target)) if user.op == "call_module" else None
            settings = plan.settings_of(owner)
            if isinstance(observer, (RangeObserver, CappedFakeQuantize, LearnableFakeQuantize)):
                observer.cap = settings.cap
            if isinstance(observer, RangeObserver):
                observer.through = settings.through


def _op(raised: fx.GraphModule, node: fx.Node) -> str:
    """What torch.ao calls it: a module's class, a function's or a method's name."""
    if node.op == "call_module":
        return type(raised.get_submodule(str(node.target))).__name__
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
