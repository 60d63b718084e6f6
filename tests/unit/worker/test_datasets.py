"""Datasets bound to a model's inputs: what fits is given as tensors, what does not is told key by key."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shared.errors import DatasetEmpty, DatasetInconsistent, DatasetMismatch, DatasetNotFinite, LabelsMismatch
from worker.datasets import Dataset, InMemorySamples, batches, open_dataset
from worker.quantization import InputSpec


def spec(name: str, shape: tuple[int | None, ...], dtype: torch.dtype = torch.float32) -> InputSpec:
    example = tuple(2 if size is None else size for size in shape)
    bounds = tuple((2, 1 << 20) if size is None else (size, size) for size in shape)
    symbols = tuple(None if size is not None else f"s{axis}" for axis, size in enumerate(shape))
    return InputSpec(name, shape, dtype, example, bounds, symbols)


IMAGE = spec("x", (None, 3, 4))
TOKENS = spec("tokens", (None, None), torch.int64)


def opened(folder: Path, specs: list[InputSpec], **arrays: Any) -> Dataset:
    np.savez(folder / "data.npz", **arrays)
    return open_dataset(folder / "data.npz", specs, folder)


def images(count: int = 5) -> Any:
    return np.arange(count * 12, dtype=np.float32).reshape(count, 3, 4)


def test_inputs_come_in_the_models_order_whatever_the_files(tmp_path: Path) -> None:
    tokens = np.arange(10).reshape(5, 2)
    dataset = opened(tmp_path, [IMAGE, TOKENS], tokens=tokens, x=images(), labels=np.arange(5))
    batch = dataset.read(1, 4)
    assert dataset.count == 5
    assert batch.size == 3
    torch.testing.assert_close(batch.inputs, (torch.from_numpy(images()[1:4]), torch.from_numpy(tokens[1:4])))
    assert batch.labels is not None
    assert batch.labels.tolist() == [1, 2, 3]


def test_numbers_stand_for_the_inputs_in_order(tmp_path: Path) -> None:
    dataset = opened(tmp_path, [IMAGE, TOKENS], **{"0": images(), "1": np.zeros((5, 2), np.int64)})
    assert [tensor.shape for tensor in dataset.read(0, 5).inputs] == [(5, 3, 4), (5, 2)]


def test_batches_cover_every_sample_once_in_order(tmp_path: Path) -> None:
    dataset = opened(tmp_path, [IMAGE], x=images(7))
    parts = [batch.inputs[0] for batch in batches(dataset, 3)]
    assert [len(part) for part in parts] == [3, 3, 1]
    torch.testing.assert_close(torch.cat(parts), torch.from_numpy(images(7)))


def test_samples_are_taken_in_any_order_with_their_labels(tmp_path: Path) -> None:
    dataset = opened(tmp_path, [IMAGE], x=images(), labels=np.arange(5, dtype=np.uint8))
    batch = dataset.take([4, 0])
    torch.testing.assert_close(batch.inputs[0], torch.from_numpy(images()[[4, 0]]))
    assert batch.labels is not None
    assert (batch.labels.tolist(), batch.labels.dtype) == ([4, 0], torch.int64)


def test_samples_in_memory_read_like_a_file(tmp_path: Path) -> None:
    dataset = opened(tmp_path, [IMAGE], x=images(), labels=np.arange(5))
    memory = InMemorySamples((torch.from_numpy(images()),), torch.arange(5))
    for ours, theirs in [
        (memory.read(1, 3), dataset.read(1, 3)),
        (memory.take([3, 1]), dataset.take([3, 1])),
    ]:
        torch.testing.assert_close(ours.inputs, theirs.inputs)
        torch.testing.assert_close(ours.labels, theirs.labels)
    torch.testing.assert_close(memory.read_labels(2, 4), dataset.read_labels(2, 4))


def test_an_input_named_labels_is_an_input(tmp_path: Path) -> None:
    dataset = opened(tmp_path, [spec("labels", (None, 2))], labels=np.zeros((3, 2), np.float32))
    assert not dataset.has_labels
    assert dataset.read(0, 3).inputs[0].shape == (3, 2)


@pytest.mark.parametrize(
    ("found", "wanted", "cast"),
    [
        (np.float32, torch.float32, False),
        (np.float64, torch.float32, True),
        (np.float16, torch.float32, True),
        (np.int32, torch.int64, True),
        (np.uint8, torch.int64, True),
        (np.int64, torch.int32, True),
        (np.uint64, torch.int64, True),
        (np.int64, torch.int64, False),
        (np.bool_, torch.bool, False),
    ],
)
def test_dtypes_of_one_kind_are_converted_and_told(tmp_path: Path, found: Any, wanted: torch.dtype, cast: bool) -> None:
    dataset = opened(tmp_path, [spec("x", (None, 2), wanted)], x=np.ones((3, 2), found))
    assert dataset.read(0, 3).inputs[0].dtype == wanted
    assert len(dataset.casts) == cast
    if cast:
        assert dataset.casts[0].startswith("x from ")


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (np.uint8, torch.float32),
        (np.int64, torch.float32),
        (np.float32, torch.int64),
        (np.int64, torch.bool),
        (np.bool_, torch.float32),
    ],
)
def test_dtypes_of_another_kind_are_refused(tmp_path: Path, found: Any, wanted: torch.dtype) -> None:
    with pytest.raises(DatasetMismatch, match="'x': expected"):
        opened(tmp_path, [spec("x", (None, 2), wanted)], x=np.ones((3, 2), found))


@pytest.mark.parametrize(
    ("value", "found", "wanted", "error"),
    [
        (2**31, np.int64, torch.int32, DatasetMismatch),
        (-(2**31) - 1, np.int64, torch.int32, DatasetMismatch),
        (2**63, np.uint64, torch.int64, DatasetMismatch),
        (-1, np.int8, torch.uint8, DatasetMismatch),
        (1e300, np.float64, torch.float32, DatasetNotFinite),
        (-1e5, np.float32, torch.float16, DatasetNotFinite),
    ],
)
@pytest.mark.parametrize(("order", "at_once"), [("C", 1), ("C", 7), ("F", 7), ("F", 4096)])
def test_a_number_that_the_models_dtype_cannot_hold_is_refused_by_sample(  # noqa: PLR0917
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float, found: Any, wanted: torch.dtype, error: Any,
    order: Any, at_once: int,
) -> None:  # fmt: skip
    """Numpy's doubles and int64 are taken for what the model wants as long as the values are."""
    monkeypatch.setattr("worker.datasets._CHECKED_BYTES", at_once * 6 * np.dtype(found).itemsize)
    x = np.ones((100, 3, 2), found)
    opened(tmp_path, [spec("x", (None, 3, 2), wanted)], x=np.asarray(x, order=order))
    x[41, 1, 0] = x[50] = value
    told = re.escape(f"{value:.4g}" if isinstance(value, float) else str(value))
    with pytest.raises(error, match=f"^Input 'x' holds {told} in sample 41"):
        opened(tmp_path, [spec("x", (None, 3, 2), wanted)], x=np.asarray(x, order=order))


def test_a_mismatch_tells_every_key_shape_and_dtype(tmp_path: Path) -> None:
    with pytest.raises(DatasetMismatch) as error:
        opened(tmp_path, [IMAGE, TOKENS], x=np.zeros((5, 4, 3)), y=np.zeros((5, 2), np.int32))
    assert error.value.message == (
        "The dataset does not fit the model's inputs. "
        "'x': expected shape (N, 3, 4) float32, found shape (5, 4, 3) float64; "
        "'tokens': expected shape (N, any) int64, found nothing; "
        "'y': the model has no such input, found shape (5, 2) int32."
    )


@pytest.mark.parametrize("shape", [(5,), (5, 12), (5, 3, 4, 1), ()])
def test_another_rank_is_a_mismatch(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(DatasetMismatch, match=r"expected shape \(N, 3, 4\) float32, found shape"):
        opened(tmp_path, [IMAGE], x=np.zeros(shape, np.float32))


def test_labels_alone_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(DatasetMismatch, match=r"'x': expected .* found nothing"):
        opened(tmp_path, [IMAGE], labels=np.arange(5))


def test_no_samples_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetEmpty):
        opened(tmp_path, [IMAGE], x=images(0))


def test_arrays_of_different_lengths_are_told(tmp_path: Path) -> None:
    with pytest.raises(DatasetInconsistent, match="'x' has 5, 'tokens' has 4"):
        opened(tmp_path, [IMAGE, TOKENS], x=images(5), tokens=np.zeros((4, 2), np.int64))


@pytest.mark.parametrize(("labels", "told"), [(np.arange(4), "5 samples and 4 labels"), (np.int64(3), "a single one")])
def test_labels_of_another_length_are_told(tmp_path: Path, labels: Any, told: str) -> None:
    with pytest.raises(LabelsMismatch, match=told):
        opened(tmp_path, [IMAGE], x=images(5), labels=labels)
