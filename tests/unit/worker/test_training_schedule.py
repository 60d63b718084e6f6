"""The learning rate step by step, and what is frozen from when on."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from shared.quantization_spec import QatSettings
from worker.training_schedule import schedule


def rates(batch_size: int = 10, **settings: Any) -> list[float]:
    plan = schedule(QatSettings(epochs=5, **settings), samples=200, batch_size=batch_size)
    return [plan.rate(step) for step in range(plan.steps)]


@pytest.mark.parametrize("form", ["cosine", "linear"])
def test_it_falls_from_one_to_almost_nothing(form: str) -> None:
    found = rates(schedule=form, freeze_batch_norm_after=1)
    assert found[0] == 1
    assert all(after < before for before, after in pairwise(found))
    assert found[-1] < 0.011
    assert found[50] == pytest.approx(0.5)


def test_a_constant_rate_stays() -> None:
    assert set(rates(schedule="constant", freeze_batch_norm_after=1)) == {1.0}


def test_from_the_freeze_of_batch_norm_on_no_rate_is_above_a_fifth() -> None:
    found = rates(schedule="constant", freeze_batch_norm_after=0.5)
    assert found == [1.0] * 50 + [0.2] * 50


def test_frozen_from_the_start_the_rate_is_the_one_asked_for() -> None:
    assert rates(schedule="constant", freeze_batch_norm_after=0)[0] == 1
    assert set(rates(batch_size=1, schedule="constant")) == {1.0}


def test_a_last_batch_that_is_not_full_is_left_out_and_one_sample_freezes_batch_norm_at_once() -> None:
    plan = schedule(QatSettings(epochs=2), samples=25, batch_size=10)
    assert (plan.steps_per_epoch, plan.steps) == (2, 4)
    assert (plan.observers_freeze_at, plan.batch_norm_freezes_at) == (2, 3)
    assert schedule(QatSettings(epochs=2), samples=25, batch_size=1).batch_norm_freezes_at == 0
