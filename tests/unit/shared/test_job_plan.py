"""The answer to a question for a plan, when whoever wrote it floods the API with it."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
from pydantic import ValidationError

from api.examples.plan import PLAN
from shared.job_plan import MAX_LAYERS, JobPlan


def test_a_plan_of_as_many_layers_as_it_may_have_is_one() -> None:
    plan = PLAN | {"layers": PLAN["layers"][:1] * MAX_LAYERS}
    assert len(JobPlan.model_validate(plan).layers) == MAX_LAYERS


@pytest.mark.parametrize(
    "flood",
    [
        lambda plan: plan.update(layers=plan["layers"][:1] * (MAX_LAYERS + 1)),
        lambda plan: plan["layers"][0].update(layer="x" * 10_000),
        lambda plan: plan["layers"][0].update(op="x" * 10_000),
        lambda plan: plan["layers"][0].update(reason="x" * 100_000),
        lambda plan: plan["layers"][0].update(int8_in=["torch"] * 4),
        lambda plan: plan.update(runtimes=plan["runtimes"] * 2),
        lambda plan: plan["runtimes"][0].update(note="x" * 100_000),
        lambda plan: plan.update(notes=[""] * 101),
        lambda plan: plan.update(notes=["x" * 100_000]),
        lambda plan: plan.update(conclusion="x" * 100_000),
        lambda plan: plan.update(qengine="x" * 10_000),
        lambda plan: plan["instructions"].update(found=[""] * 101),
        lambda plan: plan["instructions"].update(found=["x" * 10_000]),
        lambda plan: plan["instructions"].update(note="x" * 100_000),
        lambda plan: plan["duration"].update(steps={str(number): 1.0 for number in range(101)}),
        lambda plan: plan["duration"].update(steps={"x" * 10_000: 1.0}),
        lambda plan: plan["duration"].update(basis="x" * 100_000),
        lambda plan: plan["worker"].update(hostname="x" * 10_000),
    ],
)  # fmt: skip
def test_a_plan_that_floods_is_none(flood: Callable[[dict[str, Any]], None]) -> None:
    plan = deepcopy(PLAN)
    JobPlan.model_validate(plan)
    flood(plan)
    with pytest.raises(ValidationError):
        JobPlan.model_validate(plan)
