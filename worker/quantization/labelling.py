"""Which layer each node of an int8 graph belongs to: conversion makes new nodes and forgets it.

Modules keep their node, and with it the layer. Of operators such as `add_relu` only the order is left: it is that of
the layers which no node of the int8 graph names any more.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import fx

from worker.quantization.grouping import Group, groups

_QUANTIZE = (torch.quantize_per_tensor, torch.quantize_per_channel)
#: Operators that compute nothing: tensors pass through them as they are, only in another shape.
_PASSING = frozenset({
    "alias", "chunk", "contiguous", "detach", "dropout", "dropout1d", "dropout2d", "dropout3d", "expand", "expandas",
    "flatten", "getitem", "identity", "narrow", "permute", "reshape", "select", "slice", "split", "squeeze", "t",
    "transpose", "typeas", "unbind", "unflatten", "unsafeview", "unsqueeze", "view",
})  # fmt: skip


def is_quantize(node: fx.Node) -> bool:
    """Whether a node turns a float tensor into integers."""
    return node.op == "call_function" and node.target in _QUANTIZE


def is_dequantize(node: fx.Node) -> bool:
    """Whether a node turns integers into a float tensor."""
    return (node.op == "call_method" and node.target == "dequantize") or node.target is torch.dequantize


def is_boundary(node: fx.Node) -> bool:
    """Whether a node is a quant boundary."""
    return is_quantize(node) or is_dequantize(node)


def passes_on(root: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node only gives its input another shape."""
    if node.op == "call_module":
        return plain(type(root.get_submodule(str(node.target))).__name__) in _PASSING
    name = str(getattr(node.target, "__name__", node.target)).partition(".")[0]
    return node.op in ("call_method", "call_function") and plain(name) in _PASSING


def plain(op: str) -> str:
    """An operator's name without what spellings differ in: `Hardswish` and `hardswish`, `add_relu` and `addrelu`."""
    return op.lower().replace("_", "")


@dataclass(frozen=True)
class Labelled:
    """A raised graph and what was quantized from it, with the layer of every node of both."""

    raised: fx.GraphModule
    quantized: fx.GraphModule
    groups: tuple[Group, ...]  #: in the graph's order
    owners: dict[str, Group]  #: the group that every layer belongs to
    layers: dict[fx.Node, str]  #: of the quantized graph's nodes; boundaries and constants have none
    left: frozenset[str]  #: the layers that a node of the quantized graph stands for
    absorbed: dict[str, str]  #: the others, such as a ReLU, and the layer whose kernel computes them


def labelled(raised: fx.GraphModule, quantized: fx.GraphModule) -> Labelled:
    """Say of every node which layer it belongs to; both graphs stay as they are for as long as it is used."""
    all_groups = tuple(groups(raised))
    owners = {str(node.meta["layer"]): group for group in all_groups for node in group.nodes}
    layers = _label(all_groups, quantized)
    left = frozenset(layers.values())
    return Labelled(raised, quantized, all_groups, owners, layers, left, _absorbed(raised, owners, left))


def _label(all_groups: Iterable[Group], quantized: fx.GraphModule) -> dict[fx.Node, str]:
    known = {node: str(node.meta["layer"]) for node in quantized.graph.nodes if node.meta.get("layer")}
    named = set(known.values())
    waiting = iter([group for group in all_groups if group.name not in named])
    for node in quantized.graph.nodes:
        if node not in known and node.op.startswith("call_") and not is_boundary(node):
            found = _next_called(waiting, node)
            if found is not None:
                known[node] = found.name
    return known


def _next_called(waiting: Iterator[Group], node: fx.Node) -> Group | None:
    """The next of these layers that bears the operator's name; those before it were fused into others."""
    name = plain(str(getattr(node.target, "__name__", node.target)))
    return next((group for group in waiting if name.startswith(plain(group.op))), None)


def _absorbed(raised: fx.GraphModule, owners: Mapping[str, Group], left: Collection[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for group in dict.fromkeys(owners.values()):
        if any(str(node.meta["layer"]) in left for node in group.nodes) or passes_on(raised, group.nodes[0]):
            continue
        before = [
            owners[layer].name
            for node in group.nodes[0].all_input_nodes
            if (layer := str(node.meta.get("layer"))) in owners
        ]
        if before:
            found[group.name] = found.get(before[0], before[0])
    return found
