"""Which weighted layers read the channels of a tensor, when all that lies between is homogeneous in each channel.

Multiplying a channel by `s > 0` and the weights that read it by `1/s` changes nothing, as long as every operator in
between answers `s·x` with `s·f(x)`: ReLU and its leaky kin, pooling, resizing, shape operators. Cross-layer
equalization and SmoothQuant both rest on this.
"""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from worker.quantization.grouping import WEIGHTED, argument, module_of


@dataclass(frozen=True)
class Channels:
    """Where the channels of a tensor lie: entry `i` of the axis belongs to channel `i // repeats`."""

    axis: int
    count: int
    repeats: int = 1


@dataclass(frozen=True)
class Reader:
    """A convolution or Linear, each of whose channels is read through `repeats` of its inputs in a row."""

    node: fx.Node
    module: nn.Module
    repeats: int


def readers(raised: fx.GraphModule, node: fx.Node, axis: int) -> list[Reader] | None:
    """The weighted layers behind a tensor's channels; None when anything else would see their scale."""
    value = node.meta["val"]
    count = value.shape[axis]
    if not isinstance(count, int):
        return None
    found: list[Reader] = []
    waiting = [(node, Channels(axis % value.dim(), count))]
    while waiting:
        source, channels = waiting.pop()
        for user in source.users:
            if _is_size(user):
                continue
            if not _reads_once(user, source):
                return None
            module = module_of(raised, user)
            if isinstance(module, WEIGHTED):
                if channels.axis != channel_axis(module, source):
                    return None
                found.append(Reader(user, module, channels.repeats))
                continue
            after = _after(user, module, channels)
            if after is None:
                return None
            waiting.append((user, after))
    return found


def channel_axis(module: nn.Module, node: fx.Node) -> int:
    """The axis that holds the channels of a weighted layer in a tensor that it reads or writes."""
    weight = module.get_parameter("weight")
    return _dim(node) - 1 if isinstance(module, nn.Linear) else _dim(node) - (weight.dim() - 1)


def replace_parameter(owner: nn.Module, name: str, value: Tensor) -> None:
    """Give a module other values for a parameter; the old ones stay as they are."""
    old = owner.get_parameter(name)
    setattr(owner, name, nn.Parameter(value.to(old.dtype), requires_grad=old.requires_grad))


def uses_of_parameters(raised: fx.GraphModule) -> Counter[int]:
    """How many nodes read each parameter, by `id`: tied weights, and layers that are called several times."""
    uses: Counter[int] = Counter()
    for node in raised.graph.nodes:
        if node.op == "call_module":
            uses.update(id(parameter) for parameter in raised.get_submodule(str(node.target)).parameters())
        elif node.op == "get_attr":
            uses.update({id(getattr(raised, str(node.target))): len(node.users)})
    return uses


def _is_size(node: fx.Node) -> bool:
    return not isinstance(node.meta.get("val"), Tensor) and node.op == "call_method" and node.target == "size"


def _reads_once(user: fx.Node, source: fx.Node) -> bool:
    """Whether the source is the first argument and no other."""
    seen: list[fx.Node] = []
    fx.node.map_arg((user.args[1:], user.kwargs), seen.append)
    return user.op != "output" and bool(user.args) and user.args[0] is source and source not in seen


# --- where the channels are after an operator ------------------------------------------------------------------------

_After = Callable[[fx.Node, Channels], Channels | None]


def _after(user: fx.Node, module: nn.Module | None, channels: Channels) -> Channels | None:
    if module is not None:
        return channels if isinstance(module, nn.Dropout | nn.PReLU) else None
    rule = _RULES.get(_key(user))
    return rule(user, channels) if rule is not None and isinstance(user.meta.get("val"), Tensor) else None


def _key(node: fx.Node) -> Any:
    """Operators that stayed aten go by their name."""
    return node.target._schema.name if isinstance(node.target, torch._ops.OpOverload) else node.target


def _stays(_user: fx.Node, channels: Channels) -> Channels:
    return channels


def _spatial(dimensions: int) -> _After:
    """An operator on the last axes, which must not be those of the channels."""

    def rule(user: fx.Node, channels: Channels) -> Channels | None:
        return channels if channels.axis < _dim(user) - dimensions else None

    return rule


def _resize(_user: fx.Node, channels: Channels) -> Channels | None:
    """`interpolate` works on all axes from the third on."""
    return channels if channels.axis == 1 else None


def _pad(user: fx.Node, channels: Channels) -> Channels | None:
    mode = argument(user, 2, "mode") or "constant"
    value = argument(user, 3, "value") or 0
    if mode == "constant" and value != 0:
        return None
    first = 2 * (_dim(user) - 1 - channels.axis)  # pairs count from the last axis
    return None if any(argument(user, 1, "pad")[first : first + 2]) else channels


def _reduce(user: fx.Node, channels: Channels) -> Channels | None:
    """Mean or maximum over other axes."""
    given = argument(user, 1, "dim")
    source_dim = _dim(user.args[0])
    axes = [axis % source_dim for axis in _listed(given)]
    if not axes or channels.axis in axes:
        return None
    if _dim(user) == source_dim:
        return channels
    return replace(channels, axis=channels.axis - sum(axis < channels.axis for axis in axes))


def _select(user: fx.Node, channels: Channels) -> Channels | None:
    (axis,) = (axis % _dim(user.args[0]) for axis in _listed(argument(user, 1, "dim")))
    return None if axis == channels.axis else replace(channels, axis=channels.axis - (axis < channels.axis))


def _index(user: fx.Node, channels: Channels) -> Channels | None:
    """`x[:, a:b]` with computed bounds."""
    index = user.args[1]
    if not isinstance(index, tuple) or not all(isinstance(entry, slice) for entry in index):
        return None
    return channels if channels.axis >= len(index) or index[channels.axis] == slice(None) else None


def _takes_from_other_axis(user: fx.Node, channels: Channels) -> Channels | None:
    """`narrow` and `slice`: a part of one axis."""
    (axis,) = _listed(argument(user, 1, "dim") or 0)
    return channels if axis % _dim(user) != channels.axis else None


def _roll(user: fx.Node, channels: Channels) -> Channels | None:
    axes = [axis % _dim(user) for axis in _listed(argument(user, 2, "dims"))]
    return channels if axes and channels.axis not in axes else None


def _permute(user: fx.Node, channels: Channels) -> Channels | None:
    given = user.args[1] if isinstance(user.args[1], list | tuple) else user.args[1:]
    order = [axis % _dim(user) for axis in _listed(given)]
    return replace(channels, axis=order.index(channels.axis))


def _transpose(user: fx.Node, channels: Channels) -> Channels | None:
    first, second = (axis % _dim(user) for axis in _listed(user.args[1:]))
    return replace(channels, axis={first: second, second: first}.get(channels.axis, channels.axis))


def _reshape(user: fx.Node, channels: Channels) -> Channels | None:
    """Flatten, view, squeeze and the like: in the new shape an axis that begins where the channels began."""
    source = user.args[0]
    assert isinstance(source, fx.Node)
    before, after = _sizes(source), _sizes(user)
    for axis, size in enumerate(after):
        if not isinstance(size, int) or size % channels.count or size < channels.count:
            continue
        if math.prod(before[: channels.axis]) == math.prod(after[:axis]):
            return Channels(axis, channels.count, size // channels.count)
    return None


def _sizes(node: fx.Node) -> list[Any]:
    """The shape, with symbolic sizes as expressions, which multiply and compare without guards."""
    return [size if isinstance(size, int) else size.node.expr for size in node.meta["val"].shape]


def _dim(node: Any) -> int:
    value = node.meta["val"]
    assert isinstance(value, Tensor)
    return value.dim()


def _listed(axes: Any) -> list[int]:
    """No axis, one, or several."""
    return [] if axes is None else list(axes) if isinstance(axes, list | tuple) else [axes]


_RULES: dict[Any, _After] = {
    F.relu: _stays,
    F.leaky_relu: _stays,
    F.max_pool1d: _spatial(1),
    F.max_pool2d: _spatial(2),
    F.max_pool3d: _spatial(3),
    F.avg_pool1d: _spatial(1),
    F.avg_pool2d: _spatial(2),
    F.avg_pool3d: _spatial(3),
    torch.adaptive_avg_pool1d: _spatial(1),
    F.adaptive_avg_pool2d: _spatial(2),
    F.adaptive_avg_pool3d: _spatial(3),
    F.interpolate: _resize,
    F.pad: _pad,
    torch.mean: _reduce,
    "aten::amax": _reduce,
    operator.getitem: _index,
    torch.narrow: _takes_from_other_axis,
    "aten::slice": _takes_from_other_axis,
    "aten::select": _select,
    "aten::roll": _roll,
    torch.flatten: _reshape,
    "reshape": _reshape,
    "unflatten": _reshape,
    "squeeze": _reshape,
    "unsqueeze": _reshape,
    "contiguous": _stays,
    "permute": _permute,
    "transpose": _transpose,
}
