"""Where the model first goes wrong: by hand, and told alike by the report and by the warning of that layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from shared.layer_report import LayerError, LayerSummary
from tests.unit.worker.findings.conftest import MakeCase
from worker.findings import find
from worker.findings.first_wrong import first_wrong


def layer(name: str, arriving: float | None, total: float | None) -> LayerSummary:
    error = LayerError(own_sqnr_db=30, arriving_sqnr_db=arriving, sqnr_db=total, cosine=1, mse=0)
    return LayerSummary(name=name, op="Conv2d", precision="int8", weight_bytes=1, error=error)


@pytest.mark.parametrize(
    ("errors", "wrong"),
    [
        ([(None, 40.0), (40.0, 19.9), (19.9, 10.0)], "1"),
        ([(None, 40.0), (40.0, 20.0)], None),
        ([(None, 12.0)], "0"),
        # A branch that is wrong from the start, and a layer before it that mends what arrives.
        ([(19.0, 18.0), (None, 15.0)], "1"),
        ([(None, None), (None, None)], None),
        ([], None),
    ],
)
def test_the_model_first_goes_wrong_where_what_arrives_still_is_right(errors: list[Any], wrong: str | None) -> None:
    found = first_wrong([layer(str(index), *each) for index, each in enumerate(errors)])
    assert (found and found.layer) == wrong


@pytest.mark.parametrize(("arriving", "told"), [(25.0, "25.0 dB"), (None, "no error")])
def test_it_is_told_in_one_sentence(arriving: float | None, told: str) -> None:
    found = first_wrong([layer("a.b", arriving, 13.56)])
    assert found is not None
    assert found.told == (
        "The int8 model first goes wrong at a.b: 13.6 dB at its output, "
        f"where {told} arrives and 30.0 dB is made in it."
    )


def test_the_warning_says_that_of_the_layer_that_the_report_names_and_of_no_other(make_case: MakeCase) -> None:
    """In every row of the third layer a weight for an input that is always zero takes all steps from the others."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    with torch.no_grad():
        module[0].bias[0] = -50
        module[2].weight[:, 0] = 40
    x, y = (torch.randn(128, 16, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    case = make_case(module, (x,), (y,))
    assert case.first_wrong is not None
    assert case.first_wrong.layer == "2"
    messages = {warning.layer: warning.message for warning in find(case)}
    assert "here the int8 model first goes wrong" in messages.pop("2")
    assert not any("first goes wrong" in message for message in messages.values())
