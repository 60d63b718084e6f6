"""A float model that gives NaNs or infinities is told as that, with the layer that makes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.unit.worker.conftest import Digits, MakeFolder, export
from worker import recipes


class Model(nn.Module):
    """Two Linears on the first row of an image, and something between or behind them."""

    def __init__(self, compute: Callable[[nn.Linear, nn.Linear, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.c, self.d = nn.Linear(8, 8), nn.Linear(8, 8)
        self.compute = compute

    def forward(self, x: Tensor) -> Tensor:
        return self.compute(self.c, self.d, x[:, 0, 0])


def root(c: nn.Linear, d: nn.Linear, x: Tensor) -> Tensor:
    seen: Tensor = d(torch.sqrt(c(x)))
    return seen


def logarithm(c: nn.Linear, d: nn.Linear, x: Tensor) -> Tensor:
    return torch.log(c(x))


def masked(c: nn.Linear, d: nn.Linear, x: Tensor) -> Tensor:
    hidden = c(x)
    seen: Tensor = d(hidden).masked_fill(hidden > 0, -torch.inf)
    return seen


def masked_always(c: nn.Linear, d: nn.Linear, x: Tensor) -> Tensor:
    seen: Tensor = d(torch.relu(c(x))).masked_fill(torch.arange(8) > 5, -torch.inf)
    return seen


@pytest.mark.parametrize("method", ["static", "dynamic"])
@pytest.mark.parametrize(
    ("compute", "layer"), [(root, "sqrt"), (logarithm, "log"), (masked, "masked_fill"), (masked_always, None)]
)
def test_what_the_float_model_does_is_not_laid_at_the_kernels_door(
    digits: Digits,
    make_folder: MakeFolder,
    tmp_path: Path,
    *,
    method: str,
    compute: Callable[[nn.Linear, nn.Linear, Tensor], Tensor],
    layer: str | None,
) -> None:
    export(Model(compute), (torch.rand(2, 1, 8, 8),), tmp_path / "model.pt2")
    data = {"evaluation": {"x": digits.evaluation_x[:100]}}
    if method == "static":
        data["calibration"] = {"x": digits.evaluation_x[100:200]}
    report = recipes.run(make_folder(tmp_path / "model.pt2", method, data), lambda _: None)
    told = [warning for warning in report.warnings if warning.code == "float_not_finite"]
    if layer is None:
        assert told == [], "a mask that int8 has in the same places is as it should be"
        return
    assert report.warnings[0] == told[0]
    assert told[0].layer == layer
    assert told[0].evidence
    assert "dead_layer" not in [warning.code for warning in report.warnings]
    assert all(not trial.saturates for trial in report.kernels)
