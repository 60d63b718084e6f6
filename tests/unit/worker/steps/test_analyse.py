"""The analysis of a small network: its budgets, its order, and that it is true of the int8 model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from tests.unit.worker.findings.conftest import MakeCase, make_case

__all__ = ["make_case"]  # the fixture


class Net(nn.Module):
    """One layer is far worse than the others: its output lies at 100 and hardly varies."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.good, self.bad, self.norm, self.head = (
            nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.LayerNorm(8), nn.Linear(8, 4),
        )  # fmt: skip
        with torch.no_grad():
            self.bad.bias.copy_(torch.linspace(50, 100, 8))  # type: ignore[union-attr]  # it has one

    def forward(self, x: Tensor) -> Tensor:
        x = self.bad(F.relu(self.good(x))).mean((2, 3))
        return self.head(self.norm(x - torch.linspace(50, 100, 8)))


INPUTS = (torch.randn(96, 3, 8, 8, generator=torch.Generator().manual_seed(1)),)


def test_the_worst_layer_leads_the_ranking_and_its_gain_is_what_the_override_brings(make_case: MakeCase) -> None:
    case = make_case(Net(), INPUTS, INPUTS)
    sensitivity = case.analysis.sensitivity
    assert sensitivity is not None
    worst = sensitivity.layers[0]
    assert (worst.layer, sensitivity.not_reached) == ("bad", [])
    assert sensitivity.base_sqnr_db == pytest.approx(case.base_db, abs=0.5)  # kernels and simulation differ by rounding
    after = make_case(Net(), INPUTS, INPUTS, overrides=[{"layer": "bad"}])
    assert after.base_db - case.base_db == pytest.approx(worst.gain_db, abs=1.0)
    assert worst.gain_db > 6


def test_errors_say_where_it_is_made_and_where_it_only_arrives(make_case: MakeCase) -> None:
    case = make_case(Net(), INPUTS, INPUTS)
    errors = {layer.name: layer.error for layer in case.analysis.layers if layer.error is not None}
    good = errors["good"]
    assert good.own_sqnr_db is not None
    assert good.own_sqnr_db == pytest.approx(good.sqnr_db, abs=0.5), "its input is only quantized, which is its own"
    assert case.analysis.samples == 96


def test_no_time_is_no_sensitivity_and_a_little_reaches_some(make_case: MakeCase) -> None:
    none = make_case(Net(), INPUTS, INPUTS, analysis={"sensitivity_seconds": 0})
    assert none.analysis.sensitivity is None
    little = make_case(Net(), INPUTS, INPUTS, analysis={"sensitivity_seconds": 1e-9}).analysis.sensitivity
    assert little is not None
    assert not little.layers
    assert "bad" in little.not_reached


@pytest.mark.parametrize(("wanted", "layers"), [(0, 0), (1, 1), ("all", 3)])
def test_histograms_are_made_of_as_many_layers_as_asked(make_case: MakeCase, wanted: Any, layers: int) -> None:
    analysis = make_case(Net(), INPUTS, INPUTS, analysis={"histograms": wanted}).analysis
    by_role = {
        role: [histogram.layer for histogram in analysis.histograms if histogram.role == role]
        for role in ("output", "weight")
    }
    ranked = ["bad", "good", "head"][:layers]  # by what they cost the output
    assert by_role == {"output": ranked, "weight": ranked}
    for histogram in analysis.histograms:
        assert len(histogram.counts) <= 96
        assert histogram.low < histogram.high
        assert histogram.range_min < histogram.range_max


def test_layers_that_are_not_to_be_compared_are_described_all_the_same(make_case: MakeCase) -> None:
    analysis = make_case(Net(), INPUTS, INPUTS, analysis={"layers": False, "sensitivity_seconds": 0}).analysis
    assert analysis.samples == 0
    assert all(layer.error is None for layer in analysis.layers)
    assert any(layer.qparams for layer in analysis.layers)


def test_dynamic_quantization_is_compared_by_its_own_modules(make_case: MakeCase) -> None:
    rows = (torch.randn(64, 16, generator=torch.Generator().manual_seed(1)),)
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    case = make_case(module, rows, rows, method="dynamic")
    assert {name for name, layer in case.layers.items() if layer.error is not None} == {"0", "2"}
    sensitivity = case.analysis.sensitivity
    assert sensitivity is not None
    assert {entry.layer for entry in sensitivity.layers} == {"0", "2"}
    last = case.layers["2"].error
    assert last is not None
    # Its output is the model's; the ranges found at run time are those of other batches.
    assert last.sqnr_db == pytest.approx(case.base_db, abs=1.5)
