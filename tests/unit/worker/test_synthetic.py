"""Random inputs that the model takes."""

from __future__ import annotations

import torch
from torch import fx, nn

from tests.unit.worker.test_datasets import spec
from worker.synthetic import synthesise


class Tokens(nn.Module):
    """Token ids through an embedding, and a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.types = nn.Embedding(3, 4)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        embedded = self.embedding(ids.long()) + self.types(ids[:, :1])
        return embedded * mask.unsqueeze(-1) * weight


SPECS = [spec("ids", (None, 5), torch.int64), spec("mask", (None, 5), torch.bool), spec("weight", (None, 1, 1))]


def test_integers_index_the_smallest_embedding_that_they_reach() -> None:
    samples = synthesise(fx.symbolic_trace(Tokens()), SPECS, 200, seed=0)
    ids, mask, weight = samples.read(0, 200).inputs
    assert set(ids.unique().tolist()) == {0, 1, 2}
    assert mask.all()
    assert (ids.dtype, mask.dtype, weight.dtype) == (torch.int64, torch.bool, torch.float32)
    assert weight.std() > 0.5


def test_free_axes_have_the_size_of_the_export() -> None:
    samples = synthesise(fx.symbolic_trace(nn.ReLU()), [spec("x", (None, 3, None))], 8, seed=0)
    assert samples.read(0, 8).inputs[0].shape == (8, 3, 2)


def test_the_same_seed_gives_the_same_samples() -> None:
    first, second, other = (
        synthesise(fx.symbolic_trace(nn.ReLU()), [spec("x", (None, 3))], 4, seed=seed).inputs[0] for seed in (1, 1, 2)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
