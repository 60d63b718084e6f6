"""Batches that fit the model, and errors that are the model's own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from shared.errors import ModelFailed, ModelUnsupported
from tests.unit.worker.test_datasets import spec
from worker.inference import BatchRange, batch_range, padded_to, run_model, usual_batch_size
from worker.quantization import InputSpec

ANY = BatchRange(1, 1 << 20)


@pytest.mark.parametrize(
    ("specs", "expected"),
    [
        ([spec("x", (None, 3))], BatchRange(1, 1 << 20)),
        ([spec("x", (4, 3))], BatchRange(4, 4)),
        ([spec("x", (2, 3))], BatchRange(2, 2)),
        ([spec("x", (None, 3)), spec("y", (1, 3))], BatchRange(1, 1)),
        ([InputSpec("x", (None, 3), torch.float32, (8, 3), ((3, 16), (3, 3)), ("s0", None))], BatchRange(3, 16)),
    ],
)
def test_the_batch_range_is_what_every_input_takes(specs: list[InputSpec], expected: BatchRange) -> None:
    assert batch_range(specs) == expected


@pytest.mark.parametrize("specs", [[spec("x", ())], [spec("x", (2, 3)), spec("y", (4, 3))]])
def test_inputs_without_one_batch_axis_are_unsupported(specs: list[InputSpec]) -> None:
    with pytest.raises(ModelUnsupported):
        batch_range(specs)


@pytest.mark.parametrize(
    ("batch", "sample_bytes", "expected"),
    [
        (ANY, 4, 32),
        (ANY, 16 * 1024**2, 4),
        (ANY, 1024**3, 1),
        (BatchRange(7, 7), 4, 7),
        (BatchRange(7, 7), 1024**3, 7),
        (BatchRange(1, 16), 4, 16),
    ],
)
def test_the_usual_batch_is_bounded_by_samples_bytes_and_the_model(
    batch: BatchRange, sample_bytes: int, expected: int
) -> None:
    assert usual_batch_size(batch, sample_bytes) == expected


def test_a_small_batch_is_filled_up_with_its_last_sample() -> None:
    x = torch.tensor([[1.0], [2.0]])
    assert padded_to([x], 4)[0].tolist() == [[1], [2], [2], [2]]
    assert padded_to([x], 2)[0] is x


def test_outputs_are_cut_to_the_samples_that_were_given() -> None:
    def model(x: Tensor) -> dict[str, Tensor]:
        assert x.shape == (4, 1)
        return {"doubled": 2 * x, "mean": x.mean()}

    doubled, mean = run_model(model, [torch.tensor([[1.0], [2.0]])], BatchRange(4, 4))
    assert doubled.tolist() == [[2], [4]]
    assert mean.shape == ()


def test_an_error_in_the_model_tells_the_inputs_and_its_message() -> None:
    def model(x: Tensor) -> Tensor:
        return x @ x

    with pytest.raises(ModelFailed, match=r"on inputs \(2, 3\) float32: mat1 and mat2 shapes"):
        run_model(model, [torch.zeros(2, 3)], ANY)


def test_an_error_in_torchscript_is_told_without_its_trace() -> None:
    traced = torch.jit.trace(lambda x: x.reshape(-1, 4), torch.zeros(4, 4))
    with pytest.raises(ModelFailed) as error:
        run_model(traced, [torch.zeros(3, 3)], ANY)
    assert error.value.message.endswith("invalid for input of size 9")
