"""The qparams of every weight and observer, with what is suspicious about them.

stretch            width of the range seen / width of the range that holds 99.9 % of the values; both hold zero, as
                   every quantized range does. From 4 on, `outliers`: 2 of the 8 bits go to one value in a thousand
dead, constant     a channel whose int8 weights are all zero, or all the same
scale_zero         a scale that is no greater than float32's epsilon: what an observer makes of a tensor of zeros
nothing_seen       an observer that no tensor has passed
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.ao.quantization import FakeQuantizeBase, ObserverBase

from shared.layer_report import ChannelSpread, Qparams
from worker.quantization.grouping import module_of
from worker.quantization.int8_modules import int8_weights, is_per_channel, weight_scales, weight_zero_points
from worker.quantization.ranging import RangeObserver

OUTLIER_STRETCH = 4.0
INSIDE = 0.999  #: the share of the values that stretch compares with
_LISTED_CHANNELS = 32
_EPSILON = torch.finfo(torch.float32).eps

Flag = Literal[
    "scale_zero", "scale_not_finite", "nothing_seen", "outliers", "dead_channels", "constant_channels", "clips"
]


def weight_qparams(quantized: nn.Module, original: nn.Module | None, observer: Any = None) -> list[Qparams]:
    """Of every weight that a quantized module holds.

    `original` is the float module as it was calibrated, with batch norm folded; without it the range is that of the
    integers. `observer` found the range.
    """
    found = []
    for name, weight in int8_weights(quantized).items():
        values = _float_weight(original, weight) if original is not None else None
        values = weight.dequantize() if values is None else values
        channels = _spread(weight)
        low, high = _limits(observer, weight.dtype)
        flags: list[Flag] = []
        if not bool(weight_scales(weight).isfinite().all()):
            flags.append("scale_not_finite")
        if float(weight_scales(weight).max()) <= _EPSILON:
            flags.append("scale_zero")
        if channels is not None and channels.dead:
            flags.append("dead_channels")
        if channels is not None and channels.constant:
            flags.append("constant_channels")
        found.append(
            Qparams(
                role="weight",
                tensor=name,
                dtype="qint8" if weight.dtype is torch.qint8 else "quint8",
                qscheme=_word(weight.qscheme()),
                observer=observer_name(observer),
                quant_min=low,
                quant_max=high,
                min=_finite(values.min()),
                max=_finite(values.max()),
                scale=_finite(weight_scales(weight).median()),
                zero_point=int(weight_zero_points(weight).flatten()[0]),
                channels=channels,
                flags=flags,
            )
        )
    return found


def activation_qparams(prepared: fx.GraphModule, int8_layers: frozenset[str]) -> dict[str, list[Qparams]]:
    """Of every observer in a calibrated graph, by layer: its output, and the inputs that no int8 layer made."""
    owners: Mapping[str, str] = prepared.meta["octavo_groups"]
    found: dict[str, list[Qparams]] = {}
    for node in prepared.graph.nodes:
        observer = observer_at(prepared, node)
        if observer is None:
            continue
        source = unobserved(prepared, node)
        producer = owners.get(str(source.meta.get("layer", "")), "")
        if producer in int8_layers:
            if not any(owners.get(str(user.meta.get("layer", ""))) == producer for user in node.users):
                _add(found, producer, _of_observer(observer, "output", "output"))
            continue
        for reader in _readers(prepared, node):
            consumer = owners.get(str(reader.meta.get("layer", "")), "")
            if consumer in int8_layers:
                _add(found, consumer, _of_observer(observer, "input", str(source.meta.get("layer") or source.name)))
    return found


def observer_at(graph: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """The observer or fake quantize that a node calls."""
    module = module_of(graph, node)
    return module if isinstance(module, ObserverBase | FakeQuantizeBase) else None


def unobserved(graph: fx.GraphModule, node: fx.Node) -> fx.Node:
    """The node whose tensor an observer sees."""
    while observer_at(graph, node) is not None:
        node = node.all_input_nodes[0]
    return node


def observer_name(observer: Any) -> str | None:
    """The spec's word: `moving_average_minmax` for MovingAverageMinMaxObserver; None for a range fixed beforehand."""
    inner = getattr(observer, "activation_post_process", observer)
    if hasattr(inner, "rule"):
        return str(inner.rule)
    name = type(inner).__name__.removesuffix("Observer").replace("MinMax", "Minmax")
    if observer is None or "FixedQParams" in name or name == "Placeholder":
        return None
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def stretch_of(histogram: Tensor, low: float, high: float, least: float, greatest: float) -> float | None:
    """The stretch of values counted between `low` and `high`, of which these are the least and the greatest."""
    total = float(histogram.sum())
    if total <= 0 or not high > low:
        return None
    cumulated = histogram.double().cumsum(0) / total
    rare = torch.tensor((1 - INSIDE) / 2, dtype=torch.float64)
    bin_width = (high - low) / len(histogram)
    first = int(torch.searchsorted(cumulated, rare, right=True))
    last = int(torch.searchsorted(cumulated, 1 - rare))
    inner_low = max(least, low + min(first, len(histogram) - 1) * bin_width)
    inner_high = min(greatest, low + (min(last, len(histogram) - 1) + 1) * bin_width)
    inner = max(inner_high, 0.0) - min(inner_low, 0.0)
    return (max(greatest, 0.0) - min(least, 0.0)) / inner if inner > 0 else None


def _of_observer(observer: nn.Module, role: Literal["input", "output"], tensor: str) -> Qparams | None:
    inner: Any = getattr(observer, "activation_post_process", observer)
    if getattr(inner, "dtype", None) not in (torch.quint8, torch.qint8) or not hasattr(inner, "calculate_qparams"):
        return None
    least, greatest = (_seen(inner, name) for name in ("min_val", "max_val"))
    fixed = observer_name(observer) is None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an observer that saw nothing says so, and here it is a flag
        scales, zero_points = inner.calculate_qparams()
    scale, zero_point = float(scales.reshape(-1)[0]), int(zero_points.reshape(-1)[0])
    flags: list[Flag] = []
    stretch = None
    if not fixed and (least is None or greatest is None):
        flags.append("nothing_seen")
    elif isinstance(inner, RangeObserver) and least is not None and greatest is not None:
        low_edge, high_edge = inner.bounds.tolist()
        stretch = stretch_of(inner.counts, low_edge, high_edge, least, greatest)
    if not math.isfinite(scale):
        flags.append("scale_not_finite")
    elif scale <= _EPSILON:
        flags.append("scale_zero")
    if stretch is not None and stretch >= OUTLIER_STRETCH:
        flags.append("outliers")
    low, high = _limits(observer, inner.dtype)
    return Qparams(
        role=role,
        tensor=tensor,
        dtype="quint8" if inner.dtype is torch.quint8 else "qint8",
        qscheme=_word(inner.qscheme),
        observer=observer_name(observer),
        quant_min=low,
        quant_max=high,
        min=least,
        max=greatest,
        scale=scale if math.isfinite(scale) else None,
        zero_point=zero_point,
        stretch=stretch,
        flags=flags,
    )


def _add(found: dict[str, list[Qparams]], layer: str, qparams: Qparams | None) -> None:
    of_layer = found.setdefault(layer, [])
    known = {(other.role, other.tensor) for other in of_layer}
    if qparams is not None and (qparams.role, qparams.tensor) not in known:
        of_layer.append(qparams)


def _readers(prepared: fx.GraphModule, node: fx.Node) -> Iterator[fx.Node]:
    for user in node.users:
        if observer_at(prepared, user) is None:
            yield user
        else:
            yield from _readers(prepared, user)


def _seen(observer: Any, name: str) -> float | None:
    value = getattr(observer, name, None)
    return _finite(value) if isinstance(value, Tensor) and value.numel() == 1 else None


def _finite(value: Tensor) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


def _limits(observer: Any, dtype: torch.dtype) -> tuple[int, int]:
    low, high = getattr(observer, "quant_min", None), getattr(observer, "quant_max", None)
    if low is None or high is None:
        return (-128, 127) if dtype is torch.qint8 else (0, 255)
    return int(low), int(high)


def _word(qscheme: torch.qscheme) -> str:
    return str(qscheme).removeprefix("torch.")


def _spread(weight: Tensor) -> ChannelSpread | None:
    if not is_per_channel(weight.qscheme()):
        return None
    axis, scales = weight.q_per_channel_axis(), weight_scales(weight)
    rows = weight.int_repr().transpose(0, axis).flatten(1)
    zero_points = weight_zero_points(weight).round().to(torch.int64)
    one_value = (rows == rows[:, :1]).all(1) & (rows.shape[1] > 1)
    dead = (rows == zero_points[:, None]).all(1)
    return ChannelSpread(
        axis=axis,
        count=len(scales),
        scale_min=float(scales.min()),
        scale_median=float(scales.median()),
        scale_max=float(scales.max()),
        dead=dead.nonzero()[:_LISTED_CHANNELS, 0].tolist(),
        constant=(one_value & ~dead).nonzero()[:_LISTED_CHANNELS, 0].tolist(),
    )


def _float_weight(original: nn.Module, weight: Tensor) -> Tensor | None:
    """The float weight of a calibrated module, if batch norm is folded into it as it is into the int8 one."""
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in original.modules()):
        return None
    same = (parameter for parameter in original.parameters() if parameter.shape == weight.shape)
    return next((parameter.detach() for parameter in same), None)
