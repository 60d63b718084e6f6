"""A small network really trained on handwritten digits, exported once, and folders for jobs on it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

from shared.quantization_spec import spec_adapter
from worker.job_folder import JobFolder, JobInputs

MODEL_ID = "mdl_0123456789abcdef"
DATASET_ID = "dst_0123456789abcdef"
TRAINING_SAMPLES = 1297


class DigitsNet(nn.Module):
    """Two convolutions with batch norm and a classifier: (N, 1, 8, 8) to (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip
        self.classifier = nn.Linear(256, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x).flatten(1))


@dataclass(frozen=True)
class Digits:
    """The trained network's .pt2 and the data it is tried on."""

    model: nn.Module
    program: Path
    training_x: NDArray[np.float32]
    training_y: NDArray[np.int64]
    evaluation_x: NDArray[np.float32]
    evaluation_y: NDArray[np.int64]


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Digits:
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x = (x[order] / 16).reshape(-1, 1, 8, 8).astype(np.float32)
    y = y[order].astype(np.int64)
    model = _trained(torch.from_numpy(x[:TRAINING_SAMPLES]), torch.from_numpy(y[:TRAINING_SAMPLES]))
    program = tmp_path_factory.mktemp("digits") / "model.pt2"
    export(model, (torch.from_numpy(x[:2]),), program)
    return Digits(
        model, program, x[:TRAINING_SAMPLES], y[:TRAINING_SAMPLES], x[TRAINING_SAMPLES:], y[TRAINING_SAMPLES:]
    )


def export(model: nn.Module, inputs: tuple[torch.Tensor, ...], path: Path, *, dynamic: bool = True) -> None:
    """Write the .pt2 that a user would upload."""
    shapes = tuple({0: torch.export.Dim.DYNAMIC} for _ in inputs) if dynamic else None
    program = torch.export.export(model.eval(), inputs, dynamic_shapes=shapes)
    torch.export.save(program, path)


def dataset_id(role: str) -> str:
    """The id of a job's dataset by its role."""
    return f"dst_{role:0<16}"


MakeFolder = Callable[..., JobFolder]


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """Make a job's folder from a .pt2, datasets by role (arrays by key), and the rest of the spec; for torch alone."""

    def make(program: Path, method: str, datasets: dict[str, dict[str, Any]], **spec: Any) -> JobFolder:
        folder = JobFolder(tmp_path / f"job-{len(list(tmp_path.iterdir()))}")
        benchmark = {"max_seconds": 0.02} | spec.pop("benchmark", {})
        wanted = {"method": method, "model": MODEL_ID, "benchmark": benchmark, "runtimes": ["torch"]} | spec
        folder.create(
            JobInputs(
                job_id="job_0123456789abcdef",
                spec=spec_adapter.validate_python(wanted | {role: dataset_id(role) for role in datasets}),
                datasets={role: f"{role}.safetensors" for role in datasets},
                threads=1,
            )
        )
        shutil.copy(program, folder.model)
        for role, arrays in datasets.items():
            plain = {key: np.ascontiguousarray(array) for key, array in arrays.items()}
            save_file(plain, folder.inputs / f"{role}.safetensors")
        return folder

    return make


def _trained(x: torch.Tensor, y: torch.Tensor) -> nn.Module:
    torch.manual_seed(0)
    model = DigitsNet()
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(3):
        for indices in torch.randperm(len(x)).split(32):
            optimizer.zero_grad()
            functional.cross_entropy(model(x[indices]), y[indices]).backward()
            optimizer.step()
    return model.eval()
