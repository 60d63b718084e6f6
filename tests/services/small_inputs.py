"""A small convolutional network and data for it: enough for a job to run, quick to run it."""

from pathlib import Path

import numpy as np
import torch
from torch import nn


def write_model(path: Path, *, width: int = 8) -> Path:
    """A .pt2 of a convolutional network with batch norm: input `x` of (N, 1, 8, 8), 10 classes."""
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
                nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            )  # fmt: skip
            self.head = nn.Linear(width, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.body(x).mean((2, 3)))

    net = Net().eval()
    batch = torch.export.Dim.DYNAMIC
    program = torch.export.export(net, (torch.randn(2, 1, 8, 8),), dynamic_shapes=({0: batch},))
    torch.export.save(program, path)
    return path


def write_dataset(path: Path, *, samples: int = 64, labels: bool = True, seed: int = 0) -> Path:
    """An .npz of random images for that network."""
    generator = np.random.default_rng(seed)
    arrays = {"x": generator.standard_normal((samples, 1, 8, 8), dtype=np.float32)}
    if labels:
        arrays["labels"] = generator.integers(0, 10, samples)
    np.savez(path, **arrays)
    return path
