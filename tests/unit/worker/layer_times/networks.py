"""Networks whose layers runtimes fuse, split or reorder, each quantized once for every runtime."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Residual(nn.Module):
    """Two fused convolutions around a sum, then a convolution that int8 kernels have no activation for."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.block = nn.ModuleDict(
            {
                "first": nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16)),
                "second": nn.Conv2d(16, 16, 3, padding=1),
            }
        )
        self.last = nn.Conv2d(16, 16, 3, padding=1)
        self.act = nn.SiLU()
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(x + self.block["second"](torch.relu(self.block["first"](x))))
        return self.fc(self.act(self.last(x)).mean((2, 3)))


class Island(nn.Module):
    """A convolution in float between two in int8; ONNX Runtime would quantize it, were it not for what follows it."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Conv2d(8, 8, 3, padding=1)
        self.island = nn.Conv2d(8, 8, 3, padding=1)
        self.after = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(functional.softplus(self.island(torch.relu(self.before(x)))))


class Attention(nn.Module):
    """A block of a transformer on two inputs, one of integers."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(40, 32)
        self.project = nn.Linear(8, 32)
        self.encoder = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dropout=0.0)
        self.head = nn.Linear(32, 5)

    def forward(self, tokens: Tensor, features: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.project(features)
        return self.head(self.encoder(x).mean(1))


class Recurrent(nn.Module):
    """An LSTM and a Linear."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(16, 32, batch_first=True)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.lstm(x)[0][:, -1])
        return found
