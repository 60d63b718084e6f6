"""What a dataset file holds, read from its headers without numpy and without unpickling.

A dataset is named arrays whose first axis is the sample, as `.npz` or `.safetensors`, told apart by content. `labels`
is the one key with a meaning of its own; the others are the model's inputs.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, Field

from shared.errors import (
    DatasetCorrupt,
    DatasetEmpty,
    DatasetError,
    DatasetHasObjects,
    DatasetInconsistent,
    DatasetMismatch,
    LabelsMismatch,
)
from shared.model_file import TensorDescription
from shared.zip_layout import (
    Window,
    ZipCorrupt,
    ZipHostile,
    ZipMember,
    is_zip,
    read_head,
    read_members,
    verify_checksum,
)

LABELS: Final = "labels"
MAX_UNPACKED_BYTES = 64 * 1024**3
_MAX_NPY_HEADER_BYTES = 10_000  # numpy.lib.format refuses longer ones too
_MAX_SAFETENSORS_HEADER_BYTES = 8 * 1024**2  # parsing it stops every other thread
_MAX_ARRAYS = 1000
_MAX_DIMENSIONS = 64  # numpy's own limit
# What JSON cannot carry, PostgreSQL cannot keep, or a terminal would obey.
_KEY = re.compile("[^\\x00-\\x1f\\x7f-\\x9f\\ud800-\\udfff\\u202a-\\u202e\\u2066-\\u2069]{1,200}")
_NPY_MAGIC = b"\x93NUMPY"

# Little-endian or single bytes: what the worker can map into memory as it is.
_NPY_DTYPES: Final = {
    "|b1": ("bool", 1), "|i1": ("int8", 1), "|u1": ("uint8", 1),
    "<i2": ("int16", 2), "<i4": ("int32", 4), "<i8": ("int64", 8),
    "<u2": ("uint16", 2), "<u4": ("uint32", 4), "<u8": ("uint64", 8),
    "<f2": ("float16", 2), "<f4": ("float32", 4), "<f8": ("float64", 8),
}  # fmt: skip
_SAFETENSORS_DTYPES: Final = {
    "BOOL": ("bool", 1), "I8": ("int8", 1), "U8": ("uint8", 1), "I16": ("int16", 2), "U16": ("uint16", 2),
    "I32": ("int32", 4), "U32": ("uint32", 4), "I64": ("int64", 8), "U64": ("uint64", 8),
    "F16": ("float16", 2), "F32": ("float32", 4), "F64": ("float64", 8),
}  # fmt: skip
_KINDS: Final = (
    frozenset({"float16", "bfloat16", "float32", "float64"}),
    frozenset({"int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"}),
    frozenset({"bool"}),
)


class ArrayDescription(BaseModel):
    """An array of a dataset."""

    shape: list[int] = Field(description="First the number of samples.")
    dtype: str = Field(description="As numpy calls it, such as `float32`.")


class DatasetDescription(BaseModel):
    """What a dataset file says of itself."""

    format: Literal["npz", "safetensors"]
    samples: int
    arrays: dict[str, ArrayDescription] = Field(description="By key; `labels` is among them when there are labels.")
    labels: bool


def inspect_dataset(path: Path) -> DatasetDescription:
    """Read a dataset's description from its headers; raises a subclass of DatasetError.

    Everything that is declared is held against the bytes that are there, and uncompressed members against their
    checksums (2 GB/s); compressed members are only checked by unpacking them, which is left to the worker.
    """
    with path.open("rb") as file:
        window = Window(file, 0, path.stat().st_size)
        head = file.read(16)
        try:
            if is_zip(head):
                kind, arrays = "npz", _read_npz(window)
            elif head[8:9] == b"{":
                kind, arrays = "safetensors", _read_safetensors(window)
            elif head.startswith(_NPY_MAGIC):
                raise DatasetError("This is a single .npy array; a dataset needs names.")
            elif not head:
                raise DatasetCorrupt("The dataset file is empty.")
            else:
                raise DatasetError
        except ZipCorrupt as error:
            raise DatasetCorrupt(f"The dataset is truncated or corrupt: {error}.") from error
        except ZipHostile as error:
            raise DatasetError(f"The dataset is not what numpy writes: {error}.") from error
    return _describe("npz" if kind == "npz" else "safetensors", arrays)


def check_fits(inputs: Sequence[TensorDescription], dataset: DatasetDescription, *, role: str) -> None:
    """Raise DatasetMismatch, with what is expected and found key by key, unless the dataset feeds these inputs.

    Keys are the input names, or `0`, `1`, … for the inputs in order. A size that the model leaves open fits any; the
    model's first axis is the batch and fits any number of samples. Types may differ in width, not in kind.
    """
    found = {key: array for key, array in dataset.arrays.items() if key != LABELS}
    names = [tensor.name for tensor in inputs]
    if LABELS in names and LABELS in dataset.arrays:
        found[LABELS] = dataset.arrays[LABELS]
    numbers = [str(index) for index in range(len(names))]
    keys = numbers if set(found) == set(numbers) else names
    lines, fits = [], True
    for key, tensor in zip(keys, inputs, strict=True):
        array = found.pop(key, None)
        good = array is not None and _array_fits(tensor, array)
        fits &= good
        expected = f"{tensor.dtype} {_shape_text(['N', *tensor.shape[1:]])}"
        lines.append(f"{key}: expected {expected}, found {_array_text(array)}{'' if good else '  <-- differs'}")
    for key, array in found.items():
        fits = False
        lines.append(f"{key}: not an input of the model, found {_array_text(array)}  <-- differs")
    if not fits:
        raise DatasetMismatch(
            f"The {role} dataset does not fit the model's inputs.\n" + "\n".join(lines),
            hint="Name the arrays after the model's inputs (or 0, 1, … in order), first axis the sample.",
        )


def _array_fits(tensor: TensorDescription, array: ArrayDescription) -> bool:
    wanted, given = tensor.shape[1:], array.shape[1:]
    return (
        len(tensor.shape) == len(array.shape)
        and all(size is None or size == other for size, other in zip(wanted, given, strict=True))
        and alike(tensor.dtype, array.dtype)
    )


def alike(dtype: str, other: str) -> bool:
    """Whether two types are of the same kind of numbers, if not of the same width."""
    return dtype == other or any({dtype, other} <= kind for kind in _KINDS)


def _array_text(array: ArrayDescription | None) -> str:
    return "nothing" if array is None else f"{array.dtype} {_shape_text(array.shape)}"


def _shape_text(shape: list[int | None] | list[int] | list[int | str | None]) -> str:
    return "[" + ", ".join("any" if size is None else str(size) for size in shape) + "]"


def _describe(kind: Literal["npz", "safetensors"], arrays: dict[str, ArrayDescription]) -> DatasetDescription:
    if not set(arrays) - {LABELS}:
        raise DatasetEmpty("The dataset has no arrays." if not arrays else "The dataset has labels and nothing else.")
    for key, array in arrays.items():
        if not array.shape:
            raise DatasetError(f"{key!r} is a single number: it has no sample axis.")
    lengths = {key: array.shape[0] for key, array in arrays.items() if key != LABELS}
    samples = next(iter(lengths.values()))
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{key!r} has {length}" for key, length in lengths.items())
        raise DatasetInconsistent(f"The dataset's arrays do not have the same number of samples: {counts}.")
    if LABELS in arrays and arrays[LABELS].shape[0] != samples:
        raise LabelsMismatch(f"There are {arrays[LABELS].shape[0]} labels for {samples} samples.")
    if samples == 0:
        raise DatasetEmpty
    if any(0 in array.shape for array in arrays.values()):
        empty = next(key for key, array in arrays.items() if 0 in array.shape)
        raise DatasetEmpty(f"The samples of {empty!r} are empty: its shape is {arrays[empty].shape}.")
    return DatasetDescription(format=kind, samples=samples, arrays=arrays, labels=LABELS in arrays)


def _read_npz(window: Window) -> dict[str, ArrayDescription]:
    arrays = {}
    members = read_members(window, allow_deflate=True)
    if (total := sum(member.size for member in members)) > MAX_UNPACKED_BYTES:
        raise DatasetError(f"The dataset unpacks to {total} bytes; {MAX_UNPACKED_BYTES} are the most that are read.")
    _check_keys([member.name.removesuffix(".npy") for member in members])
    for member in members:
        if not member.name.endswith(".npy"):
            raise DatasetError(f"The archive holds {member.name[:80]!r}, which is not an array.")
        arrays[member.name.removesuffix(".npy")] = _read_npy(window, member)
    for member in members:
        if not member.deflated:
            verify_checksum(window, member)
    return arrays


def _read_npy(window: Window, member: ZipMember) -> ArrayDescription:
    """The header of a .npy member as numpy.lib.format reads it, which the worker does; 3.0 is for names of fields."""
    key = member.name.removesuffix(".npy")
    head = read_head(window, member, 12 + _MAX_NPY_HEADER_BYTES)
    size_bytes = 2 if head[6:7] == b"\x01" else 4
    start = 8 + size_bytes
    header_bytes = int.from_bytes(head[8:start], "little")
    if not head.startswith(_NPY_MAGIC) or head[6:8] not in {b"\x01\x00", b"\x02\x00", b"\x03\x00"}:
        raise DatasetCorrupt(f"{key!r} is not a numpy array.")
    if head[6] == 3:
        raise DatasetError(f"{key!r} is a structured array: save each field under a name of its own.")
    if header_bytes > _MAX_NPY_HEADER_BYTES or start + header_bytes > len(head):
        raise DatasetCorrupt(f"The header of {key!r} is damaged.")
    try:
        header = ast.literal_eval(head[start : start + header_bytes].decode("utf-8").strip())
        descr, fortran, shape = header["descr"], header["fortran_order"], header["shape"]
    except (ValueError, SyntaxError, TypeError, KeyError, RecursionError, MemoryError) as error:
        raise DatasetCorrupt(f"The header of {key!r} is damaged.") from error
    if len(header) > 3 or not isinstance(fortran, bool):
        raise DatasetCorrupt(f"The header of {key!r} is damaged.")
    shape = _shape(key, list(shape) if isinstance(shape, tuple) else None)
    dtype, itemsize = _npy_dtype(key, descr)
    if fortran and sum(size > 1 for size in shape) > 1:
        raise DatasetError(
            f"{key!r} is stored column by column (Fortran order), so that one sample lies scattered.",
            hint="Save numpy.ascontiguousarray(array).",
        )
    if start + header_bytes + math.prod(shape) * itemsize != member.size:
        raise DatasetCorrupt(
            f"{key!r} is {dtype} of shape {shape}, but has {member.size - start - header_bytes} bytes of data."
        )
    return ArrayDescription(shape=shape, dtype=dtype)


def _npy_dtype(key: str, descr: object) -> tuple[str, int]:
    if isinstance(descr, str) and (known := _NPY_DTYPES.get(descr)):
        return known
    text = str(descr)
    if isinstance(descr, list):
        if re.search(r"'\|?O\d*'", text):
            raise DatasetHasObjects(f"{key!r} has object fields, which only unpickling could read.")
        raise DatasetError(f"{key!r} is a structured array: save each field under a name of its own.")
    if text.lstrip("|<>=").startswith("O"):
        raise DatasetHasObjects(f"{key!r} is an object array, which only unpickling could read.")
    raise DatasetError(
        f"{key!r} has the type {text[:40]!r}; numbers and booleans of the machine's own byte order are read.",
        hint="Convert it, such as with array.astype('float32').",
    )


def _read_safetensors(window: Window) -> dict[str, ArrayDescription]:
    """Format: the safetensors README: u64 header length, JSON header, data without gaps."""
    header_bytes = int.from_bytes(window.read(0, 8), "little")
    if header_bytes > _MAX_SAFETENSORS_HEADER_BYTES:
        raise DatasetCorrupt("The header of the .safetensors file is too long.")
    try:
        pairs = json.loads(window.read(8, header_bytes), object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:
        raise DatasetCorrupt("The header of the .safetensors file is damaged.") from error
    if not isinstance(pairs, dict):
        raise DatasetCorrupt("The header of the .safetensors file is damaged.")
    pairs.pop("__metadata__", None)
    _check_keys(list(pairs))
    arrays, spans = {}, []
    for key, entry in pairs.items():
        arrays[key], span = _read_safetensors_entry(key, entry)
        spans.append(span)
    position = 0
    for begin, end in sorted(spans):
        if begin != position:
            raise DatasetCorrupt("The data of the .safetensors file has gaps or overlaps.")
        position = end
    if 8 + header_bytes + position != window.size:
        raise DatasetCorrupt("The .safetensors file is truncated, or something follows its data.")
    return arrays


def _read_safetensors_entry(key: str, entry: dict[str, Any]) -> tuple[ArrayDescription, tuple[int, int]]:
    try:
        (begin, end), kind = entry["data_offsets"], entry["dtype"]
        shape = _shape(key, entry["shape"])
        dtype, itemsize = _SAFETENSORS_DTYPES.get(kind, ("", 0))
    except (TypeError, KeyError, ValueError) as error:
        raise DatasetCorrupt(f"The header of the .safetensors file is damaged at {key[:80]!r}.") from error
    if not dtype:
        raise DatasetError(f"{key!r} has the type {str(kind)[:20]!r}; save it as float32 or an integer type.")
    if type(begin) is not int or type(end) is not int or end - begin != math.prod(shape) * itemsize:
        raise DatasetCorrupt(f"{key!r} is {dtype} of shape {shape}, but its data has another size.")
    return ArrayDescription(shape=shape, dtype=dtype), (begin, end)


def _check_keys(keys: list[str]) -> None:
    if len(keys) > _MAX_ARRAYS:
        raise DatasetError(f"The dataset has {len(keys)} arrays; {_MAX_ARRAYS} are the most that are read.")
    for key in keys:
        if not _KEY.fullmatch(key):
            raise DatasetError(f"The name of an array must be 1 to 200 printable characters, not {key[:80]!r}.")


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


def _shape(key: str, shape: object) -> list[int]:
    if (
        not isinstance(shape, list)
        or len(shape) > _MAX_DIMENSIONS
        or not all(type(size) is int and 0 <= size < 2**48 for size in shape)
    ):
        raise DatasetCorrupt(f"The shape of {key[:80]!r} is damaged.")
    return shape
