"""What is wrong with calibration data is counted and named, batch by batch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from worker.calibration_check import DataCheck, compare_with, input_checks
from worker.datasets import InMemorySamples


def checked(*inputs: Tensor, batch: int = 3) -> DataCheck:
    """The check after all of the data."""
    check = DataCheck([f"in{index}" for index in range(len(inputs))], [tensor.dtype for tensor in inputs])
    for part in zip(*(tensor.split(batch) for tensor in inputs), strict=True):
        check.add(part)
    return check


def test_good_data_has_nothing_wrong() -> None:
    x = torch.arange(40, dtype=torch.float32).reshape(10, 4)
    check = checked(x)
    (entry,) = input_checks(check, None)
    assert check.duplicates == 0
    assert entry.model_dump() == {
        "name": "in0", "constant": False, "min": 0, "max": 39, "evaluation_outside": None,
    }  # fmt: skip


def test_a_sample_is_a_duplicate_when_every_input_is_equal() -> None:
    x, y = torch.arange(8.0).reshape(8, 1), torch.zeros(8, 1)
    x[5], x[6], y[6] = x[0], x[1], 1
    check = checked(x, y)
    assert check.duplicates == 1


def test_an_input_is_constant_when_all_samples_are_equal_not_when_one_is_flat() -> None:
    same = torch.arange(4.0).repeat(7, 1)
    flat = torch.arange(7.0)[:, None].repeat(1, 4)
    check = checked(same, flat, torch.ones(7, 2, dtype=torch.bool))
    assert [tally.constant for tally in check.inputs] == [True, False, True]


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool, torch.float64, torch.float16])
def test_every_dtype_has_a_range_and_a_digest(dtype: torch.dtype) -> None:
    check = checked(torch.tensor([[0], [1], [1]]).to(dtype))
    assert (check.inputs[0].min, check.inputs[0].max, check.duplicates) == (0, 1, 1)


def test_evaluation_is_compared_with_the_range_value_by_value() -> None:
    check = checked(torch.linspace(0, 1, 12).reshape(4, 3), torch.zeros(4, 1))
    evaluation = InMemorySamples((torch.tensor([[0.5, 0.5, -0.1], [1.5, 0.2, 1.0]]), torch.tensor([[0.0], [3.0]])))
    first, second = compare_with(check, evaluation, batch_size=1)
    assert first.outside == 2 / 6
    assert (first.min, first.max) == pytest.approx((-0.1, 1.5))
    assert second.outside == 1 / 2
    assert (first.constant, second.constant) == (False, False)
    assert [entry.evaluation_outside for entry in input_checks(check, [first, second])] == [2 / 6, 1 / 2]


def test_memory_is_eight_bytes_a_sample() -> None:
    check = checked(torch.rand(5000, 3), batch=500)
    assert check._digests.itemsize * len(check._digests) == 8 * 5000
