"""How near to the float model candidates are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.unit.worker.conftest import Digits
from worker.closeness import SQNR_LIMIT_DB
from worker.datasets import InMemorySamples
from worker.steps.float_reference import FloatReference
from worker.steps.load import LoadedModel


@pytest.fixture
def reference(model: LoadedModel, digits: Digits) -> FloatReference:
    return FloatReference(model, InMemorySamples((torch.from_numpy(digits.training_x[:40]),), None))


def test_the_float_model_is_as_near_as_can_be_said(reference: FloatReference, model: LoadedModel) -> None:
    found = reference.measure(model.raised)
    assert (found.sqnr_db, found.agreement) == (SQNR_LIMIT_DB, 1.0)
    assert found.reported_db is None


def test_closeness_is_measured_over_all_samples(reference: FloatReference, model: LoadedModel) -> None:
    """Off by a tenth everywhere: 20 dB; classes swapped in the last batch of 8: a fifth disagrees."""

    def tenth_off(x: Tensor) -> tuple[Tensor, ...]:
        return tuple(1.1 * output for output in model.raised(x))

    def last_batch_swapped(x: Tensor) -> tuple[Tensor, ...]:
        return tuple(output.flip(1) if len(x) == 8 else output for output in model.raised(x))

    off = reference.measure(tenth_off)
    assert off.sqnr_db == pytest.approx(20, abs=1e-3)
    assert off.agreement == 1
    assert reference.measure(last_batch_swapped).agreement == pytest.approx(32 / 40, abs=0.01)
