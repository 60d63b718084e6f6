"""What all runtimes offer alike: a file that is open for inference on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

PRECISION = "INFERENCE_PRECISION_HINT"
"""OpenVINO's option for what is not int8: `f32`, or where the CPU has it `bf16`."""


@dataclass(frozen=True)
class SessionSettings:
    """How a file is opened."""

    threads: int = 1
    options: dict[str, str] = field(default_factory=dict)
    """The runtime's own, such as `PRECISION`."""


@dataclass(frozen=True)
class Kernels:
    """Which kernels the operators with weights run on: what the runtime made of a file, not what the file asks for."""

    int8: tuple[str, ...]
    """Operators whose products are of integers of 8 bits."""
    floating: tuple[str, ...]

    @property
    def share(self) -> float:
        """The share of them in int8; 0 where there are none."""
        total = len(self.int8) + len(self.floating)
        return len(self.int8) / total if total else 0.0


class Session(Protocol):
    """A file that a runtime has loaded."""

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The outputs, in the model's order. Raises ModelFailed when the runtime raises."""

    def bound(self, inputs: Sequence[Tensor]) -> Callable[[], Any]:
        """A call on these inputs and nothing else, to be timed: conversions are done here."""

    def kernels(self) -> Kernels:
        """What the operators with weights run on."""


def called(session: Session) -> Callable[..., list[Tensor]]:
    """The session as a model that takes its inputs one by one."""
    return lambda *inputs: session.run(inputs)


def last_line(error: Exception) -> str:
    """Where torch and OpenVINO say what an error is about, after their own places."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1][:300]
