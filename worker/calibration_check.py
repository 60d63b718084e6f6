"""What calibration data looks like before any model sees it: constants, duplicates, and the ranges of the inputs.

NaN, infinity and what the model's dtype cannot hold are refused when the file is opened, by array and sample
(array_files.py, datasets.py). One pass; it keeps a digest of 8 bytes a sample and a few numbers an input.
"""

from __future__ import annotations

import hashlib
import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from shared.job_report import InputCheck
from worker.datasets import Samples, batches

_DIGEST_BYTES = 8


@dataclass
class InputTally:
    """What was seen of one input."""

    name: str
    is_float: bool
    min: float = math.inf
    max: float = -math.inf
    values: int = 0
    constant: bool = True  #: whether every sample equals the first
    _first: bytes | None = None

    def add(self, tensor: Tensor) -> None:
        """Take a batch in."""
        rows = tensor.reshape(tensor.shape[0], -1)
        if rows.numel() == 0:
            return
        self.values += rows.numel()
        self._compare(rows)
        least, greatest = torch.aminmax(rows.byte() if rows.dtype is torch.bool else rows)
        self.min, self.max = min(self.min, float(least)), max(self.max, float(greatest))

    def count_outside(self, tensor: Tensor) -> int:
        """How many values of another batch lie outside of the range seen."""
        return int(((tensor < self.min) | (tensor > self.max)).sum())

    def _compare(self, rows: Tensor) -> None:
        if self.constant:
            digests = {_digest([row]) for row in rows}
            self._first = self._first or _digest([rows[0]])
            self.constant = digests == {self._first}


class DataCheck:
    """Looks at samples as they stream by: `add` each batch, in order."""

    def __init__(self, names: Sequence[str], dtypes: Sequence[torch.dtype]) -> None:
        self.inputs = [InputTally(name, dtype.is_floating_point) for name, dtype in zip(names, dtypes, strict=True)]
        self.samples = 0
        self._digests = array("Q")

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Take a batch in."""
        for tally, tensor in zip(self.inputs, tensors, strict=True):
            tally.add(tensor)
        for rows in zip(*tensors, strict=True):
            self._digests.append(int.from_bytes(_digest(rows), "little"))
        self.samples += tensors[0].shape[0]

    @property
    def duplicates(self) -> int:
        """Samples that equal an earlier one in every input."""
        return self.samples - len(np.unique(np.frombuffer(self._digests, dtype=np.uint64)))


@dataclass(frozen=True)
class Comparison:
    """One input in the evaluation data against the calibration data."""

    outside: float | None  #: share of the evaluation values outside of the calibration range
    min: float  #: of the evaluation data
    max: float
    constant: bool

    @property
    def width(self) -> float:
        """Of the evaluation data's range."""
        return self.max - self.min


def compare_with(check: DataCheck, evaluation: Samples, batch_size: int) -> list[Comparison]:
    """Every input of the evaluation data against what the check has seen; one pass, without the model."""
    outside = [0] * len(check.inputs)
    seen = [InputTally(tally.name, tally.is_float) for tally in check.inputs]
    for batch in batches(evaluation, batch_size):
        for index, tensor in enumerate(batch.inputs):
            seen[index].add(tensor)
            outside[index] += check.inputs[index].count_outside(tensor)
    return [
        Comparison(count / tally.values if tally.values else None, tally.min, tally.max, tally.constant)
        for count, tally in zip(outside, seen, strict=True)
    ]


def input_checks(check: DataCheck, comparisons: Sequence[Comparison] | None) -> list[InputCheck]:
    """The report's line for each input."""
    return [
        InputCheck(
            name=tally.name,
            constant=tally.constant,
            min=tally.min if tally.values else None,
            max=tally.max if tally.values else None,
            evaluation_outside=None if comparisons is None else comparisons[index].outside,
        )
        for index, tally in enumerate(check.inputs)
    ]


def _digest(tensors: Sequence[Tensor]) -> bytes:
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for tensor in tensors:
        digest.update(tensor.reshape(-1).contiguous().view(torch.uint8).numpy().data)
    return digest.digest()
