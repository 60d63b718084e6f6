"""Cross-layer equalization: equal ranges of the channels between neighbouring layers, without changing the function.

Nagel et al. 2019, «Data-Free Quantization Through Weight Equalization and Bias Correction», section 4.1
(https://arxiv.org/abs/1906.04721): where `W₁` writes channel `c` and `W₂` reads it through nothing but positively
homogeneous operators, `W₁[c] / s_c` and `W₂[:, c] · s_c` compute the same for any `s_c > 0`. With
`s_c = √(r₁[c] / r₂[c])`, `r = max |W|`, both ranges become `√(r₁[c] · r₂[c])`: no channel is left with a few of the 256
steps because another one is large.

    pairs     every layer whose channels are read by weighted layers only; batch norm in between counts as part of it
    balance   s pair by pair, again and again until none changes: for a depthwise-separable triple this converges to the
              paper's `r₁ / (r₁ r₂ r₃)^⅓`
    scale     each weight once, by all that was found

Batch norm is not folded: `prepare` folds it later, and QAT trains it. Ranges are those of the folded weight, and the
scale goes into batch norm's own weight and bias.

ReLU6, hard-swish, SiLU, GELU are not homogeneous, so nothing is equalized across them; the paper puts ReLU in the place
of ReLU6, which is another function. Its high-bias absorption is left out too: it holds only for three standard
deviations.

`torch.ao.quantization._equalize` is not used: it takes ranges as max - min, so a dead channel, and each channel of one
weight, becomes NaN and its loop never ends; it refuses depthwise and grouped convolutions; and the pairs are left to
the caller. (Seen in torch 2.13.)
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn

from worker.quantization.channels import (
    channel_axis,
    readers,
    replace_parameter,
    uses_of_parameters,
)
from worker.quantization.copying import copy_structure
from worker.quantization.grouping import BATCH_NORM_OF, TRANSPOSED, WEIGHTED, module_of

_MAX_SWEEPS = 50
_CONVERGED = 1e-2  #: relative change of the scales in a sweep
_MAX_SCALE = 1e4  #: a channel this far from its neighbours is as good as dead, and float32 has its limits


@dataclass(frozen=True)
class Equalized:
    """The equalized network, and which layers were equalized with which."""

    module: fx.GraphModule
    pairs: tuple[tuple[str, str], ...]  #: names of the layer that writes the channels and of the one that reads them


def equalize(raised: fx.GraphModule) -> Equalized:
    """The same function with equal channel ranges; the given module is left as it was and shares what did not change.

    Layers whose parameters serve several calls are left out. The outputs differ by float32 rounding only.
    """
    module = copy_structure(raised)
    with torch.no_grad():
        joints = _joints(module)
        _balance(joints)
        layers = {id(layer): layer for joint in joints for layer in (joint.writer, *joint.readers)}
        for layer in layers.values():
            layer.rescale()
    pairs = [(joint.writer.name, reader.name) for joint in joints for reader in joint.readers]
    return Equalized(module, tuple(pairs))


@dataclass(eq=False)
class _Layer:
    """A weighted layer with the batch norm behind it, and the scales of its inputs and outputs so far."""

    name: str
    module: nn.Module
    norm: nn.Module | None
    #: |folded weight| by (group, output of the group, input of the group), greatest over the kernel
    magnitudes: Tensor = field(init=False)
    inputs: Tensor = field(init=False)  #: what each input's weights are multiplied by
    outputs: Tensor = field(init=False)  #: what each output is divided by

    def __post_init__(self) -> None:
        grouped = _by_group(self.module, _tensor(self.module, "weight")).abs().flatten(3).amax(3)
        if self.norm is not None:
            deviation = (_tensor(self.norm, "running_var") + self.norm.eps).sqrt()  # type: ignore[operator] # a float
            grouped *= (_tensor(self.norm, "weight") / deviation).abs().view(grouped.shape[0], -1, 1)
        self.magnitudes = grouped
        self.inputs = torch.ones(grouped.shape[0] * grouped.shape[2])
        self.outputs = torch.ones(grouped.shape[0] * grouped.shape[1])

    @property
    def owner(self) -> nn.Module:
        """What the scale of the outputs goes into."""
        return self.module if self.norm is None else self.norm

    def output_ranges(self) -> Tensor:
        """Greatest |weight| of each output as scaled so far."""
        return (self.magnitudes * self._by_input(self.inputs)).amax(2).flatten() / self.outputs

    def input_ranges(self) -> Tensor:
        """Greatest |weight| on each input as scaled so far."""
        return (self.magnitudes / self._by_output(self.outputs)).amax(1).flatten() * self.inputs

    def least_outputs(self) -> Tensor:
        """The least scales that let no bias grow beyond the greatest: a constant channel must not set the range."""
        if self.owner.bias is None:
            return torch.zeros_like(self.outputs)
        size = _tensor(self.owner, "bias").abs()
        return size / size.max().clamp_min(torch.finfo(size.dtype).tiny)

    def rescale(self) -> None:
        """Put the scales into the parameters; those that nothing changes stay the original's own."""
        inputs, outputs = (None if bool((scales == 1).all()) else scales for scales in (self.inputs, self.outputs))
        if inputs is not None or (outputs is not None and self.norm is None):
            weight = _tensor(self.module, "weight").clone()
            grouped = _by_group(self.module, weight)
            kernel = (1,) * (grouped.dim() - 3)
            grouped *= self._by_input(self.inputs).unflatten(2, (-1, *kernel))
            if self.norm is None:
                grouped /= self._by_output(self.outputs).unflatten(2, (1, *kernel))
            replace_parameter(self.module, "weight", weight)
        if outputs is not None and self.norm is not None:
            replace_parameter(self.norm, "weight", _tensor(self.norm, "weight") / outputs)
        if outputs is not None and self.owner.bias is not None:
            replace_parameter(self.owner, "bias", _tensor(self.owner, "bias") / outputs)

    def _by_input(self, scales: Tensor) -> Tensor:
        return scales.view(self.magnitudes.shape[0], 1, -1)

    def _by_output(self, scales: Tensor) -> Tensor:
        return scales.view(self.magnitudes.shape[0], -1, 1)


@dataclass(frozen=True)
class _Joint:
    """A layer that writes channels and all the layers that read them, each through so many inputs a channel."""

    writer: _Layer
    readers: tuple[_Layer, ...]
    repeats: tuple[int, ...]

    def balance(self) -> float:
        """Make the ranges on both sides equal; how much that changed the scales, as a natural logarithm."""
        writer = self.writer
        written = writer.output_ranges()
        read = torch.stack([
            reader.input_ranges().view(-1, repeats).amax(1)
            for reader, repeats in zip(self.readers, self.repeats, strict=True)
        ]).amax(0)  # fmt: skip
        alive = (written > 0) & (read > 0)
        wanted = torch.where(alive, writer.outputs * (written / read).sqrt(), writer.outputs)
        wanted = wanted.clamp(1 / _MAX_SCALE, _MAX_SCALE).maximum(writer.least_outputs())
        change = wanted / writer.outputs
        writer.outputs = wanted
        for reader, repeats in zip(self.readers, self.repeats, strict=True):
            reader.inputs = reader.inputs * change.repeat_interleave(repeats)
        return float(change.log().abs().max())


def _joints(raised: fx.GraphModule) -> list[_Joint]:
    uses = uses_of_parameters(raised)
    layers: dict[fx.Node, _Layer] = {}

    def layer(node: fx.Node, module: nn.Module) -> _Layer:
        if node not in layers:
            norm = _norm_behind(raised, node, module)
            layers[node] = _Layer(str(node.meta["layer"]), module, module_of(raised, norm) if norm else None)
        return layers[node]

    joints = []
    for node in raised.graph.nodes:
        module = module_of(raised, node)
        if not isinstance(module, WEIGHTED):
            continue
        end = _norm_behind(raised, node, module) or node
        found = readers(raised, end, channel_axis(module, node))
        changed = [module, *([] if end is node else [module_of(raised, end)]), *(r.module for r in found or [])]
        if not found or any(uses[id(p)] > 1 for owner in changed if owner for p in owner.parameters(recurse=False)):
            continue
        joints.append(
            _Joint(
                layer(node, module),
                tuple(layer(reader.node, reader.module) for reader in found),
                tuple(reader.repeats for reader in found),
            )
        )
    return joints


def _norm_behind(raised: fx.GraphModule, node: fx.Node, module: nn.Module) -> fx.Node | None:
    """The batch norm that alone reads a weighted layer."""
    user = next(iter(node.users), None)
    kind = BATCH_NORM_OF.get(type(module))
    return user if user and len(node.users) == 1 and kind and isinstance(module_of(raised, user), kind) else None


def _balance(joints: list[_Joint]) -> None:
    for _ in range(_MAX_SWEEPS):
        if max((joint.balance() for joint in joints), default=0.0) < _CONVERGED:
            return


def _by_group(module: nn.Module, weight: Tensor) -> Tensor:
    """A view of the weight as (group, output of the group, input of the group, kernel …)."""
    if isinstance(module, nn.Linear):
        return weight[None, :, :, None]
    grouped = weight.unflatten(0, (module.groups, -1))
    return grouped.transpose(1, 2) if isinstance(module, TRANSPOSED) else grouped


def _tensor(module: nn.Module, name: str) -> Tensor:
    tensor = getattr(module, name)
    assert isinstance(tensor, Tensor)
    return tensor
