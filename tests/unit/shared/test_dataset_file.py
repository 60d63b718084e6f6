"""A dataset is described from its headers, and every way in which it can be wrong is told apart."""

import json
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from shared.dataset_file import ArrayDescription, DatasetDescription, check_fits, inspect_dataset
from shared.errors import (
    DatasetCorrupt,
    DatasetEmpty,
    DatasetError,
    DatasetHasObjects,
    DatasetInconsistent,
    DatasetMismatch,
    LabelsMismatch,
)
from shared.model_file import ModelDescription, TensorDescription
from worker.array_files import open_arrays

IMAGES = np.linspace(0, 1, 6 * 3 * 4, dtype=np.float32).reshape(6, 3, 4)
LABELS = np.arange(6)
Save = Callable[..., Path]


def save_npz(path: Path, **arrays: Any) -> Path:
    with path.open("wb") as file:
        np.savez(file, **arrays)
    return path


def save_compressed(path: Path, **arrays: Any) -> Path:
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)
    return path


def save_safetensors(path: Path, **arrays: Any) -> Path:
    save_file(arrays, path)
    return path


@pytest.mark.parametrize("save", [save_npz, save_compressed, save_safetensors])
def test_a_dataset_is_described_by_its_content_whatever_its_name(tmp_path: Path, save: Save) -> None:
    described = inspect_dataset(save(tmp_path / "data.bin", x=IMAGES, labels=LABELS))
    assert described == DatasetDescription(
        format="safetensors" if save is save_safetensors else "npz",
        samples=6,
        arrays={
            "x": ArrayDescription(shape=[6, 3, 4], dtype="float32"),
            "labels": ArrayDescription(shape=[6], dtype="int64"),
        },
        labels=True,
    )


@pytest.mark.parametrize(
    "dtype",
    ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64"],
)
@pytest.mark.parametrize("save", [save_npz, save_safetensors])
def test_every_number_type_is_known(tmp_path: Path, save: Save, dtype: str) -> None:
    assert inspect_dataset(save(tmp_path / "data", x=np.ones((2, 3), dtype))).arrays["x"].dtype == dtype


def test_reading_needs_neither_torch_nor_numpy(tmp_path: Path) -> None:
    path = save_npz(tmp_path / "data.npz", x=IMAGES)
    program = (
        "import sys; from pathlib import Path; from shared.dataset_file import inspect_dataset; "
        f"inspect_dataset(Path({str(path)!r})); print({{'torch', 'numpy'}} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


WRONG: dict[str, tuple[dict[str, Any], type[DatasetError]]] = {
    "object array": ({"x": np.array([{}, []], dtype=object)}, DatasetHasObjects),
    "structured array with objects": ({"x": np.zeros(2, dtype=[("a", "O")])}, DatasetHasObjects),
    "structured array": ({"x": np.zeros(2, dtype=[("a", "f4"), ("b", "i4")])}, DatasetError),
    "strings": ({"x": np.array(["a", "b"])}, DatasetError),
    "complex": ({"x": np.zeros(2, dtype=np.complex64)}, DatasetError),
    "dates": ({"x": np.zeros(2, dtype="M8[s]")}, DatasetError),
    "big-endian": ({"x": np.zeros(2, dtype=">f4")}, DatasetError),
    "Fortran order": ({"x": np.asfortranarray(np.zeros((3, 4)))}, DatasetError),
    "a single number": ({"x": np.float32(1)}, DatasetError),
    "no samples": ({"x": np.zeros((0, 3))}, DatasetEmpty),
    "empty samples": ({"x": np.zeros((3, 0))}, DatasetEmpty),
    "no arrays": ({}, DatasetEmpty),
    "labels alone": ({"labels": LABELS}, DatasetEmpty),
    "unequal arrays": ({"x": np.zeros((3, 2)), "y": np.zeros((4, 2))}, DatasetInconsistent),
    "too few labels": ({"x": IMAGES, "labels": LABELS[:5]}, LabelsMismatch),
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_dataset_is_refused_by_the_fitting_error(tmp_path: Path, fault: str) -> None:
    arrays, expected = WRONG[fault]
    with pytest.raises(DatasetError) as caught:
        inspect_dataset(save_npz(tmp_path / "data.npz", **arrays))
    assert type(caught.value) is expected
    assert caught.value.hint


def test_fortran_order_names_the_remedy_and_a_column_vector_needs_none(tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as caught:
        inspect_dataset(save_npz(tmp_path / "data.npz", x=np.asfortranarray(np.zeros((3, 4)))))
    assert "ascontiguousarray" in str(caught.value.hint)
    assert inspect_dataset(save_npz(tmp_path / "data.npz", x=np.zeros((1, 4)).T)).samples == 4


@pytest.mark.parametrize("save", [save_npz, save_compressed, save_safetensors])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_a_truncated_file_is_corrupt(tmp_path: Path, save: Save, kept: float) -> None:
    data = save(tmp_path / "whole", x=np.random.default_rng(0).normal(size=(100, 8))).read_bytes()
    (tmp_path / "cut").write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(DatasetCorrupt):
        inspect_dataset(tmp_path / "cut")


def test_one_flipped_bit_of_a_stored_array_is_noticed(tmp_path: Path) -> None:
    path = save_npz(tmp_path / "data.npz", x=IMAGES)
    data = bytearray(path.read_bytes())
    data[data.index(IMAGES.tobytes()) + 40] ^= 1
    path.write_bytes(data)
    with pytest.raises(DatasetCorrupt, match="checksum"):
        inspect_dataset(path)


def npy(header: str, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + data


def zipped(path: Path, members: dict[str, bytes], *, declared: int | None = None) -> Path:
    """A zip; `declared` forges the unpacked size that its directory tells of every member."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    if declared is not None:
        raw = bytearray(path.read_bytes())
        position = -1
        while (position := raw.find(b"PK\x01\x02", position + 1)) >= 0:
            struct.pack_into("<L", raw, position + 24, declared)
        path.write_bytes(raw)
    return path


@pytest.mark.parametrize(
    "member",
    [
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }", bytes(8)),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }", bytes(4)),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2.0,), }", bytes(8)),
        npy("{'descr': '<f4', 'fortran_order': False}", bytes(8)),
        npy("{'descr': '<f4', 'fortran_order': 0, 'shape': (2,)}", bytes(8)),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), 'more': 1}", bytes(8)),
        b"\x93NUMPY\x01\x01" + npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}", bytes(8))[8:],
        npy("__import__('os').getpid()", bytes(8)),
        npy("[" * 5000, bytes(8)),
        b"\x93NUMPY\x01\x00\xff\xff{",
        b"\x93NUMPY\x09\x00\x01\x00{",
        b"not an array",
        b"",
    ],
)
def test_a_header_that_does_not_fit_its_data_is_corrupt(tmp_path: Path, member: bytes) -> None:
    """Here, and where the worker reads it."""
    path = zipped(tmp_path / "data.npz", {"x.npy": member})
    with pytest.raises(DatasetCorrupt):
        inspect_dataset(path)
    with pytest.raises(DatasetCorrupt):
        open_arrays(path, tmp_path)


def test_a_version_for_the_names_of_fields_holds_no_numbers_here_or_in_the_worker(tmp_path: Path) -> None:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }"
    member = b"\x93NUMPY\x03\x00" + struct.pack("<I", len(header)) + header + bytes(8)
    path = zipped(tmp_path / "data.npz", {"x.npy": member})
    for read in (inspect_dataset, lambda path: open_arrays(path, tmp_path)):
        with pytest.raises(DatasetError, match="structured"):
            read(path)


def test_a_bomb_is_known_by_its_declared_size_before_it_is_unpacked(tmp_path: Path) -> None:
    """Seventeen compressed members that claim 4 GiB each, in a file of a few kilobytes."""
    header = "{'descr': '|u1', 'fortran_order': False, 'shape': (4294967000,), }"
    members = {f"x{index}.npy": npy(header, bytes(100)) for index in range(17)}
    path = zipped(tmp_path / "bomb.npz", members, declared=2**32 - 2)
    with pytest.raises(DatasetError, match="unpacks to"):
        inspect_dataset(path)


@pytest.mark.parametrize("name", ["readme.txt", "../x.npy", "/x.npy"])
def test_members_that_are_no_arrays_or_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    data = npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", bytes(8))
    with pytest.raises(DatasetError):
        inspect_dataset(zipped(tmp_path / "data.npz", {name: data}))


def safetensors_bytes(header: object, data: bytes) -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data


def entry(shape: Any, begin: Any, end: Any, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("header", "data"),
    [
        ({"x": entry([2], 0, 8)}, bytes(4)),
        ({"x": entry([2], 0, 8)}, bytes(12)),
        ({"x": entry([2], 0, 4)}, bytes(4)),
        ({"x": entry([2], 4, 12)}, bytes(12)),
        ({"x": entry([2], 0, 8), "y": entry([2], 4, 12)}, bytes(12)),
        ({"x": entry([-1], 0, -4)}, b""),
        ({"x": entry([2**62, 4], 0, 0)}, b""),
        ({"x": entry("2", 0, 8)}, bytes(8)),
        ({"x": entry([2], "0", "8")}, bytes(8)),
        ({"x": [1, 2]}, bytes(8)),
        (b'{"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "x": 1}', bytes(8)),
        (b"{" * 9, b""),
    ],
)
def test_a_safetensors_header_that_does_not_fit_its_data_is_corrupt(tmp_path: Path, header: Any, data: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(safetensors_bytes(header, data))
    with pytest.raises(DatasetCorrupt):
        inspect_dataset(tmp_path / "x.safetensors")


def test_a_huge_safetensors_header_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", 2**60) + b"{}")
    with pytest.raises(DatasetCorrupt, match="too long"):
        inspect_dataset(tmp_path / "x.safetensors")


def test_metadata_is_no_array_and_bfloat16_names_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors_bytes({"__metadata__": {"a": "b"}, "x": entry([2], 0, 8)}, bytes(8)))
    assert set(inspect_dataset(path).arrays) == {"x"}
    path.write_bytes(safetensors_bytes({"x": entry([2], 0, 4, "BF16")}, bytes(4)))
    with pytest.raises(DatasetError, match="float32"):
        inspect_dataset(path)


@pytest.mark.parametrize("data", [b"", b"a,b\n1,2\n", b"\x89HDF\r\n\x1a\n"])
def test_other_files_are_no_datasets(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "data").write_bytes(data)
    with pytest.raises(DatasetError):
        inspect_dataset(tmp_path / "data")


def test_a_single_array_is_told_to_need_a_name(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", IMAGES)
    with pytest.raises(DatasetError, match="single"):
        inspect_dataset(tmp_path / "x.npy")


# --- fitting ---------------------------------------------------------------------------------------------------------

TWO_INPUTS = ModelDescription(
    inputs=[
        TensorDescription(name="image", shape=[None, 3, None], dtype="float32"),
        TensorDescription(name="ids", shape=[None, 5], dtype="int64"),
    ],
    outputs=1,
    parameters=1,
    weight_bytes=4,
    torch_version="2.13.0",
)


def dataset(**arrays: tuple[list[int], str]) -> DatasetDescription:
    described = {key: ArrayDescription(shape=shape, dtype=dtype) for key, (shape, dtype) in arrays.items()}
    return DatasetDescription(format="npz", samples=4, arrays=described, labels="labels" in arrays)


@pytest.mark.parametrize(
    "fitting",
    [
        dataset(image=([4, 3, 9], "float32"), ids=([4, 5], "int64")),
        dataset(ids=([4, 5], "int64"), image=([4, 3, 1], "float32"), labels=([4], "int64")),
        dataset(**{"0": ([4, 3, 9], "float64"), "1": ([4, 5], "int32")}),
        dataset(image=([4, 3, 9], "float16"), ids=([4, 5], "uint8")),
    ],
)
def test_a_dataset_fits_by_name_or_position_with_free_sizes_and_widths(fitting: DatasetDescription) -> None:
    check_fits(TWO_INPUTS.inputs, fitting, role="calibration")


@pytest.mark.parametrize(
    ("differing", "line"),
    [
        (dataset(image=([4, 3, 9], "float32")), "ids: expected int64 [N, 5], found nothing  <-- differs"),
        (
            dataset(image=([4, 1, 9], "float32"), ids=([4, 5], "int64")),
            "image: expected float32 [N, 3, any], found float32 [4, 1, 9]  <-- differs",
        ),
        (
            dataset(image=([4, 3], "float32"), ids=([4, 5], "int64")),
            "image: expected float32 [N, 3, any], found float32 [4, 3]  <-- differs",
        ),
        (
            dataset(image=([4, 3, 9], "uint8"), ids=([4, 5], "int64")),
            "image: expected float32 [N, 3, any], found uint8 [4, 3, 9]  <-- differs",
        ),
        (
            dataset(image=([4, 3, 9], "float32"), ids=([4, 5], "int64"), mask=([4], "bool")),
            "mask: not an input of the model, found bool [4]  <-- differs",
        ),
        (dataset(**{"0": ([4, 3, 9], "float32")}), "image: expected float32 [N, 3, any], found nothing  <-- differs"),
    ],
)
def test_a_mismatch_lists_what_is_expected_and_found_key_by_key(differing: DatasetDescription, line: str) -> None:
    with pytest.raises(DatasetMismatch) as caught:
        check_fits(TWO_INPUTS.inputs, differing, role="training")
    assert "training dataset" in caught.value.message
    assert line in caught.value.message.splitlines()


def test_an_input_called_labels_is_an_input() -> None:
    model = TWO_INPUTS.model_copy(
        update={"inputs": [TensorDescription(name="labels", shape=[None, 2], dtype="float32")]}
    )
    check_fits(model.inputs, dataset(labels=([4, 2], "float32")), role="evaluation")


@pytest.mark.parametrize("key", ["", "a\0b", "\x1b[31m", "\x9b31m", "\u202egnp", "\ud800", "k" * 201])
def test_the_name_of_an_array_is_short_and_printable(tmp_path: Path, key: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors_bytes({key: entry([1], 0, 4)}, b"data"))
    with pytest.raises(DatasetError, match="name of an array"):
        inspect_dataset(path)


def test_more_arrays_than_any_model_takes_are_refused_in_one_sentence(tmp_path: Path) -> None:
    header = {f"{index:0200}": entry([1], index * 4, index * 4 + 4) for index in range(1001)}
    (tmp_path / "x.safetensors").write_bytes(safetensors_bytes(header, bytes(4004)))
    zipped(tmp_path / "x.npz", {f"{index}.npy": b"" for index in range(1001)})
    for name in ("x.safetensors", "x.npz"):
        with pytest.raises(DatasetError, match="1001 arrays") as caught:
            inspect_dataset(tmp_path / name)
        assert len(caught.value.message) < 200


def test_a_shape_of_many_dimensions_is_refused_before_it_is_multiplied(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors_bytes({"x": entry([2**47] * 300_000, 0, 4)}, b"data"))
    with pytest.raises(DatasetCorrupt, match="shape"):
        inspect_dataset(path)
