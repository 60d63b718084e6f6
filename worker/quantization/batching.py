"""The same inputs at another batch size, to see that nothing took the batch for a constant."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from worker.quantization.loading import InputSpec


def other_batches(specs: Sequence[InputSpec], inputs: tuple[Tensor, ...]) -> list[tuple[Tensor, ...]]:
    """The inputs with their samples doubled, or cut where no more are allowed; nothing if the batch is fixed."""
    batched = [spec.batch_symbol is not None for spec in specs]
    if not any(batched):
        return []
    size = inputs[batched.index(True)].shape[0]
    low = max(spec.bounds[0][0] for spec in specs if spec.batch_symbol)
    high = min(spec.bounds[0][1] for spec in specs if spec.batch_symbol)
    if 2 * size <= high:
        return [tuple(torch.cat([t, t.flip(0)]) if b else t for t, b in zip(inputs, batched, strict=True))]
    if size > low:
        return [tuple(t[:low] if b else t for t, b in zip(inputs, batched, strict=True))]
    return []
