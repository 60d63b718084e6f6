"""Arrays, tensors and batches to one .safetensors file: named arrays whose first axis is the sample.

The format is eight bytes of header length, a JSON header that says where each array lies, and the bytes of the arrays.
It is written here and not by its library because batches come one by one, and how many is known only at the end.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

LABELS = "labels"
SPOOL_BYTES = 64 * 1024**2  #: an array larger than this waits on disk

_DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bool": "BOOL",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8",
}  # fmt: skip


def write_dataset(path: Path, data: Any, labels: Any = None, input_names: Sequence[str] | None = None) -> None:
    """Write a dict of arrays, one array, a tuple of arrays, or an iterable of batches.

    Inputs without names are called by `input_names`, else "0", "1", … A batch that is a tuple or list with one entry
    more than there are inputs (two, without `input_names`) ends in its labels.

    Raises:
        ValueError: there are no samples, or not equally many of each array, or the batches do not fit together.
        TypeError: something is no numeric array.
    """
    with tempfile.TemporaryDirectory(prefix="octavo-", dir=path.parent) as folder:
        columns = _Columns(Path(folder))
        if _is_batches(data):
            if labels is not None:
                raise TypeError("a DataLoader's batches carry their own labels: (x, y)")
            for batch in data:
                columns.append(_named_batch(batch, input_names))
        else:
            arrays = _named(data, input_names)
            if labels is not None:
                if LABELS in arrays:
                    raise TypeError("labels are given twice: as labels= and under the key 'labels'")
                arrays[LABELS] = labels
            columns.append(arrays)
        columns.write(path)


def _is_batches(data: Any) -> bool:
    return isinstance(data, Iterable) and not (
        isinstance(data, Mapping | tuple | list | np.ndarray) or hasattr(data, "__array__")
    )


def _named(data: Any, input_names: Sequence[str] | None) -> dict[str, Any]:
    """One array, a tuple of them, or a dict, as a dict."""
    if isinstance(data, Mapping):
        return {str(name): value for name, value in data.items()}
    values = data if isinstance(data, tuple) else (data,)
    names = list(input_names) if input_names is not None else [str(index) for index in range(len(values))]
    if len(names) != len(values):
        raise ValueError(f"{len(values)} arrays for {len(names)} inputs ({', '.join(names)})")
    return dict(zip(names, values, strict=True))


def _named_batch(batch: Any, input_names: Sequence[str] | None) -> dict[str, Any]:
    if isinstance(batch, list | tuple):
        inputs = 1 if input_names is None else len(input_names)
        if len(batch) == inputs + 1:
            return {**_named(tuple(batch[:-1]), input_names), LABELS: batch[-1]}
        if len(batch) != inputs:
            raise ValueError(
                f"a batch has {len(batch)} entries, and {inputs} or {inputs + 1} were expected: inputs, then labels. "
                "Name the inputs with model= or input_names=, or let the loader give dicts."
            )
        batch = tuple(batch)
    return _named(batch, input_names)


def _to_numpy(name: str, value: Any) -> Array:
    """A contiguous little-endian array of a dtype that safetensors knows."""
    if hasattr(value, "detach"):  # a torch tensor, known without importing torch
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":
            raise TypeError(f"{name!r} is bfloat16, which numpy does not know: give it as .float()")
    elif isinstance(value, list | tuple) and value and hasattr(value[0], "detach"):
        value = [entry.detach().cpu().numpy() for entry in value]
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise TypeError(f"{name!r} is no array, its samples are not of one shape: pad them ({error})") from error
    if array.dtype.name not in _DTYPES:
        raise TypeError(f"{name!r} is no numeric array: its dtype is {array.dtype}")
    if array.ndim == 0:
        raise ValueError(f"{name!r} is a single number: the first axis must be the sample")
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))


@dataclass
class _Column:
    """An array that grows by its first axis."""

    dtype: np.dtype[Any]
    sample_shape: tuple[int, ...]
    spool: IO[bytes]
    samples: int = 0

    @property
    def size_bytes(self) -> int:
        return self.samples * int(np.prod(self.sample_shape, dtype=np.int64)) * self.dtype.itemsize


class _Columns:
    """The arrays of a dataset while they grow."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._columns: dict[str, _Column] = {}

    def append(self, arrays: Mapping[str, Any]) -> None:
        batch = {name: _to_numpy(name, value) for name, value in arrays.items()}
        if not self._columns:
            self._columns = {name: self._new_column(array) for name, array in batch.items()}
        if batch.keys() != self._columns.keys():
            raise ValueError(f"a batch has {_listed(batch)}, the first had {_listed(self._columns)}")
        if len({len(array) for array in batch.values()}) > 1:
            counts = ", ".join(f"{name!r} has {len(array)}" for name, array in batch.items())
            raise ValueError(f"not equally many samples: {counts}")
        for name, array in batch.items():
            column = self._columns[name]
            if (array.dtype, array.shape[1:]) != (column.dtype, column.sample_shape):
                raise ValueError(
                    f"{name!r} is {array.dtype} of shape {array.shape[1:]} in one batch and {column.dtype} of shape "
                    f"{column.sample_shape} in another: convert or pad it"
                )
            column.spool.write(array.data if array.size else b"")
            column.samples += len(array)

    def _new_column(self, array: Array) -> _Column:
        spool = tempfile.SpooledTemporaryFile(SPOOL_BYTES, dir=str(self._folder))  # noqa: SIM115  # lives with its column
        return _Column(array.dtype, array.shape[1:], spool)

    def write(self, path: Path) -> None:
        if not any(column.samples for column in self._columns.values()):
            raise ValueError("the dataset has no samples")
        # The widest first, as the library writes them, so that every array begins at a multiple of its width.
        ordered = sorted(self._columns.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
        header: dict[str, Any] = {}
        offset = 0
        for name, column in ordered:
            header[name] = {
                "dtype": _DTYPES[column.dtype.name],
                "shape": [column.samples, *column.sample_shape],
                "data_offsets": [offset, offset + column.size_bytes],
            }
            offset += column.size_bytes
        encoded = json.dumps(header, separators=(",", ":")).encode()
        encoded += b" " * (-len(encoded) % 8)
        with path.open("wb") as file:
            file.write(len(encoded).to_bytes(8, "little") + encoded)
            for _, column in ordered:
                column.spool.seek(0)
                while chunk := column.spool.read(1024**2):
                    file.write(chunk)
                column.spool.close()


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)
