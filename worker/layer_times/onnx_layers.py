"""Which layer an operator of a runtime is of: runtimes rename and fuse the nodes of an ONNX file.

What lasts is the name of a node, for that of a fused one begins with the name of a part of it or of a value that a part
gives, and the names of weights and of the values between what was not fused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from worker.exporting.rewriting import LAYER
from worker.layer_times.operators import Operator

_PART = re.compile(r"[/_:]")


class OnnxLayers:
    """The layers of a file's nodes, values and weights, and how its layers follow each other."""

    def __init__(self, path: Path, original: Path | None = None) -> None:
        """`original` is the float model that a file was made from by a tool that keeps names, but not their layers."""
        graph = ir.load(path).graph
        self._layers: dict[str, str] = {}
        for each in (graph, *([] if original is None else [ir.load(original).graph])):
            self._learn(each)
        self._types: dict[str, set[str]] = {}
        self._before: dict[str, list[str]] = {}
        for node in graph:
            layer = self._layers.get(str(node.name))
            if layer is not None:
                given = [self._layers.get(str(value.name), layer) for value in node.inputs if value is not None]
                self._types.setdefault(layer, set()).add(node.op_type)
                self._before.setdefault(layer, []).extend(each for each in given if each != layer)

    def _learn(self, graph: ir.Graph) -> None:
        readers: dict[str, set[str]] = {}
        for node in graph:
            layer = node.metadata_props.get(LAYER)
            if layer is None:
                continue
            if node.op_type not in ("DequantizeLinear", "QuantizeLinear"):
                for name in (node.name, *(value.name for value in node.outputs)):
                    self._layers.setdefault(str(name), layer)
            for value in node.inputs:
                if value is not None and value.const_value is not None:
                    readers.setdefault(str(value.name), set()).add(layer)
        for name, layers in readers.items():
            if len(layers) == 1:  # others, such as the number 1, are shared
                self._layers.setdefault(name, *layers)

    def of(self, name: str, values: Iterable[str] = ()) -> tuple[str, ...]:
        """The layers of a node by its name, or what that begins with, and of values that it reads or gives."""
        ends = [len(name), *(match.start() for match in reversed([*_PART.finditer(name)]))]
        known = [name[:end] for end in ends if name[:end] in self._layers][:1]
        known += [value for value in values if value in self._layers]
        return tuple(dict.fromkeys(self._layers[each] for each in known))

    def with_fused(self, operators: Sequence[Operator]) -> list[Operator]:
        """The operators, with the layers that none of them bears given to those that they were fused into.

        A convolution that is called after the ReLU within it has its own layer before that one; what is left is done by
        the last of the operators whose values it reads.
        """
        found = [dict.fromkeys(operator.layers) for operator in operators]
        owners = {layer: at for at, layers in enumerate(found) for layer in layers}
        for at, operator in enumerate(operators):
            if operator.layers and not any(self._is(operator.kind, layer) for layer in operator.layers):
                for layer in self._path_back(operator.kind, operator.layers[0], owners):
                    found[at][layer] = None
                    owners[layer] = at
        for layer, before in self._before.items():
            if layer not in owners and (makers := [owners[each] for each in before if each in owners]):
                owners[layer] = max(makers)
                found[max(makers)][layer] = None
        return [replace(operator, layers=tuple(layers)) for operator, layers in zip(operators, found, strict=True)]

    def _is(self, kind: str, layer: str) -> bool:
        """Whether an operator of this kind, such as QLinearConv, may be the layer itself."""
        return any(each in kind for each in self._types.get(layer, ()))

    def _path_back(self, kind: str, layer: str, owners: Mapping[str, int]) -> list[str]:
        """The layers without operators before this one, up to the first that may be of this kind."""
        for before in self._before.get(layer, ()):
            if before in owners:
                continue
            further = [] if self._is(kind, before) else self._path_back(kind, before, owners)
            if further or self._is(kind, before):
                return [before, *further]
        return []

    def with_unnamed(self, operators: Sequence[Operator]) -> list[Operator]:
        """The operators, with layers that none of them bears given to those without names that stand in their place."""
        borne = {layer for operator in operators for layer in operator.layers}
        missing = {layer: before for layer, before in self._before.items() if layer not in borne}
        found: dict[str, tuple[str, ...]] = {}
        placed: set[str] = set()
        for operator in operators:
            found[operator.name] = operator.layers
            arriving = [layer for each in operator.reads for layer in found.get(each, ())]
            if operator.layers or not arriving:
                continue
            place = next((layer for layer, before in missing.items() if set(arriving).intersection(before)), None)
            if place is not None:
                del missing[place]
                placed.add(place)
                found[operator.name] = (place,)
            elif placed.issuperset(arriving):  # the rest of what stands in a layer's place
                found[operator.name] = (arriving[0],)
        return [replace(operator, layers=found[operator.name]) for operator in operators]


def producers(gives: Mapping[str, Sequence[str]], reads: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """By operator, those that give what it reads; both are told by the names of values."""
    makers = {value: name for name, values in gives.items() for value in values}
    return {
        name: tuple(dict.fromkeys(makers[each] for each in values if each in makers)) for name, values in reads.items()
    }
