"""Named arrays in a file, read in slices: .npz and .safetensors, never unpickled, never mapped, never whole in memory.

Opening reads every array through once, a chunk at a time: checksums and lengths are verified, values that are not
finite are refused before anything is computed from them, and compressed members are unpacked to a scratch file. After
that any samples of any array are one positioned read away. (A memory map would count the page cache as the runner's
memory.)
"""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from shared.errors import DatasetCorrupt, DatasetError, DatasetHasObjects, DatasetNotFinite

_CHUNK_BYTES = 4 * 1024**2
_LOCAL_HEADER_BYTES = 30
_SAFETENSORS_HEADER_LIMIT = 100_000_000  # as in the format's own reader
_SAFETENSORS_DTYPES = {
    "BOOL": "bool",
    "U8": "|u1",
    "I8": "|i1",
    "U16": "<u2",
    "I16": "<i2",
    "U32": "<u4",
    "I32": "<i4",
    "U64": "<u8",
    "I64": "<i8",
    "F16": "<f2",
    "F32": "<f4",
    "F64": "<f8",
    "BF16": "<u2",
}

BytesRead = Callable[[int], None]
"""Called with the number of bytes that were just read."""


@dataclass(frozen=True)
class StoredArray:
    """An uncompressed array at a place in a file; its first axis is the sample."""

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran_order: bool = False
    is_bfloat16: bool = False

    @property
    def samples(self) -> int:
        """Length of the first axis."""
        return self.shape[0]

    @property
    def dtype_name(self) -> str:
        """Such as `float32`."""
        return "bfloat16" if self.is_bfloat16 else self.dtype.newbyteorder("=").name

    @property
    def size_bytes(self) -> int:
        """Bytes of all values."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Samples [start, stop), in C order and native byte order; bfloat16 comes as float32."""
        with self.path.open("rb", buffering=0) as file:
            return self._native(self._read(file, start, stop))

    def take(self, indices: Iterable[int]) -> NDArray[Any]:
        """The samples at these indices, in their order."""
        with self.path.open("rb", buffering=0) as file:
            return self._native(np.concatenate([self._read(file, index, index + 1) for index in indices]))

    def _read(self, file: FileIO, start: int, stop: int) -> NDArray[Any]:
        samples = stop - start
        values = np.empty((samples, *self.shape[1:]), self.dtype)
        if not self.fortran_order:
            sample_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
            _read_at(file, self.offset + start * sample_bytes, values)
            return values
        # In Fortran order the sample varies fastest: a run of samples lies together for each place within a sample.
        run = np.empty(samples, self.dtype)
        for place, index in enumerate(np.ndindex(*reversed(self.shape[1:]))):
            _read_at(file, self.offset + (place * self.samples + start) * self.dtype.itemsize, run)
            values[(slice(None), *reversed(index))] = run
        return values

    def _native(self, values: NDArray[Any]) -> NDArray[Any]:
        if self.is_bfloat16:
            return (values.astype(np.uint32) << 16).view(np.float32)
        return values.astype(self.dtype.newbyteorder("="), copy=False)


def open_arrays(path: Path, scratch: Path, on_bytes_read: BytesRead = lambda _: None) -> dict[str, StoredArray]:
    """Every array of an .npz or .safetensors file, told apart by content.

    Compressed members are unpacked below `scratch`. Raises DatasetCorrupt, DatasetHasObjects, DatasetNotFinite, and
    DatasetError for a file of another kind or values that are not numbers.
    """
    with path.open("rb") as file:
        magic = file.read(9)
    if magic[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return _open_npz(path, scratch, on_bytes_read)
    if magic[:6] == b"\x93NUMPY":
        raise DatasetError("This is a single .npy array without a name.")
    # The length of a .safetensors header can look like the start of a pickle; the brace after it cannot.
    if magic[:1] == b"\x80" and magic[8:] != b"{":
        raise DatasetHasObjects("This is a pickle, which Octavo never reads.")
    return _open_safetensors(path, on_bytes_read)


# --- .npz ------------------------------------------------------------------------------------------------------------


def _open_npz(path: Path, scratch: Path, on_bytes_read: BytesRead) -> dict[str, StoredArray]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
            if not members:
                raise DatasetError("The archive holds no .npy members, so it is not an .npz.")
            return {
                member.filename.removesuffix(".npy"): _open_member(path, archive, member, scratch, on_bytes_read)
                for member in members
            }
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DatasetCorrupt(f"The .npz is truncated or corrupt: {error}.") from error


def _open_member(
    path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo, scratch: Path, on_bytes_read: BytesRead
) -> StoredArray:
    name = member.filename.removesuffix(".npy")
    with archive.open(member) as stream:
        shape, fortran_order, dtype = _npy_header(name, stream)
        header_bytes = stream.tell()
        if header_bytes + math.prod(shape) * dtype.itemsize != member.file_size:
            raise DatasetCorrupt(f"Array {name!r} has another length than its shape {shape} of {dtype} needs.")
        if member.compress_type == zipfile.ZIP_STORED:
            array = StoredArray(path, _data_offset(path, member) + header_bytes, shape, dtype, fortran_order)
            _check_values(name, array, stream, None, on_bytes_read)
            return array
        unpacked = scratch / f"{path.name}.{member.header_offset}.raw"
        array = StoredArray(unpacked, 0, shape, dtype, fortran_order)
        with unpacked.open("wb") as copy:
            _check_values(name, array, stream, copy, on_bytes_read)
        return array


def _npy_header(name: str, stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
        elif version == (2, 0):
            shape, fortran_order, dtype = np.lib.format.read_array_header_2_0(stream)
        elif version == (3, 0):  # for structured arrays with field names in Unicode
            raise DatasetError(f"Array {name!r} is a structured array, not numbers.")
        else:
            raise DatasetCorrupt(f"Array {name!r} is of no version of .npy.")
    except (ValueError, SyntaxError, RecursionError, MemoryError, TokenError) as error:  # numpy parses it as Python
        raise DatasetCorrupt(f"Array {name!r} has no valid .npy header: {error}.") from error
    if min(shape, default=0) < 0:
        raise DatasetCorrupt(f"Array {name!r} has the impossible shape {shape}.")
    if dtype.hasobject:
        raise DatasetHasObjects(f"Array {name!r} is an object array, which only unpickling could read.")
    if dtype.kind not in "biuf":
        raise DatasetError(f"Array {name!r} holds {dtype}, not real numbers.")
    return shape, fortran_order, dtype


def _data_offset(path: Path, member: zipfile.ZipInfo) -> int:
    # The local header repeats the name, and its extra field may be of another length than the directory's.
    with path.open("rb") as file:
        file.seek(member.header_offset)
        header = file.read(_LOCAL_HEADER_BYTES)
    name_bytes = int.from_bytes(header[26:28], "little")
    extra_bytes = int.from_bytes(header[28:30], "little")
    return member.header_offset + _LOCAL_HEADER_BYTES + name_bytes + extra_bytes


# --- .safetensors ----------------------------------------------------------------------------------------------------


def _open_safetensors(path: Path, on_bytes_read: BytesRead) -> dict[str, StoredArray]:
    file_bytes = path.stat().st_size
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        if file_bytes < 8 or header_bytes > min(file_bytes - 8, _SAFETENSORS_HEADER_LIMIT):
            raise DatasetCorrupt("This is neither an .npz nor a whole .safetensors file.")
        try:
            header = json.loads(file.read(header_bytes))
            entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
            arrays = {
                name: _safetensors_array(path, name, entry, 8 + header_bytes, file_bytes)
                for name, entry in entries.items()
            }
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DatasetCorrupt("The .safetensors header is corrupt, or this is no .safetensors file.") from error
        for name, array in arrays.items():
            file.seek(array.offset)
            _check_values(name, array, file, None, on_bytes_read)
    return arrays


def _safetensors_array(path: Path, name: str, entry: dict[str, Any], data_at: int, file_bytes: int) -> StoredArray:
    if entry["dtype"] not in _SAFETENSORS_DTYPES:
        raise DatasetError(f"Array {name!r} holds {entry['dtype']}, which no model input takes.")
    dtype = np.dtype(_SAFETENSORS_DTYPES[entry["dtype"]])
    shape = tuple(int(size) for size in entry["shape"])
    begin, end = (int(offset) for offset in entry["data_offsets"])
    array = StoredArray(path, data_at + begin, shape, dtype, is_bfloat16=entry["dtype"] == "BF16")
    if min(shape, default=0) < 0 or begin < 0 or end - begin != array.size_bytes or data_at + end > file_bytes:
        raise DatasetCorrupt(f"Array {name!r} lies outside the file: the file is truncated or corrupt.")
    return array


# --- values ----------------------------------------------------------------------------------------------------------


def _check_values(
    name: str, array: StoredArray, stream: IO[bytes], copy: IO[bytes] | None, on_bytes_read: BytesRead
) -> None:
    """Read all values through once; refuse a short stream and values that are not finite; copy them if asked."""
    left = array.size_bytes
    position = 0  # in values
    first, count = None, 0
    while left:
        chunk = stream.read(min(_CHUNK_BYTES, left))
        if not chunk or len(chunk) % array.dtype.itemsize:
            raise DatasetCorrupt(f"Array {name!r} ends early: the file is truncated.")
        left -= len(chunk)
        values = np.frombuffer(chunk, array.dtype)
        wrong = _not_finite(values, is_bfloat16=array.is_bfloat16)
        if wrong.any():
            count += int(wrong.sum())
            if first is None or array.fortran_order:
                sample = _sample_of(position + np.flatnonzero(wrong), array).min()
                first = int(sample) if first is None else min(first, int(sample))
        position += len(values)
        if copy is not None:
            copy.write(chunk)
        on_bytes_read(len(chunk))
    # A zip member checks its CRC when its end is reached.
    if isinstance(stream, zipfile.ZipExtFile):
        stream.read(1)
    if first is not None:
        raise DatasetNotFinite(f"Array {name!r} holds {count} NaN or infinite values; the first in sample {first}.")


def _not_finite(values: NDArray[Any], *, is_bfloat16: bool) -> NDArray[np.bool_]:
    if is_bfloat16:
        wrong: NDArray[np.bool_] = (values & 0x7F80) == 0x7F80
        return wrong
    return ~np.isfinite(values) if values.dtype.kind == "f" else np.zeros(1, np.bool_)


def _sample_of(positions: NDArray[np.int64], array: StoredArray) -> NDArray[np.int64]:
    return positions % array.samples if array.fortran_order else positions // math.prod(array.shape[1:])


def _read_at(file: FileIO, offset: int, values: NDArray[Any]) -> None:
    view = values.data.cast("B") if values.size else memoryview(b"")
    file.seek(offset)
    while view:
        read = file.readinto(view)
        if not read:
            raise DatasetCorrupt(f"{file.name} ends early.")
        view = view[read:]
