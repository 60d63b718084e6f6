"""The target that a drop is held against, for models of which the error is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from shared.job_report import MetricResult
from worker.datasets import InMemorySamples
from worker.inference import batch_range
from worker.quantization import input_specs, output_names, raise_program
from worker.steps.evaluate import Yardstick, evaluate
from worker.steps.load import LoadedModel

SAMPLES = 200


def regression(
    unit: float,
    noise: float,
    max_drop: float | Literal["auto"] | None,
    labels: Callable[[Tensor], Tensor] = lambda y: y,
) -> MetricResult:
    """Of a model whose labels are its own outputs, in this unit; int8 errs by `noise` times their deviation."""
    torch.manual_seed(0)
    module, inputs = nn.Linear(4, 1).eval(), torch.randn(SAMPLES, 4)
    with torch.no_grad():
        module.weight.mul_(unit)
        module.bias.mul_(unit)
        wanted = module(inputs)
    program = torch.export.export(module, (inputs[:2],), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    specs = tuple(input_specs(program))
    model = LoadedModel(raise_program(program), specs, tuple(output_names(program)), batch_range(specs), 32)
    error = noise * float(wanted.std())
    yardstick = Yardstick(InMemorySamples((inputs,), labels(wanted)), "evaluation", "mse", max_drop)
    (quality,) = evaluate(model, [lambda x: module(x) + error], yardstick, lambda *_: None)
    assert quality.metric is not None
    return quality.metric


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize(("noise", "met"), [(0.05, True), (0.2, False)])
def test_whether_a_regression_is_met_by_default_does_not_hang_on_the_unit_of_its_labels(
    unit: float, noise: float, *, met: bool
) -> None:
    found = regression(unit, noise, "auto")
    assert (found.met, found.by_default) == (met, True)
    assert found.max_drop is not None
    assert found.drop / found.max_drop == pytest.approx(100 * noise**2, rel=0.02)


def test_a_number_is_absolute_and_none_is_none() -> None:
    asked = regression(1e6, 0.05, 0.01)
    assert (asked.max_drop, asked.met, asked.by_default) == (0.01, False, False)
    assert regression(1.0, 0.05, None).met is None


def test_labels_that_are_all_the_same_set_no_target() -> None:
    constant = regression(1.0, 0.05, "auto", torch.ones_like)
    assert (constant.max_drop, constant.met, constant.by_default) == (None, None, False)
