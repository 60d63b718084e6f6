"""Transforms of the float model are tried, kept where they help or are asked for, and reported."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.unit.worker.quantization.test_planning import spec
from tests.unit.worker.steps.test_refine import loaded
from worker.datasets import InMemorySamples
from worker.quantization.planning import choose_plan
from worker.steps.held_back import divide
from worker.steps.load import LoadedModel
from worker.steps.recover import Recovery, recover


class Unequal(nn.Module):
    """Channels between two convolutions whose ranges differ by this factor, to no effect in float."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(4, 16, 3), nn.Conv2d(16, 8, 3)
        spread = factor ** torch.linspace(0, 1, 16)
        with torch.no_grad():
            self.first.weight *= spread[:, None, None, None]
            assert self.first.bias is not None
            self.first.bias *= spread
            self.last.weight /= spread[None, :, None, None]

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x)))


class Outlying(nn.Module):
    """A few channels behind a layer norm are a hundred times as large as the others."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.first, self.last = nn.LayerNorm(32), nn.Linear(32, 64), nn.Linear(64, 64)
        with torch.no_grad():
            self.norm.weight[:2] = 100
            self.first.weight[:, :2] /= 100

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(self.norm(x))))


IMAGES = torch.randn(64, 4, 8, 8, generator=torch.Generator().manual_seed(1))
ROWS = torch.randn(64, 32, generator=torch.Generator().manual_seed(1))


def recovered(module: nn.Module, x: Tensor, **recovery: Any) -> tuple[LoadedModel, Recovery]:
    settings = {"cross_layer_equalization": False, "smooth_quant": False} | recovery
    model, asked = loaded(module, x), spec("static", qengine="onednn", recovery=settings)
    observed, held_back = divide(InMemorySamples((x,), None), model.batch_size)
    settled = choose_plan(model.raised, asked)
    return model, recover(model, settled, asked, observed=observed, held_back=held_back, example=(x[:2],))


#: Name in the report, a module that gains by it, one that it changes to no gain, and inputs.
CASES = [
    pytest.param("cross_layer_equalization", Unequal(1000), Unequal(1), IMAGES, id="equalization"),
    pytest.param("smooth_quant", Outlying(), None, ROWS, id="smoothing"),
]


@pytest.mark.parametrize(("name", "gaining", "_idle", "x"), CASES)
@pytest.mark.parametrize("toggle", [True, "auto"])
@torch.no_grad()
def test_what_helps_is_kept_and_leaves_the_float_model_as_it_was(
    name: str, gaining: nn.Module, _idle: nn.Module | None, x: Tensor, toggle: bool | str
) -> None:
    model, found = recovered(gaining, x, **{name: toggle})
    (result,) = found.results
    assert (result.name, result.asked, result.applied) == (name, "on" if toggle is True else "auto", True)
    assert result.layers >= 1
    assert result.without_sqnr_db is not None
    assert result.with_sqnr_db is not None
    assert result.with_sqnr_db > result.without_sqnr_db + 3
    assert found.module is not model.raised
    wanted = model.raised(x)[0]
    assert torch.allclose(found.module(x)[0], wanted, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize(("name", "gaining", "_idle", "x"), CASES)
def test_what_is_turned_off_is_neither_tried_nor_reported(
    name: str, gaining: nn.Module, _idle: nn.Module | None, x: Tensor
) -> None:
    model, found = recovered(gaining, x, **{name: False})
    assert found.results == []
    assert found.module is model.raised


@pytest.mark.parametrize(("toggle", "applied"), [(True, True), ("auto", False)])
def test_what_gains_nothing_is_kept_only_where_it_is_asked_for(toggle: bool | str, applied: bool) -> None:
    """Channels that are equal already: less than half a dB either way is the noise of few samples."""
    model, found = recovered(Unequal(1), IMAGES, cross_layer_equalization=toggle)
    (result,) = found.results
    assert result.applied == applied
    assert result.without_sqnr_db is not None
    assert result.with_sqnr_db == pytest.approx(result.without_sqnr_db, abs=0.5)
    assert (found.module is model.raised) == (not applied)


@pytest.mark.parametrize("toggle", [True, "auto"])
def test_what_a_model_has_no_place_for_is_said(toggle: bool | str) -> None:
    model, found = recovered(Unequal(1000), IMAGES, smooth_quant=toggle)
    (result,) = found.results
    assert (result.applied, result.layers, result.note) == (False, 0, "no layer of this model allows it")
    assert found.module is model.raised


def test_the_second_is_tried_on_top_of_the_first() -> None:
    _, found = recovered(Unequal(1000), IMAGES, cross_layer_equalization="auto", smooth_quant="auto")
    assert [result.name for result in found.results] == ["cross_layer_equalization", "smooth_quant"]
