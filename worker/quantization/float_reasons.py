"""Why a layer stays in float: a kind, to judge by, and the words that the report has for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FloatKind = Literal[
    "asked",  # an override keeps it in float
    "policy",  # it has a kernel, and by default it is better off without
    "no_kernel",  # torch has no int8 form of it with this method
    "failed",  # its int8 form was tried: it fails, or computes something else
    "mask",  # no range holds what it reads or gives
    "island",  # without weights, between float layers
    "spared",  # int8 was measured, and cost the output too much
    "not_converted",  # planned for int8, and FX left it in float
]
_BARRING: tuple[FloatKind, ...] = ("no_kernel", "failed", "mask", "not_converted")


@dataclass(frozen=True)
class FloatReason:
    """Such as `FloatReason("asked", "overridden: layer head")`."""

    kind: FloatKind
    text: str

    @property
    def bars_int8(self) -> bool:
        """Whether an override that asks for int8 is refused, or comes to nothing."""
        return self.kind in _BARRING
