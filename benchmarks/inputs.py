"""What the benchmarks send: small networks, datasets of any size written without holding them in memory, whole jobs."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from worker.job_folder import JobFolder, JobInputs

_CHUNK_SAMPLES = 1024


class DigitsNetwork(nn.Module):
    """A convolutional network for 8 × 8 grey images, as in the demo."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        )  # fmt: skip
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of 10 classes for images of shape (batch, 1, 8, 8)."""
        logits: torch.Tensor = self.classifier(self.features(x))
        return logits


class LightNetwork(nn.Module):
    """Few operations on large samples: what is measured is the data's way through, not the arithmetic."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 8, 8, stride=8), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU())
        self.classifier = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of 10 classes for images of shape (batch, 1, height, width)."""
        logits: torch.Tensor = self.classifier(self.features(x).mean((2, 3)))
        return logits


def export_network(path: Path, network: nn.Module, example: torch.Tensor) -> Path:
    """Write the network as .pt2 with a dynamic batch."""
    torch.manual_seed(0)
    program = torch.export.export(network.eval(), (example,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    torch.export.save(program, path)
    return path


def digits_network(path: Path) -> Path:
    """The digits network, untrained: only its time matters here."""
    return export_network(path, DigitsNetwork(), torch.randn(2, 1, 8, 8))


def digits_dataset(path: Path) -> Path:
    """scikit-learn's handwritten digits with labels, as .npz."""
    images, labels = load_digits(return_X_y=True)
    np.savez(path, x=(images.reshape(-1, 1, 8, 8) / 16).astype(np.float32), labels=labels.astype(np.int64))
    return path


def random_dataset(path: Path, samples: int, shape: tuple[int, ...], *, seed: int = 0) -> Path:
    """`samples` random float32 arrays of this shape under the key `x`, as .safetensors."""
    sample_bytes = 4 * int(np.prod(shape))
    entry = {"dtype": "F32", "shape": [samples, *shape], "data_offsets": [0, samples * sample_bytes]}
    header = json.dumps({"x": entry}).encode()
    header += b" " * (-len(header) % 8)
    random = np.random.default_rng(seed)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for start in range(0, samples, _CHUNK_SAMPLES):
            count = min(_CHUNK_SAMPLES, samples - start)
            file.write(random.standard_normal((count, *shape), dtype=np.float32).tobytes())
    return path


@contextmanager
def job_folder(model: Path, spec: dict[str, Any], *, threads: int = 1) -> Iterator[JobFolder]:
    """A new folder with the model and what is asked, as the service makes it; a data set is <role>.safetensors."""
    datasets = {role: f"{role}.safetensors" for role in ("calibration", "evaluation", "training") if role in spec}
    asked = {"job_id": "job_benchmark", "spec": spec, "datasets": datasets, "threads": threads}
    with tempfile.TemporaryDirectory() as directory:
        folder = JobFolder(Path(directory))
        folder.create(JobInputs.model_validate(asked))
        folder.model.write_bytes(model.read_bytes())
        yield folder


@contextmanager
def static_job(
    model: Path, shape: tuple[int, ...], *, calibration: int, evaluation: int, **asked: Any
) -> Iterator[JobFolder]:
    """The folder of a static job on so many random samples of this shape, with the rest of the spec as asked."""
    spec = {
        "method": "static",
        "model": "mdl_0000000000000000000000",
        "calibration": "dst_0000000000000000000000",
        "evaluation": "dst_0000000000000000000001",
        **asked,
    }
    with job_folder(model, spec) as folder:
        random_dataset(folder.inputs / "calibration.safetensors", calibration, shape)
        random_dataset(folder.inputs / "evaluation.safetensors", evaluation, shape, seed=1)
        yield folder
