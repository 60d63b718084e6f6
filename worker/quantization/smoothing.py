"""SmoothQuant: outlying channels behind a normalization move into the weights that read them.

Xiao et al. 2022, «SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models»
(https://arxiv.org/abs/2211.10438), equation 4: `s_j = max|X_j|^α / max|W_j|^(1−α)`, where `X_j` is a channel that the
normalization gives and `W_j` the weights of all the Linears that read it. `X_j / s_j` goes into the normalization's own
weight and bias, `W_j · s_j` into theirs, and the network computes what it computed.

    normalization   `nn.LayerNorm`, `rms_norm`, or any product with a vector of the model's own, which is how RMSNorm
                    is written by hand
    readers         Linears and convolutions only, through shape operators: where a residual connection reads the
                    normalization too, nothing is smoothed
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from worker.quantization.channels import (
    Reader,
    readers,
    replace_parameter,
    uses_of_parameters,
)
from worker.quantization.copying import copy_structure
from worker.quantization.grouping import CONVOLUTIONS, module_of

_MAX_SCALE = 1e4


@dataclass(frozen=True)
class Smoothed:
    """The smoothed network, and the names of its normalizations that were changed."""

    module: fx.GraphModule
    layers: tuple[str, ...]


def channel_maxima(raised: fx.GraphModule, batches: Iterable[tuple[Tensor, ...]]) -> dict[str, Tensor]:
    """The greatest |value| of each channel behind each normalization that can be smoothed: (channels,) by layer name.

    One forward pass a batch; nothing is kept but the maxima.
    """
    recorder = _Recorder(raised, {site.node: site.name for site in _sites(raised)})
    if recorder.names:
        with torch.no_grad():
            for batch in batches:
                recorder.run(*batch)
    return recorder.maxima


def smooth(raised: fx.GraphModule, maxima: Mapping[str, Tensor], alpha: float) -> Smoothed:
    """The same function with smoother channels; the given module is left as it was and shares what did not change.

    `maxima` is what `channel_maxima` found. Layers whose parameters serve several calls are left out, and channels that
    are zero, not finite or not read keep their scale. The outputs differ by float32 rounding only.
    """
    module = copy_structure(raised)
    names = []
    with torch.no_grad():
        for site in _sites(module):
            if site.name in maxima:
                site.divide(_scales(maxima[site.name], site.readers, alpha))
                names.append(site.name)
    return Smoothed(module, tuple(names))


@dataclass(frozen=True)
class _Site:
    """A normalization whose channels are read by weighted layers only."""

    node: fx.Node
    parameters: tuple[tuple[nn.Module, str], ...]  #: owner and name of its weight and bias
    readers: tuple[Reader, ...]

    @property
    def name(self) -> str:
        return str(self.node.meta["layer"])

    def divide(self, scales: Tensor) -> None:
        for owner, name in self.parameters:
            replace_parameter(owner, name, owner.get_parameter(name) / scales)
        for reader in self.readers:
            weight = reader.module.get_parameter("weight")
            kernel = (1,) * (weight.dim() - 2)
            replace_parameter(
                reader.module, "weight", weight * scales.repeat_interleave(reader.repeats).view(-1, *kernel)
            )


def _scales(maxima: Tensor, layers: tuple[Reader, ...], alpha: float) -> Tensor:
    weights = torch.stack([
        reader.module.get_parameter("weight").abs().transpose(0, 1).reshape(maxima.numel(), -1).amax(1)
        for reader in layers
    ]).amax(0)  # fmt: skip
    scales = maxima**alpha / weights ** (1 - alpha)
    usable = (maxima > 0) & (weights > 0) & scales.isfinite()
    return torch.where(usable, scales, 1.0).clamp(1 / _MAX_SCALE, _MAX_SCALE)


def _sites(raised: fx.GraphModule) -> list[_Site]:
    uses = uses_of_parameters(raised)
    sites = []
    for node in raised.graph.nodes:
        parameters = _affine(raised, node)
        if not parameters:
            continue
        found = readers(raised, node, -1) or []
        changed = [*parameters, *((reader.module, "weight") for reader in found)]
        tied = any(uses[id(owner.get_parameter(name))] > 1 for owner, name in changed)
        if found and not tied and all(_mixes_all_channels(reader.module) for reader in found):
            sites.append(_Site(node, parameters, tuple(found)))
    return sites


def _affine(raised: fx.GraphModule, node: fx.Node) -> tuple[tuple[nn.Module, str], ...]:
    """The parameters that a normalization multiplies its channels, on the last axis, with and adds to them."""
    module = module_of(raised, node)
    if isinstance(module, nn.LayerNorm):
        if len(module.normalized_shape) != 1 or module.weight is None:
            return ()
        return tuple((module, name) for name in ("weight", "bias") if getattr(module, name) is not None)
    if node.target is torch.mul:
        vectors = node.args
    elif node.target is torch.ops.aten.rms_norm.default:
        vectors = node.args[2:3]
    else:
        return ()
    names = [name for vector in vectors if (name := _vector_name(raised, vector, node)) is not None]
    return ((raised, names[0]),) if len(names) == 1 else ()


def _vector_name(raised: fx.GraphModule, vector: Any, product: fx.Node) -> str | None:
    """The name of a parameter that has one value a channel of the product and is read nowhere else."""
    if not isinstance(vector, fx.Node) or vector.op != "get_attr" or len(vector.users) != 1:
        return None
    name = str(vector.target)
    tensor = getattr(raised, name)
    return name if isinstance(tensor, nn.Parameter) and tensor.shape == product.meta["val"].shape[-1:] else None


def _mixes_all_channels(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or (isinstance(module, CONVOLUTIONS) and module.groups == 1)


class _Recorder(fx.Interpreter):
    """Runs the graph and keeps the greatest |value| of each channel of some nodes."""

    def __init__(self, raised: fx.GraphModule, names: Mapping[fx.Node, str]) -> None:
        super().__init__(raised)
        self.names = names
        self.maxima: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n in self.names:
            found = value.abs().flatten(0, -2).amax(0)
            before = self.maxima.setdefault(self.names[n], found)
            self.maxima[self.names[n]] = torch.maximum(before, found)
        return value
