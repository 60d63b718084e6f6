"""Samples for a model: a dataset file bound to the model's inputs, or random inputs where there is no data.

A dataset is named arrays whose first axis is the sample, keyed by the model's input names, or `0`, `1`, … in their
order; `labels` is optional.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared.errors import DatasetEmpty, DatasetInconsistent, DatasetMismatch, DatasetNotFinite, LabelsMismatch
from worker.array_files import BytesRead, StoredArray, open_arrays
from worker.quantization import InputSpec

LABELS = "labels"
_CHECKED_BYTES = 4 * 1024**2  # at once
_FLOATS = {"float16", "bfloat16", "float32", "float64"}


@dataclass(frozen=True)
class Batch:
    """Some samples: one tensor an input of the model, first axis the sample; labels if there are any."""

    inputs: tuple[Tensor, ...]
    labels: Tensor | None

    @property
    def size(self) -> int:
        """Number of samples."""
        return self.inputs[0].shape[0]


class Samples(Protocol):
    """Samples that are read in slices."""

    @property
    def count(self) -> int:
        """Number of samples."""

    @property
    def has_labels(self) -> bool:
        """Whether batches carry labels."""

    def read(self, start: int, stop: int) -> Batch:
        """Samples [start, stop)."""

    def take(self, indices: Sequence[int]) -> Batch:
        """The samples at these indices, in their order."""

    def read_labels(self, start: int, stop: int) -> Tensor:
        """Labels of samples [start, stop), without the inputs; integers come as int64."""


def batches(samples: Samples, batch_size: int) -> Iterator[Batch]:
    """All samples in order; the last batch may be smaller."""
    for start in range(0, samples.count, batch_size):
        yield samples.read(start, min(start + batch_size, samples.count))


@dataclass(frozen=True)
class Dataset:
    """A dataset file bound to a model's inputs."""

    arrays: tuple[StoredArray, ...]
    dtypes: tuple[torch.dtype, ...]
    labels: StoredArray | None
    casts: tuple[str, ...]
    """What is converted while it is read, such as `x from float64 to float32`."""

    @property
    def count(self) -> int:
        """Number of samples."""
        return self.arrays[0].samples

    @property
    def has_labels(self) -> bool:
        """Whether batches carry labels."""
        return self.labels is not None

    def read(self, start: int, stop: int) -> Batch:
        """Samples [start, stop)."""
        labels = self.read_labels(start, stop) if self.has_labels else None
        return self._batch([array.read(start, stop) for array in self.arrays], labels)

    def take(self, indices: Sequence[int]) -> Batch:
        """The samples at these indices, in their order."""
        labels = None if self.labels is None else _as_labels(self.labels.take(indices))
        return self._batch([array.take(indices) for array in self.arrays], labels)

    def read_labels(self, start: int, stop: int) -> Tensor:
        """Labels of samples [start, stop), without the inputs; integers come as int64."""
        assert self.labels is not None
        return _as_labels(self.labels.read(start, stop))

    def _batch(self, inputs: Sequence[NDArray[Any]], labels: Tensor | None) -> Batch:
        tensors = (torch.from_numpy(values).to(dtype) for values, dtype in zip(inputs, self.dtypes, strict=True))
        return Batch(tuple(tensors), labels)


@dataclass(frozen=True)
class InMemorySamples:
    """Samples that are tensors already."""

    inputs: tuple[Tensor, ...]
    labels: Tensor | None = None

    @property
    def count(self) -> int:
        """Number of samples."""
        return self.inputs[0].shape[0]

    @property
    def has_labels(self) -> bool:
        """Whether batches carry labels."""
        return self.labels is not None

    def read(self, start: int, stop: int) -> Batch:
        """Samples [start, stop)."""
        return self.take(range(start, stop))

    def take(self, indices: Sequence[int]) -> Batch:
        """The samples at these indices, in their order."""
        index = torch.as_tensor(indices, dtype=torch.int64)
        return Batch(
            tuple(tensor[index] for tensor in self.inputs), None if self.labels is None else self.labels[index]
        )

    def read_labels(self, start: int, stop: int) -> Tensor:
        """Labels of samples [start, stop), without the inputs."""
        assert self.labels is not None
        return self.labels[start:stop]


@dataclass(frozen=True)
class Subset:
    """Some of other samples, by their indices."""

    samples: Samples
    indices: Sequence[int]

    @property
    def count(self) -> int:
        """Number of samples."""
        return len(self.indices)

    @property
    def has_labels(self) -> bool:
        """Whether batches carry labels."""
        return self.samples.has_labels

    def read(self, start: int, stop: int) -> Batch:
        """Samples [start, stop)."""
        return self.samples.take(self.indices[start:stop])

    def take(self, indices: Sequence[int]) -> Batch:
        """The samples at these indices, in their order."""
        return self.samples.take([self.indices[index] for index in indices])

    def read_labels(self, start: int, stop: int) -> Tensor:
        """Labels of samples [start, stop), without the inputs."""
        wanted = torch.as_tensor(self.indices[start:stop], dtype=torch.int64)
        first = int(wanted.min())
        return self.samples.read_labels(first, int(wanted.max()) + 1)[wanted - first]


def open_dataset(
    path: Path, specs: Sequence[InputSpec], scratch: Path, on_bytes_read: BytesRead = lambda _: None
) -> Dataset:
    """Open a dataset file and bind it to a model's inputs; numbers that these cannot hold are refused here.

    Raises what `open_arrays` raises, and DatasetMismatch, DatasetEmpty, DatasetInconsistent, LabelsMismatch.
    """
    arrays = open_arrays(path, scratch, on_bytes_read)
    labels = None if any(spec.name == LABELS for spec in specs) else arrays.pop(LABELS, None)
    ordered = _in_model_order(arrays, specs)
    _check_counts(arrays, labels)
    casts = []
    for spec, array in zip(specs, ordered, strict=True):
        wanted = dtype_name(spec.dtype)
        if array.dtype_name != wanted:
            casts.append(f"{spec.name} from {array.dtype_name} to {wanted}")
            _check_numbers(array, spec)
    return Dataset(ordered, tuple(spec.dtype for spec in specs), labels, tuple(casts))


def dtype_name(dtype: torch.dtype) -> str:
    """Such as `float32`."""
    return str(dtype).removeprefix("torch.")


def _as_labels(values: NDArray[Any]) -> Tensor:
    return torch.from_numpy(values.astype(np.int64, copy=False) if values.dtype.kind in "iub" else values)


def _in_model_order(arrays: dict[str, StoredArray], specs: Sequence[InputSpec]) -> tuple[StoredArray, ...]:
    names = [spec.name for spec in specs]
    numbers = [str(position) for position in range(len(specs))]
    keys = names if set(arrays) != set(numbers) else numbers
    wrong = []
    for key, spec in zip(keys, specs, strict=True):
        if key not in arrays:
            wrong.append(f"{key!r}: expected {_expected(spec)}, found nothing")
        elif not _shape_fits(arrays[key], spec) or not _dtype_fits(arrays[key], spec):
            found = f"shape {_shape(arrays[key].shape)} {arrays[key].dtype_name}"
            wrong.append(f"{key!r}: expected {_expected(spec)}, found {found}")
    wrong += [
        f"{key!r}: the model has no such input, found shape {_shape(array.shape)} {array.dtype_name}"
        for key, array in arrays.items()
        if key not in keys
    ]
    if wrong:
        raise DatasetMismatch(f"The dataset does not fit the model's inputs. {'; '.join(wrong)}.")
    return tuple(arrays[key] for key in keys)


def _shape_fits(array: StoredArray, spec: InputSpec) -> bool:
    # The first axis counts samples, which are dealt out in batches of the size that the model takes.
    return len(array.shape) == len(spec.shape) >= 1 and all(
        wanted is None or wanted == found for wanted, found in zip(spec.shape[1:], array.shape[1:], strict=True)
    )


def _dtype_fits(array: StoredArray, spec: InputSpec) -> bool:
    """Whether it is the dtype wanted or another of its kind, as `check_fits` has it before the job is accepted."""
    found, wanted = array.dtype_name, dtype_name(spec.dtype)
    if found == wanted or {found, wanted} <= _FLOATS:
        return True
    return array.dtype.kind in "iu" and not spec.dtype.is_floating_point and spec.dtype != torch.bool


def _check_numbers(array: StoredArray, spec: InputSpec) -> None:
    """Read an array that is converted through once more; raises DatasetNotFinite, or DatasetMismatch of an integer."""
    at_once = max(1, _CHECKED_BYTES * array.samples // max(1, array.size_bytes))
    for start in range(0, array.samples, at_once):
        values = array.read(start, min(start + at_once, array.samples)).reshape(-1)
        wrong = np.flatnonzero(_does_not_fit(values, spec.dtype))
        if len(wrong):
            sample = start + int(wrong[0]) * array.samples // math.prod(array.shape)
            wanted = dtype_name(spec.dtype)
            if values.dtype.kind == "f":
                raise DatasetNotFinite(
                    f"Input {spec.name!r} holds {values[wrong[0]]:.4g} in sample {sample}: as {wanted}, which the "
                    "model takes, that is infinite."
                )
            raise DatasetMismatch(
                f"Input {spec.name!r} holds {values[wrong[0]]} in sample {sample}, and the model takes {wanted}."
            )


def _does_not_fit(values: NDArray[Any], dtype: torch.dtype) -> NDArray[np.bool_]:
    if values.dtype.kind == "f":
        finite: NDArray[np.bool_] = torch.from_numpy(values).to(dtype).isfinite().numpy()
        return ~finite
    limits = torch.iinfo(dtype)
    return (values < limits.min) | (values > limits.max)


def _check_counts(arrays: dict[str, StoredArray], labels: StoredArray | None) -> None:
    counts = {key: array.samples for key, array in arrays.items()}
    if min(counts.values()) == 0:
        raise DatasetEmpty
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{key!r} has {count}" for key, count in counts.items())
        raise DatasetInconsistent(f"The arrays do not have the same number of samples: {told}.")
    samples = next(iter(counts.values()))
    if labels is not None and (not labels.shape or labels.samples != samples):
        found = labels.samples if labels.shape else "a single one"
        raise LabelsMismatch(f"There are {samples} samples and {found} labels.")


def _expected(spec: InputSpec) -> str:
    return f"shape {_shape(('N', *spec.shape[1:]))} {dtype_name(spec.dtype)}"


def _shape(shape: Sequence[int | str | None]) -> str:
    return f"({', '.join('any' if size is None else str(size) for size in shape)})"
