"""The same inputs at another batch size, to see that nothing took the batch for a constant."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from worker.quantization.loading import InputSpec


def other_batches(specs: Sequence[InputSpec], inputs: tuple[Tensor, ...]) -> list[tuple[Tensor, ...]]:
    """The inputs with their samples reversed and repeated, or cut where no more are allowed; none if the batch is fixed."""
    symbol = next((spec.batch_symbol for spec in specs if spec.batch_symbol), None)
    if symbol is None:
        return []
    batched = [spec.batch_symbol == symbol for spec in specs]
    first = batched.index(True)
    size, (low, high) = inputs[first].shape[0], specs[first].bounds[0]
    if 2 * size <= high:
        return [tuple(torch.cat([t, t.flip(0)]) if b else t for t, b in zip(inputs, batched, strict=True))]
    if size > low:
        return [tuple(t[:low] if b else t for t, b in zip(inputs, batched, strict=True))]
    return []
