"""Input that no recipe can serve: each a clear error of its own, before anything is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shared.errors import (
    DatasetCorrupt,
    DatasetEmpty,
    DatasetMismatch,
    DatasetNotFinite,
    LabelsMismatch,
    LabelsUnusable,
    ModelFailed,
    OctavoError,
)
from tests.unit.worker.conftest import Digits, MakeFolder, export
from worker import recipes
from worker.job_folder import JobFolder


def run(folder: JobFolder) -> None:
    recipes.run(folder, lambda _: None)


def bad(digits: Digits, **evaluation_arrays: Any) -> dict[str, dict[str, Any]]:
    return {"evaluation": {"x": digits.evaluation_x[:8]} | evaluation_arrays}


@pytest.mark.parametrize(
    ("arrays", "error", "told"),
    [
        (
            {"x": np.zeros((8, 1, 9, 9), np.float32)},
            DatasetMismatch,
            r"Evaluation data: .*expected shape \(N, 1, 8, 8\)",
        ),
        ({"y": np.zeros((8, 1), np.float32)}, DatasetMismatch, "the model has no such input"),
        ({"x": np.zeros((8, 1, 8, 8), np.uint8)}, DatasetMismatch, r"found shape .* uint8"),
        ({"x": np.zeros((0, 1, 8, 8), np.float32)}, DatasetEmpty, r"Evaluation data: .*no samples"),
        (
            {"x": np.full((8, 1, 8, 8), np.nan, np.float32)},
            DatasetNotFinite,
            "Evaluation data: Array 'x' holds 512 NaN",
        ),
        ({"labels": np.arange(7)}, LabelsMismatch, "8 samples and 7 labels"),
        ({"labels": np.full(8, 10)}, LabelsUnusable, "[A-Z][a-z]+ data: 8 labels are not among the model's 10 classes"),
        ({"labels": np.array([0, 1, 2, -1, 4, 5, 6, 7])}, LabelsUnusable, "the first is -1, of sample 3"),
    ],
)
def test_data_that_does_not_serve_is_refused(
    arrays: dict[str, Any], error: type[OctavoError], told: str, digits: Digits, make_folder: MakeFolder
) -> None:
    folder = make_folder(digits.program, "dynamic", bad(digits, **arrays))
    with pytest.raises(error, match=told):
        run(folder)
    assert not list(folder.outputs.iterdir())


@pytest.mark.parametrize(
    ("metric", "labels", "told"),
    [
        ("top1", np.zeros(8), "needs integer class labels"),
        ("top5", np.zeros((8, 10), np.int64), "needs integer class labels"),
        ("mse", np.zeros(8), "gives 10 values a sample, the labels have 1"),
        ("top1", None, "the evaluation data has no labels"),
    ],
)
def test_labels_that_do_not_fit_the_metric_asked_for_are_refused(
    metric: str, labels: Any, told: str, digits: Digits, make_folder: MakeFolder
) -> None:
    more = {} if labels is None else {"labels": labels}
    with pytest.raises(LabelsUnusable, match=told):
        run(make_folder(digits.program, "dynamic", bad(digits, **more), metric=metric))


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_a_loss_without_its_labels_is_refused_before_training(
    loss: str, digits: Digits, make_folder: MakeFolder
) -> None:
    data = {"training": {"x": digits.training_x[:64]}}
    with pytest.raises(LabelsUnusable, match=f"The loss {loss} needs labels"):
        run(make_folder(digits.program, "qat", data, qat={"loss": loss}))


def test_a_corrupt_dataset_is_named_by_its_role(digits: Digits, make_folder: MakeFolder) -> None:
    data = {"calibration": {"x": digits.training_x[:32]}, "evaluation": {"x": digits.evaluation_x[:32]}}
    folder = make_folder(digits.program, "static", data)
    path = folder.inputs / "calibration.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DatasetCorrupt, match="Calibration data: "):
        run(folder)


def test_inputs_that_the_model_itself_refuses_are_the_models_failure(make_folder: MakeFolder, tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Embedding(10, 4), torch.nn.Flatten(), torch.nn.Linear(12, 2))
    export(model, (torch.zeros(2, 3, dtype=torch.int64),), tmp_path / "tokens.pt2")
    data = {"evaluation": {"input": np.full((4, 3), 10)}}
    with pytest.raises(ModelFailed):
        run(make_folder(tmp_path / "tokens.pt2", "dynamic", data))


def test_a_float_output_that_is_not_finite_is_the_models_failure(make_folder: MakeFolder, tmp_path: Path) -> None:
    class Logarithm(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.log(self.linear(x) * 0)

    export(Logarithm(), (torch.ones(2, 4),), tmp_path / "log.pt2")
    data = {"evaluation": {"x": np.ones((8, 4), np.float32), "labels": np.zeros(8)}}
    with pytest.raises(ModelFailed, match="The float model's output is not finite on this data: mse is"):
        run(make_folder(tmp_path / "log.pt2", "dynamic", data))
