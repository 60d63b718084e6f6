"""Arrays in .npz and .safetensors files: read in slices as numpy reads them whole, refused when they are not right."""

from __future__ import annotations

import io
import json
import pickle
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch_file

from shared.errors import DatasetCorrupt, DatasetError, DatasetHasObjects, DatasetNotFinite, OctavoError
from worker.array_files import StoredArray, open_arrays

Arrays = dict[str, NDArray[Any]]
Save = Callable[[Path, Arrays], None]
Opened = Callable[[Path], dict[str, StoredArray]]


def save_stored(path: Path, arrays: Arrays) -> None:
    np.savez(path.open("wb"), **arrays)


def save_deflated(path: Path, arrays: Arrays) -> None:
    np.savez_compressed(path.open("wb"), **arrays)


def save_safetensors(path: Path, arrays: Arrays) -> None:
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)


FORMATS = pytest.mark.parametrize("save", [save_stored, save_deflated, save_safetensors])


@pytest.fixture
def opened(tmp_path: Path) -> Opened:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return lambda path: open_arrays(path, scratch)


@pytest.fixture
def arrays() -> Arrays:
    generator = np.random.default_rng(0)
    return {
        "x": generator.normal(size=(10, 3, 4)).astype(np.float32),
        "columns": np.asfortranarray(generator.normal(size=(10, 5))),
        "cube": np.asfortranarray(generator.integers(0, 99, (10, 3, 4))),
        "big_endian": generator.normal(size=(10, 2)).astype(">f4"),
        "labels": generator.integers(0, 9, 10),
        "mask": generator.random((10, 2)) > 0.5,
    }


@FORMATS
def test_slices_are_what_numpy_reads(save: Save, arrays: Arrays, tmp_path: Path, opened: Opened) -> None:
    if save is save_safetensors:
        del arrays["big_endian"]  # the format is little-endian
    path = tmp_path / "data"
    save(path, arrays)
    found = opened(path)
    assert set(found) == set(arrays)
    for name, expected in arrays.items():
        assert found[name].shape == expected.shape
        for start, stop in [(0, 10), (0, 1), (3, 7), (9, 10), (5, 5)]:
            np.testing.assert_array_equal(found[name].read(start, stop), expected[start:stop])
        np.testing.assert_array_equal(found[name].take([7, 0, 7]), expected[[7, 0, 7]])
        assert found[name].read(0, 2).dtype.isnative
        assert found[name].read(0, 2).flags.c_contiguous


def test_bfloat16_comes_as_float32(tmp_path: Path, opened: Opened) -> None:
    tensor = torch.tensor([[1.5, -2.25], [0.0, 3e38]]).to(torch.bfloat16)
    save_torch_file({"x": tensor}, tmp_path / "data.safetensors")
    array = opened(tmp_path / "data.safetensors")["x"]
    assert array.dtype_name == "bfloat16"
    np.testing.assert_array_equal(array.read(0, 2), tensor.float().numpy())


def test_a_safetensors_header_that_begins_like_a_pickle_is_read(tmp_path: Path, opened: Opened) -> None:
    """A header of 640 bytes has the length 0x0280, of which the bytes are those of a pickle of protocol 2."""
    header = json.dumps({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).ljust(640).encode()
    path = tmp_path / "data.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + np.float32([1, 2]).tobytes())
    np.testing.assert_array_equal(opened(path)["x"].read(0, 2), [1, 2])


@FORMATS
def test_memory_does_not_grow_with_the_file(save: Save, tmp_path: Path, opened: Opened) -> None:
    """Opening and reading 64 MiB in slices of 256 KiB takes less than a quarter of that at any time."""
    save(tmp_path / "data", {"x": np.zeros((256, 1 << 16), np.float32)})
    tracemalloc.start()
    array = opened(tmp_path / "data")["x"]
    for start in range(0, 256, 1):
        array.read(start, start + 1)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 16 * 1024**2


@FORMATS
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_with_place_and_number(
    save: Save, value: float, tmp_path: Path, opened: Opened
) -> None:
    data = np.zeros((8, 5), np.float32)
    data[3, 1:3] = data[6, 0] = value
    save(tmp_path / "data", {"x": data})
    with pytest.raises(DatasetNotFinite, match="'x' holds 3 NaN or infinite values; the first in sample 3"):
        opened(tmp_path / "data")


def test_the_first_sample_is_found_in_fortran_order_too(tmp_path: Path, opened: Opened) -> None:
    data = np.zeros((8, 5), order="F")
    data[6, 0] = data[2, 4] = np.nan
    save_stored(tmp_path / "data", {"x": data})
    with pytest.raises(DatasetNotFinite, match="2 NaN or infinite values; the first in sample 2"):
        opened(tmp_path / "data")


def test_bfloat16_nan_is_refused(tmp_path: Path, opened: Opened) -> None:
    save_torch_file({"x": torch.tensor([1.0, float("nan")]).to(torch.bfloat16)}, tmp_path / "data")
    with pytest.raises(DatasetNotFinite, match="sample 1"):
        opened(tmp_path / "data")


@FORMATS
@pytest.mark.parametrize("kept", [0.02, 0.3, 0.6, 0.99])
def test_a_truncated_file_is_corrupt(save: Save, kept: float, tmp_path: Path, opened: Opened) -> None:
    path = tmp_path / "data"
    save(path, {"x": np.random.default_rng(0).normal(size=(50, 40))})
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(DatasetCorrupt):
        opened(path)


@pytest.mark.parametrize("save", [save_stored, save_deflated])
def test_a_flipped_bit_in_an_npz_is_corrupt(save: Save, tmp_path: Path, opened: Opened) -> None:
    path = tmp_path / "data"
    save(path, {"x": np.random.default_rng(0).integers(0, 100, (50, 40))})
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    with pytest.raises(DatasetCorrupt):
        opened(path)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", DatasetCorrupt),
        (b"sepal,petal\n1,2\n", DatasetCorrupt),
        (b"\xff" * 64, DatasetCorrupt),
        ((100).to_bytes(8, "little") + b"[" * 100, DatasetCorrupt),
        ((2).to_bytes(8, "little") + b"[]", DatasetCorrupt),
        (pickle.dumps({"x": [1]}), DatasetHasObjects),
    ],
)
def test_another_file_is_refused(content: bytes, error: type[OctavoError], tmp_path: Path, opened: Opened) -> None:
    (tmp_path / "data").write_bytes(content)
    with pytest.raises(error):
        opened(tmp_path / "data")


def test_a_single_npy_is_told_apart(tmp_path: Path, opened: Opened) -> None:
    np.save(tmp_path / "data.npy", np.zeros(3))
    with pytest.raises(DatasetError, match=r"single \.npy"):
        opened(tmp_path / "data.npy")


def test_a_zip_that_is_no_npz_is_told_apart(tmp_path: Path, opened: Opened) -> None:
    torch.save({"x": torch.zeros(3)}, tmp_path / "data.pt")
    with pytest.raises(DatasetError, match=r"no \.npy members"):
        opened(tmp_path / "data.pt")


def test_an_object_array_is_refused_without_being_unpickled(tmp_path: Path, opened: Opened) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "exploded",))

    np.savez(tmp_path / "data.npz", x=np.array([Bomb()], dtype=object))
    with pytest.raises(DatasetHasObjects, match="'x'"):
        opened(tmp_path / "data.npz")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("values", [np.array(["a"]), np.zeros(2, [("a", "f4")]), np.zeros(2, np.complex64)])
def test_what_is_not_real_numbers_is_refused(values: NDArray[Any], tmp_path: Path, opened: Opened) -> None:
    np.savez(tmp_path / "data.npz", x=values)
    with pytest.raises(DatasetError, match=r"'x' (holds .* not real numbers|is a structured array)"):
        opened(tmp_path / "data.npz")


@pytest.mark.parametrize("shape", [(1000, 2), (-2, -2), (2,)])
def test_a_header_that_lies_about_the_shape_is_corrupt(shape: tuple[int, ...], tmp_path: Path, opened: Opened) -> None:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(tmp_path / "data.npz", "w") as archive:
        archive.writestr("x.npy", buffer.getvalue() + bytes(16))
    with pytest.raises(DatasetCorrupt):
        opened(tmp_path / "data.npz")


@pytest.mark.parametrize("offsets", [[0, 4], [0, 800], [-8, 0], [8, 16]])
def test_safetensors_offsets_outside_the_file_are_corrupt(offsets: list[int], tmp_path: Path, opened: Opened) -> None:
    header = json.dumps({"x": {"dtype": "F32", "shape": [2], "data_offsets": offsets}}).encode()
    (tmp_path / "data").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(DatasetCorrupt):
        opened(tmp_path / "data")


def test_a_safetensors_dtype_without_numbers_for_a_model_is_refused(tmp_path: Path, opened: Opened) -> None:
    save_torch_file({"x": torch.zeros(4).to(torch.float8_e4m3fn)}, tmp_path / "data")
    with pytest.raises(DatasetError, match="F8_E4M3"):
        opened(tmp_path / "data")


def test_bytes_read_are_told(tmp_path: Path) -> None:
    save_stored(tmp_path / "data", {"x": np.zeros((1000, 1000)), "y": np.zeros(7, np.int64)})
    told: list[int] = []
    open_arrays(tmp_path / "data", tmp_path, told.append)
    assert sum(told) == 8_000_000 + 56
    assert len(told) > 2
