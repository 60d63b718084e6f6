"""Float and int8 side by side, by the user's layers.

Runtimes fuse other layers in float than in int8. What either computes as one stands as one row: a sum within a
convolution here and by itself there would look like a slow convolution and a free sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from shared.layer_report import LayerSummary
from shared.layer_times import BoundaryTime, LayerTime, OtherTime
from worker.layer_times.operators import Operator

_Kind = Literal["quantize", "dequantize", "reorder"]
_CROSSINGS: Mapping[str, _Kind] = {
    "QuantizeLinear": "quantize", "DynamicQuantizeLinear": "quantize", "aten::quantize_per_tensor": "quantize",
    "aten::quantize_per_tensor_dynamic": "quantize", "DequantizeLinear": "dequantize", "aten::dequantize": "dequantize",
}  # fmt: skip
#: Where they are of no layer: a runtime put them there.
_PUT_BETWEEN: Mapping[str, _Kind] = {
    "FakeQuantize": "quantize", "Reorder": "reorder", "ReorderInput": "reorder", "ReorderOutput": "reorder",
    "Transpose": "reorder",
}  # fmt: skip
_SAME = 0.05
_CLOCK_MS = 0.001  # of runtimes that tell whole microseconds
_NOISE_OF_ONE_OPENING = 0.1
Openings = Sequence[Sequence[Operator]]


@dataclass(frozen=True)
class Attributed:
    """What operators of the float and of the int8 model make of the layers."""

    layers: list[LayerTime]
    boundaries: list[BoundaryTime]
    others: list[OtherTime]
    float_ms: float
    int8_ms: float
    boundaries_ms: float
    float_reorders_ms: float


def attributed(floats: Openings, int8s: Openings, layers: Sequence[LayerSummary]) -> Attributed:
    """Both models' operators, by opening of their files, in the report's layers."""
    rows = _Rows(layers, [*floats[0], *int8s[0]])
    float_ms, int8_ms = _total(floats), _total(int8s)
    places = _Places(rows, int8s[0])

    def other(operator: Operator) -> str | None:
        return _op(operator) if rows.of(operator) is None and _crossing(operator) is None else None

    found = [rows.timed(row, _sums(floats, rows.of, row), _sums(int8s, rows.of, row), int8_ms) for row in rows.named()]
    others = dict.fromkeys(op for each in (*floats[0], *int8s[0]) if each.ms > 0 and (op := other(each)) is not None)
    crossings = dict.fromkeys(place for each in int8s[0] if (place := places.of(each)) is not None)
    return Attributed(
        layers=found,
        boundaries=[
            BoundaryTime(
                kind=kind, producer=before, consumer=after, ms=median(_sums(int8s, places.of, (kind, before, after)))
            )
            for kind, before, after in crossings
        ],
        others=[
            OtherTime(
                op=op,
                float_ms=median(_sums(floats, other, op)),
                int8_ms=median(_sums(int8s, other, op)),
            )
            for op in others
        ],
        float_ms=float_ms,
        int8_ms=int8_ms,
        boundaries_ms=_total(int8s, _crossing),
        float_reorders_ms=_total(floats, _crossing),
    )


class _Rows:
    """Layers of the report, those put together that either model computes in one operator."""

    def __init__(self, layers: Sequence[LayerSummary], operators: Iterable[Operator]) -> None:
        self._layers = {layer.name: layer for layer in layers}
        self._owners = {name: name for name in self._layers}
        self._owners |= {fused: layer.name for layer in layers for fused in layer.fused if fused not in self._layers}
        self._first = {name: name for name in self._layers}
        self._timed: set[str] = set()
        for operator in operators:
            owned = self._owned(operator) if _crossing(operator) is None else []
            self._timed.update(owned)
            for other in owned[1:]:
                self._first[self._root(other)] = self._root(owned[0])

    def named(self) -> list[str]:
        """The rows, in the graph's order."""
        timed = {self._root(name) for name in self._timed}
        return [root for root in dict.fromkeys(map(self._root, self._layers)) if root in timed]

    def of(self, operator: Operator) -> str | None:
        """The row of an operator; None for one that only gives tensors another shape or type."""
        owned = self._owned(operator) if _crossing(operator) is None else []
        return self._root(owned[0]) if owned else None

    def shown(self, row: str) -> str:
        """The layer that a row is called after."""
        return max(self._members(row), key=lambda name: self._layers[name].macs)

    def timed(self, row: str, float_ms: Sequence[float], int8_ms: Sequence[float], total_ms: float) -> LayerTime:
        """The row with its times at each opening."""
        name = self.shown(row)
        before, after = median(float_ms), median(int8_ms)
        lost = [int8 - of_float for of_float, int8 in zip(float_ms, int8_ms, strict=True)]
        noise = max(lost) - min(lost) if len(lost) > 1 else None
        larger = max(before, after)
        doubtful = max(_CLOCK_MS, _SAME * larger, _NOISE_OF_ONE_OPENING * larger if noise is None else noise)
        is_same = abs(after - before) <= doubtful
        return LayerTime(
            layer=name,
            together=[each for each in self._members(row) if each != name],
            precision=self._layers[name].precision,
            float_ms=before,
            int8_ms=after,
            ratio=before / after if after > 0 else None,
            share=after / total_ms if total_ms > 0 else 0.0,
            noise_ms=noise,
            changed="same" if is_same else "faster" if after < before else "slower",
        )

    def _members(self, row: str) -> list[str]:
        return [name for name in self._layers if self._root(name) == row]

    def _owned(self, operator: Operator) -> list[str]:
        return list(dict.fromkeys(self._owners[each] for each in operator.layers if each in self._owners))

    def _root(self, name: str) -> str:
        while self._first[name] != name:
            name = self._first[name]
        return name


class _Places:
    """Between which layers a boundary lies."""

    def __init__(self, rows: _Rows, operators: Sequence[Operator]) -> None:
        self._rows = rows
        self._operators = {each.name: each for each in operators}
        self._readers: dict[str, list[str]] = {}
        for each in operators:
            for source in each.reads:
                self._readers.setdefault(source, []).append(each.name)

    def of(self, operator: Operator) -> tuple[_Kind, str, str] | None:
        """What it is, and the layers before and behind it."""
        kind = _crossing(operator)
        if kind is None:
            return None
        start = "weights" if kind == "dequantize" and not operator.reads else "input"
        before = self._nearest(operator, lambda each: each.reads)
        after = self._nearest(operator, lambda each: self._readers.get(each.name, ()))
        return kind, ", ".join(before) or start, ", ".join(after) or "output"

    def _nearest(self, operator: Operator, onwards: Callable[[Operator], Iterable[str]]) -> list[str]:
        found: dict[str, None] = {}
        waiting, seen = list(onwards(operator)), {operator.name}
        while waiting:
            name = waiting.pop(0)
            if name in seen or name not in self._operators:
                continue
            seen.add(name)
            row = self._rows.of(self._operators[name])
            if row is None:
                waiting.extend(onwards(self._operators[name]))
            else:
                found[self._rows.shown(row)] = None
        return list(found)


def _crossing(operator: Operator) -> _Kind | None:
    if operator.kind in _CROSSINGS:
        return _CROSSINGS[operator.kind]
    return None if operator.layers else _PUT_BETWEEN.get(operator.kind)


def _op(operator: Operator) -> str:
    return operator.kind.removeprefix("aten::")


def _total(openings: Openings, counted: Callable[[Operator], object] = lambda _: True) -> float:
    return median(sum(each.ms for each in operators if counted(each)) for operators in openings)


def _sums(openings: Openings, key: Callable[[Operator], object], wanted: object) -> list[float]:
    return [sum(each.ms for each in operators if key(each) == wanted) for operators in openings]
