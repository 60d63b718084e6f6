"""What all runtimes tell alike: the operators that they made of a file, how long each takes, and what each is of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from shared.layer_report import GraphNode


class CannotTime(Exception):
    """The operators of this file cannot be timed; the message says why."""


@dataclass(frozen=True)
class Operator:
    """One operator of the graph that a runtime runs."""

    name: str
    kind: str
    """What the runtime calls it, such as `QLinearConv`."""
    ms: float
    layers: tuple[str, ...]
    """Of the user's graph, all that it computes; none for what only quantizes, dequantizes or reorders."""
    reads: tuple[str, ...]
    """The operators that give what it reads."""


@dataclass(frozen=True)
class TimedFile:
    """A file of the model, and what is known of the graph that it was made from."""

    path: Path
    graph: Sequence[GraphNode]
    """The FX graph before or after quantization."""
    original: Path | None = None
    """The float model as ONNX, where this file was made from it and lost names on the way."""
    options: Mapping[str, str] = field(default_factory=dict)
    """What the runtime opens it with."""


class OperatorTimer(Protocol):
    """A file that is open and tells how long each operator takes."""

    def run(self) -> None:
        """Run it once; the first runs are to warm up, and are not counted."""

    def operators(self) -> list[Operator]:
        """Those that ran, in order; asked once, at the end."""


WARM_UP_RUNS = 4
"""TorchScript optimises in its first two; runtimes choose kernels for a shape when they first meet it."""


def typical(durations: Sequence[float]) -> float:
    """The mean of the middle half: robust as a median is, and finer than whole microseconds."""
    found = np.sort(np.asarray(durations, dtype=float))
    skipped = len(found) // 4
    return float(found[skipped : len(found) - skipped].mean())
