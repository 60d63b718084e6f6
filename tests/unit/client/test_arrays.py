"""Arrays become a .safetensors file that its own library reads back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch.utils.data import DataLoader, TensorDataset

from octavo import _arrays
from octavo._arrays import write_dataset

IMAGES = np.arange(5 * 2 * 3, dtype=np.float32).reshape(5, 2, 3)
LABELS = np.arange(5)


def written(tmp_path: Path, *args: Any, **options: Any) -> dict[str, Any]:
    path = tmp_path / "dataset.safetensors"
    write_dataset(path, *args, **options)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]  # scratch is gone
    return dict(load_file(path))


def assert_same(actual: dict[str, Any], **expected: Any) -> None:
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(actual[name], array, strict=True)


@pytest.mark.parametrize(
    "images",
    [IMAGES, torch.tensor(IMAGES), list(IMAGES), [torch.tensor(image) for image in IMAGES], IMAGES[::-1][::-1]],
    ids=["array", "tensor", "list of arrays", "list of tensors", "strided"],
)
def test_a_dict_of_anything_like_an_array(tmp_path: Path, images: Any) -> None:
    assert_same(written(tmp_path, {"x": images}, LABELS), x=IMAGES, labels=LABELS)


def test_one_array_is_input_0(tmp_path: Path) -> None:
    assert_same(written(tmp_path, IMAGES), **{"0": IMAGES})


def test_a_tuple_is_an_array_for_each_input(tmp_path: Path) -> None:
    assert_same(written(tmp_path, (IMAGES, LABELS)), **{"0": IMAGES, "1": LABELS})


def test_inputs_can_be_named(tmp_path: Path) -> None:
    assert_same(written(tmp_path, (IMAGES, LABELS), None, ["left", "right"]), left=IMAGES, right=LABELS)


def test_a_tensor_that_needs_a_gradient_is_taken(tmp_path: Path) -> None:
    assert_same(written(tmp_path, {"x": torch.tensor(IMAGES, requires_grad=True)}), x=IMAGES)


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?", ">f4", ">i8"])
def test_every_numeric_dtype_keeps_its_values(tmp_path: Path, dtype: str) -> None:
    """Big-endian arrays too: the file is little-endian."""
    array = np.array([[0, 1], [1, 0], [1, 1]], dtype=dtype)
    assert_same(written(tmp_path, {"x": array}), x=array.astype(array.dtype.newbyteorder("=")))


def test_arrays_of_odd_sizes_lie_aligned(tmp_path: Path) -> None:
    """A float array behind three bytes would begin at no multiple of four."""
    arrays = {"a": np.ones((3, 1), np.uint8), "b": np.ones((3, 1), np.float32), "c": np.ones(3, np.int64)}
    assert_same(written(tmp_path, arrays), **arrays)
    content = (tmp_path / "dataset.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    assert length % 8 == 0
    assert {name: entry["data_offsets"][0] for name, entry in header.items()} == {"c": 0, "b": 24, "a": 36}


def loader(*tensors: torch.Tensor) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*tensors), batch_size=2)


def test_a_data_loader_of_pairs_ends_in_labels(tmp_path: Path) -> None:
    data = loader(torch.tensor(IMAGES), torch.tensor(LABELS))
    assert_same(written(tmp_path, data), **{"0": IMAGES}, labels=LABELS)


def test_a_data_loader_of_inputs_alone(tmp_path: Path) -> None:
    assert_same(written(tmp_path, loader(torch.tensor(IMAGES)), None, ["x"]), x=IMAGES)


def test_a_data_loader_of_two_inputs_and_labels(tmp_path: Path) -> None:
    images, labels = torch.tensor(IMAGES), torch.tensor(LABELS)
    actual = written(tmp_path, loader(images, -images, labels), None, ["left", "right"])
    assert_same(actual, left=IMAGES, right=-IMAGES, labels=LABELS)


def test_batches_of_dicts_and_bare_batches(tmp_path: Path) -> None:
    assert_same(written(tmp_path, ({"x": IMAGES[index : index + 2]} for index in (0, 2, 4))), x=IMAGES)
    assert_same(written(tmp_path, iter([IMAGES[:3], IMAGES[3:]])), **{"0": IMAGES})


def test_batches_are_not_held_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each batch is on disk before the next is asked for."""
    monkeypatch.setattr(_arrays, "SPOOL_BYTES", 10)

    def batches() -> Iterator[np.ndarray[Any, Any]]:
        for index in range(50):
            yield np.full((20, 1000), index, np.float32)

    actual = written(tmp_path, batches())
    assert actual["0"].shape == (1000, 1000)
    np.testing.assert_array_equal(actual["0"][::20, 0], np.arange(50))


def test_the_same_data_gives_the_same_bytes(tmp_path: Path) -> None:
    """So the server sees that it has them already, whichever way they came."""
    write_dataset(tmp_path / "a", {"x": IMAGES, "labels": LABELS})
    write_dataset(tmp_path / "b", loader(torch.tensor(IMAGES), torch.tensor(LABELS)), None, ["x"])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    ("data", "labels", "error", "reason"),
    [
        ({"x": IMAGES}, LABELS[:4], ValueError, "'x' has 5, 'labels' has 4"),
        ({"x": IMAGES, "y": IMAGES[:2]}, None, ValueError, "'x' has 5, 'y' has 2"),
        ({"x": IMAGES, "labels": LABELS}, LABELS, TypeError, "given twice"),
        ({"x": IMAGES[:0]}, None, ValueError, "no samples"),
        ({}, None, ValueError, "no samples"),
        (iter([]), None, ValueError, "no samples"),
        ({"x": np.array(3.0)}, None, ValueError, "single number"),
        ({"x": np.array([None, 1])}, None, TypeError, "dtype is object"),
        ({"x": ["a", "b"]}, None, TypeError, "no numeric array"),
        ({"x": [np.ones(2), np.ones(3)]}, None, TypeError, "not of one shape: pad them"),
        ({"x": torch.ones(2, dtype=torch.bfloat16)}, None, TypeError, "bfloat16"),
        (iter([IMAGES]), LABELS, TypeError, "carry their own labels"),
        (iter([IMAGES, IMAGES[:, :1]]), None, ValueError, "in one batch"),
        (iter([IMAGES, IMAGES.astype("f8")]), None, ValueError, "in one batch"),
        (iter([{"x": IMAGES}, {"y": IMAGES}]), None, ValueError, "the first had 'x'"),
        (iter([(IMAGES, IMAGES, LABELS)]), None, ValueError, "1 or 2 were expected"),
    ],
)
def test_what_is_no_dataset_is_refused_with_a_reason(
    tmp_path: Path, data: Any, labels: Any, error: type[Exception], reason: str
) -> None:
    with pytest.raises(error, match=reason):
        write_dataset(tmp_path / "dataset.safetensors", data, labels)
    assert list(tmp_path.iterdir()) == []
