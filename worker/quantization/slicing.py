"""Slices, chunks and splits as `torch.narrow`, which works on int8 tensors where the operators themselves do not."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx

from worker.quantization.calls import Call

_END = 2**62  # export writes «to the end» as the greatest integer


@dataclass(frozen=True)
class Piece:
    """`length` entries of an axis, from `start`; the whole axis has `size`."""

    axis: int
    start: int
    length: int
    size: int

    @property
    def is_whole(self) -> bool:
        """Whether nothing is cut off."""
        return self.length == self.size


def pieces(call: Call) -> list[Piece] | None:
    """What a slice, chunk or split takes of an axis whose size is fixed; None when it is no such call."""
    if call.name not in ("slice", "chunk", "split", "split_with_sizes"):
        return None
    value: Tensor = call["self"].meta["val"]
    axis = call["dim"] % value.dim()
    size = value.shape[axis]
    arguments = [call[name] for name in ("start", "end", "step", "chunks", "split_size", "split_sizes")]
    if not isinstance(size, int) or any(_varies(argument) for argument in arguments):
        return None
    if call.name == "slice":
        start, stop, step = slice(call["start"], call["end"], call["step"]).indices(size)
        return [Piece(axis, start, max(0, stop - start), size)] if step == 1 else None
    lengths = _lengths(call, size)
    starts = [sum(lengths[:index]) for index in range(len(lengths))]
    return [Piece(axis, start, length, size) for start, length in zip(starts, lengths, strict=True)]


def is_whole_slice(call: Call) -> bool:
    """Whether a slice takes all of an axis, whatever its size: `x[:]` and the like."""
    if call.name != "slice" or _varies(call["start"]) or _varies(call["end"]):
        return False
    return call["start"] in (None, 0) and (call["end"] is None or call["end"] >= _END) and call["step"] == 1


def varying_slice(call: Call) -> tuple[slice, ...] | None:
    """The index of a slice whose bounds are computed: tracing would take those of the operator for constants."""
    if call.name != "slice" or not (_varies(call["start"]) or _varies(call["end"])):
        return None
    value: Tensor = call["self"].meta["val"]
    end = None if isinstance(call["end"], int) and call["end"] >= _END else call["end"]
    return (slice(None),) * (call["dim"] % value.dim()) + (slice(call["start"], end, call["step"]),)


def _varies(argument: object) -> bool:
    items = argument if isinstance(argument, list | tuple) else [argument]
    return any(isinstance(item, fx.Node | torch.SymInt) for item in items)


def _lengths(call: Call, size: int) -> list[int]:
    if call.name == "split_with_sizes":
        return list(call["split_sizes"])
    step = -(-size // call["chunks"]) if call.name == "chunk" else call["split_size"]
    return [min(step, size - start) for start in range(0, size, step)]
