"""EmbeddingBag in int8: what the kernel leaves out is done around it.

`quantized::embedding_bag_byte` of torch 2.13 takes a mode and always sums, and knows no padding: a mean came out as the
sum, at −16 dB, without a word. A row stands for itself: 8 bits, a scale and a zero point of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.ao.nn import quantized as nnq
from torch.ao.quantization import float_qparams_weight_only_qconfig
from torch.nn import functional as F  # noqa: N812 - its name everywhere


class QuantizedBag(nn.Module):
    """Sums or means of int8 rows, as `nn.EmbeddingBag` gives them; called as that is, with offsets."""

    def __init__(self, replaced: nn.EmbeddingBag) -> None:
        super().__init__()
        replaced.qconfig = float_qparams_weight_only_qconfig  # type: ignore[assignment]  # how torch.ao is told
        self.rows = nnq.EmbeddingBag.from_float(replaced)
        self._is_mean = replaced.mode == "mean"
        self._padding = replaced.padding_idx
        self._include_last_offset = replaced.include_last_offset

    @classmethod
    def from_float(cls, replaced: nn.EmbeddingBag) -> QuantizedBag:
        """By the name that torch.ao's layers have for it."""
        return cls(replaced)

    def forward(self, indices: Tensor, offsets: Tensor, weights: Tensor | None = None) -> Tensor:
        """Indices (n,), the bags' first positions (bags,), and a factor for each index (n,), to (bags, width)."""
        indices, offsets = indices.long(), offsets.long()
        counted = torch.ones_like(indices) if self._padding is None else (indices != self._padding).long()
        if self._padding is not None:
            weights = counted.float() if weights is None else weights * counted
        sums: Tensor = self.rows(indices, offsets, weights)
        return sums / self._sizes(counted, offsets)[:, None] if self._is_mean else sums

    def _sizes(self, counted: Tensor, offsets: Tensor) -> Tensor:
        """How many indices each bag has, padding left out; at least 1, for an empty bag's mean is 0."""
        before = F.pad(torch.cumsum(counted, 0), (1, 0))
        starts, ends = before[offsets], before[offsets[1:]]
        if self._include_last_offset:
            starts = starts[:-1]
        else:
            ends = torch.cat([ends, before[-1:]])
        return (ends - starts).clamp(min=1)
