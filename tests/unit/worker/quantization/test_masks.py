"""Masks: tensors of truth values, and the infinities that they leave behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.unit.worker.quantization.test_planning import raised, spec, sqnr_db
from tests.unit.worker.quantization.test_preparing import calibrated
from worker.quantization import LayerTrace, convert, plan, prepare, simulate, without_masks
from worker.quantization.masks import _mask_in


class Masked(nn.Module):
    """An image of which a mask, computed from it, leaves some."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3)
        self.second = nn.Conv2d(8, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.first(x)
        return self.second(torch.where(seen > 0, seen, torch.zeros_like(seen)))


@torch.no_grad()
def test_a_mask_that_arrives_at_a_layer_has_no_error() -> None:
    x = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    _, prepared, settled = calibrated(Masked(), x)
    shown: dict[str, LayerTrace] = {}
    simulate(prepared, settled).trace(x, visit=lambda trace: shown.update({trace.layer: trace}))
    assert "where" in shown
    assert [reference.shape for reference, _ in shown["where"].arriving] == [(8, 8, 6, 6)] * 2
    assert all(reference.is_floating_point() for trace in shown.values() for reference, _ in trace.arriving)


class Pooling(nn.Module):
    """Rows averaged by weights of their own, of which a mask takes some out."""

    def __init__(self, lowest: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.scores, self.values, self.last = nn.Linear(16, 1), nn.Linear(16, 32), nn.Linear(32, 4)
        self.lowest = lowest

    def forward(self, x: Tensor, left_out: Tensor) -> Tensor:
        scores = torch.cat([self.scores(x), self.scores(-x)], 2) + left_out[:, :, None] * self.lowest
        found: Tensor = self.last((scores.softmax(1)[:, :, :1] * self.values(x)).sum(1))
        return found


def rows(count: int = 64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 8, 16, generator=generator), (torch.rand(count, 8, generator=generator) < 0.4).float()


def masked_and_measured(lowest: float, **settings: Any) -> tuple[Any, float]:
    """The plan without masks, and how near int8 comes by it."""
    x, left_out = rows()
    model = raised(Pooling(lowest), x[:2], left_out[:2])
    settled = without_masks(model, plan(model, spec("static", **settings)), [(x, left_out)]).with_observer("minmax")
    prepared = prepare(model, settled, (x[:2], left_out[:2]))
    prepared(x, left_out)
    return settled, sqnr_db(model(x, left_out)[0], convert(prepared, settled)(x, left_out)[0])


@pytest.mark.parametrize("lowest", [-1e4, -1e9, torch.finfo(torch.float32).min])
@torch.no_grad()
def test_what_holds_a_mask_is_float_and_what_does_not_is_int8(lowest: float) -> None:
    settled, found_db = masked_and_measured(lowest)
    told = {layer for layer, reason in settled.float_layers.items() if "holds a mask" in reason}
    assert told >= {"add", "softmax"}
    assert {"scores", "values"} <= settled.int8_layers
    assert f"{lowest:.3g}" in settled.float_layers["add"]
    assert found_db > 30


@torch.no_grad()
def test_infinity_is_a_mask_wherever_it_passes() -> None:
    class Highest(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.last = nn.Conv2d(3, 8, 3), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            seen = self.first(x)
            both = torch.cat([seen.masked_fill(seen < 0, float("-inf")), seen], 1)
            found: Tensor = self.last(torch.max_pool2d(both, 6).flatten(1).clamp(min=-1))
            return found

    x = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    model = raised(Highest(), x[:2])
    settled = without_masks(model, plan(model, spec("static")), [(x,)])
    assert {"cat", "max_pool2d"} <= {layer for layer, reason in settled.float_layers.items() if "−∞" in reason}
    assert settled.int8_layers >= {"first", "last"}


@torch.no_grad()
def test_a_mask_stays_in_float_though_an_override_asks_for_int8_and_the_plan_says_so() -> None:
    settled, found_db = masked_and_measured(-1e9, overrides=[{"op": "add", "precision": "int8"}])
    assert settled.float_reasons["add"].kind == "mask"
    assert settled.notes[-1].startswith("in float although an override asks for int8: add (it holds a mask")
    assert found_db > 30


@pytest.mark.parametrize(
    "values",
    [
        torch.tensor([-2000.0, -1500.0, -3.0, 5.0]),  # an outlier channel: its values differ
        torch.tensor([-5000.0, -40.0, 3.0]),  # beside it there are steps left
        torch.tensor([-900.0, -900.0, 0.1]),
        torch.tensor([float("nan"), 1.0]),
        torch.empty(0),
    ],
)
def test_what_is_no_mask_is_taken_for_none(values: Tensor) -> None:
    assert _mask_in(values) is None


def test_layers_behind_a_mask_of_integers_are_tried_on_one_that_leaves_something() -> None:
    """Where a mask of zeros leaves nothing, a softmax gives NaN, and every kernel behind it fails or seems right."""

    class Attentive(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.scores, self.values, self.last = nn.Linear(16, 1), nn.Linear(16, 32), nn.Linear(32, 4)

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            scores = self.scores(x).masked_fill(mask[:, :, None] == 0, float("-inf"))
            found: Tensor = self.last((scores.softmax(1) * self.values(x)).sum(1))
            return found

    x, left_out = rows(2)
    settled = plan(raised(Attentive(), x, (1 - left_out).long()), spec("dynamic"))
    assert settled.int8_layers == {"scores", "values", "last"}, settled.float_layers
