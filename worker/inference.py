"""Running a model, float or int8, on a batch: flat outputs, fixed batch sizes, and errors that are the model's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from shared.errors import ModelFailed, ModelUnsupported
from worker.datasets import Samples, dtype_name
from worker.quantization import InputSpec

TRACED_SAMPLES = 2  #: one would let a batch of one be taken for a constant
_USUAL_BATCH_SIZE = 32
_USUAL_BATCH_BYTES = 64 * 1024**2  # of inputs; the activations are many times that

Model = Callable[..., Any]


@dataclass(frozen=True)
class BatchRange:
    """The batch sizes that a model takes."""

    low: int
    high: int

    @property
    def fixed(self) -> int | None:
        """The only size that it takes; None when there are several."""
        return self.low if self.low == self.high else None

    def clamp(self, size: int) -> int:
        """The nearest size that it takes."""
        return max(self.low, min(self.high, size))


@dataclass(frozen=True)
class Reference:
    """What candidates are held against, and how they all are fed."""

    run: Model
    outputs: Sequence[str]
    batch: BatchRange
    """The batch sizes that all of them take."""
    batch_size: int
    """What passes over data use."""


def batch_range(specs: Sequence[InputSpec]) -> BatchRange:
    """The batch sizes that a model with these inputs takes.

    Raises ModelUnsupported when an input has no first axis, or the first axes exclude each other.
    """
    if any(not spec.shape for spec in specs):
        raise ModelUnsupported("Every input of the model must be a tensor whose first axis is the sample.")
    # Export starts every free dimension at 2, for it treats 0 and 1 apart: that is no wish of the model.
    low = max(1 if spec.bounds[0][0] == 2 and spec.shape[0] is None else spec.bounds[0][0] for spec in specs)
    high = min(spec.bounds[0][1] for spec in specs)
    if low > high:
        sizes = ", ".join(f"{spec.name} {spec.shape[0] or 'any'}" for spec in specs)
        raise ModelUnsupported(f"The first axes of the model's inputs are not one batch: {sizes}.")
    return BatchRange(low, high)


def usual_batch_size(batch: BatchRange, sample_bytes: int) -> int:
    """The batch size for passes over data: at most 32 samples and 64 MiB of inputs, if the model takes that."""
    return batch.clamp(max(1, min(_USUAL_BATCH_SIZE, _USUAL_BATCH_BYTES // max(1, sample_bytes))))


def run_model(model: Model, inputs: Sequence[Tensor], batch: BatchRange) -> list[Tensor]:
    """The model's output tensors, in order.

    Fewer samples than the model takes are filled up with the last one, and the outputs are cut again. Raises
    ModelFailed when the model raises.
    """
    samples = inputs[0].shape[0]
    padded = padded_to(inputs, batch.low)
    try:
        outputs = [leaf for leaf in pytree.tree_leaves(model(*padded)) if isinstance(leaf, Tensor)]
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        shapes = ", ".join(f"{tuple(tensor.shape)} {dtype_name(tensor.dtype)}" for tensor in padded)
        raise ModelFailed(f"The model raised on inputs {shapes}: {_message(error)}") from error
    if samples >= batch.low:
        return outputs
    return [output[:samples] if output.ndim and output.shape[0] == batch.low else output for output in outputs]


def padded_to(inputs: Sequence[Tensor], samples: int) -> tuple[Tensor, ...]:
    """The inputs, filled up to this many samples with the last one."""
    missing = samples - inputs[0].shape[0]
    if missing <= 0:
        return tuple(inputs)
    return tuple(torch.cat([tensor, tensor[-1:].expand(missing, *tensor.shape[1:])]) for tensor in inputs)


def batch_of(samples: Samples, size: int) -> tuple[Tensor, ...]:
    """The first so many samples; the last one again and again where there are too few."""
    return padded_to(samples.read(0, min(size, samples.count)).inputs, size)


def sample_bytes(inputs: Sequence[Tensor]) -> int:
    """Of one sample in all inputs."""
    return sum(math.prod(tensor.shape[1:]) * tensor.element_size() for tensor in inputs)


def _message(error: Exception) -> str:
    # TorchScript puts a trace around the error; its own last line is the message.
    lines = [line for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if "TorchScript" in str(error) else lines[0])[:500] if lines else type(error).__name__
