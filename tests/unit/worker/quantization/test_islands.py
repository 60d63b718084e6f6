"""Operators without weights are int8 only beside layers that gain from it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from shared.quantization_spec import spec_adapter
from tests.unit.worker.quantization.test_planning import raised
from worker.quantization import plan
from worker.quantization.float_reasons import FloatReason
from worker.quantization.islands import without_islands
from worker.quantization.planning import choose_plan

SPEC = {"method": "static", "model": "mdl_0123456789abcdef", "calibration": "dst_0123456789abcdef"}
FLOAT_HEAD = {"layer": "head", "precision": "float32"}


class Averaging(nn.Module):
    """The average stays in float: what follows it is int8 for the head's sake only."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.average = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.hardswish(self.conv(x))
        return self.head(nn.functional.elu(torch.flatten(self.average(x), 1)))


class Table(nn.Module):
    """An int8 table gives floats: the activation behind it has no int8 neighbour when the first Linear is float."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 8)
        self.head = nn.Linear(8, 8)
        self.last = nn.Linear(8, 8)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.last(self.head(nn.functional.elu(self.table(tokens))))


@pytest.fixture(scope="module")
def averaging() -> fx.GraphModule:
    return raised(Averaging(), torch.randn(2, 3, 8, 8))


def spec(*overrides: dict[str, str]) -> Any:
    return spec_adapter.validate_python(SPEC | {"overrides": list(overrides)})


def test_operators_before_an_int8_head_are_int8_with_it(averaging: fx.GraphModule) -> None:
    assert plan(averaging, spec()).int8_layers == {"conv", "hardswish", "flatten", "elu", "head"}


def test_operators_between_a_float_average_and_a_float_head_are_float(averaging: fx.GraphModule) -> None:
    """Those beside the convolution stay in int8."""
    settled = plan(averaging, spec(FLOAT_HEAD))
    assert settled.int8_layers == {"conv", "hardswish"}
    assert "between float layers" in settled.float_layers["flatten"]
    assert "between float layers" in settled.float_layers["elu"]
    assert "without weights" not in settled.float_layers["elu"], "a group norm has some"


def test_an_operator_that_was_asked_for_is_no_island_nor_is_its_neighbour(averaging: fx.GraphModule) -> None:
    settled = plan(averaging, spec(FLOAT_HEAD, {"op": "elu", "precision": "int8"}))
    assert settled.int8_layers == {"conv", "hardswish", "flatten", "elu"}


def test_a_head_that_leaves_int8_later_takes_its_operators_with_it(averaging: fx.GraphModule) -> None:
    chosen = choose_plan(averaging, spec())
    assert without_islands(averaging, chosen) == chosen
    assert without_islands(averaging, chosen.without("head", FloatReason("spared", "tried"))).int8_layers == {
        "conv",
        "hardswish",
    }


def test_a_table_stays_in_int8_and_is_no_neighbour() -> None:
    settled = plan(raised(Table(), torch.randint(10, (3, 4))), spec(FLOAT_HEAD))
    assert settled.int8_layers == {"table", "last"}
