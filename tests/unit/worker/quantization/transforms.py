"""What tests of transforms share: that the float function stays, and what static quantization makes of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from tests.unit.worker.quantization.test_planning import spec
from worker.numerics import sqnr_db
from worker.quantization import convert, plan, prepare

#: Relative to the largest output: float32 rounding of some thousand terms, whose scales are not powers of two.
TOLERANCE = 1e-5


def assert_same(found: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> None:
    """The outputs are equal but for rounding."""
    for one, other in zip(found, wanted, strict=True):
        assert (one - other).abs().max() <= TOLERANCE * other.abs().max()


def static_sqnr_db(network: fx.GraphModule, x: Tensor, **settings: Any) -> float:
    """Of plain int8 with ranges that hold all that was seen; `settings` are further ones of the spec."""
    settled = plan(network, spec("static", activation={"observer": "minmax"}, **settings))
    prepared = prepare(network, settled, (x,))
    with torch.no_grad():
        prepared(x)
        found = sqnr_db(network(x)[0], convert(prepared, settled)(x)[0])
    assert found is not None
    return found
