"""Findings where there is little to compare: one layer in int8, or one whose error reaches no other."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.unit.worker.findings.conftest import MakeCase
from worker.findings import find
from worker.findings.layers import sensitive_layers


def rows(seed: int) -> Tensor:
    return torch.randn(64, 10, 16, generator=torch.Generator().manual_seed(seed))


def test_the_only_int8_layer_is_told_to_make_all_of_the_error_and_no_decibels_are_made_up(make_case: MakeCase) -> None:
    torch.manual_seed(0)
    case = make_case(nn.Linear(16, 4), (rows(1),), (rows(2),), weight={"quant_min": -1, "quant_max": 1})
    (found,) = sensitive_layers(case)
    assert found.warning.message == "linear makes all of the error: with it in float the output is the float model's."
    assert "with all but this layer ∞ dB" in found.warning.evidence


class Products(nn.Module):
    """Two Linears that meet in a product, which is an operator of its own; one of them has an outlier channel."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.head = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(100, 4)
        with torch.no_grad():
            self.first.weight[3] *= 100

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(torch.einsum("btc,bsc->bts", self.first(x), self.second(x)).flatten(1))
        return found


def test_a_layer_that_no_other_int8_layer_reads_is_weighed_by_nothing(make_case: MakeCase) -> None:
    assert isinstance(find(make_case(Products(), (rows(1),), (rows(2),), overrides=[{"layer": "head"}])), list)
