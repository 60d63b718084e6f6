"""QAT on a network narrow enough that static PTQ loses at least three points: how much of the loss does it bring back?

Depthwise separable convolutions of a few channels on scikit-learn's digits, trained to the end in float, then given to
the whole recipe of `method: qat`. Its report holds all three: static PTQ, QAT, and the float model fine-tuned for as
many epochs. Recovered is `(qat - static) / (fine-tuned - static)`, of which two thirds are asked for.

Eight bits do not make even the narrowest of these lose three points; that is measured here too, and said. The loss
comes from weights of few bits (`weight.quant_min`, `weight.quant_max`). Every layer is in int8, in static as in QAT.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from inputs import export_network
from measuring import Result
from numpy.typing import NDArray
from safetensors.numpy import save_file
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[1]))  # the script's own folder is all that is there otherwise

from shared.job_report import JobReport, TrainingResult
from shared.quantization_spec import spec_adapter
from worker import recipes
from worker.job_folder import JobFolder, JobInputs

SEEDS = (0, 1, 2, 3, 4)
WIDTH = 8
TRAINING_SAMPLES = 1100
FLOAT_EPOCHS = 40
QAT: dict[str, Any] = {"epochs": 15, "learning_rate": 2e-3}
TRIALS: dict[str, dict[str, Any]] = {
    "3-bit weights": {"weight": {"quant_min": -4, "quant_max": 3}, "qat": QAT},
    "3-bit weights, learnable scales": {
        "weight": {"quant_min": -4, "quant_max": 3},
        "qat": QAT | {"learnable_scales": True},
    },
    "4-bit weights": {"weight": {"quant_min": -8, "quant_max": 7}, "qat": QAT},
    "8-bit weights": {"qat": QAT},
}
#: Static would keep the layers that cost most in float: both have the same layers in int8 here, all of them.
ALL_INT8 = [{"layer": "*", "precision": "int8"}]
LEAST_LOSS_POINTS = 3.0
LEAST_RECOVERED = 2 / 3


class NarrowNetwork(nn.Module):
    """Depthwise separable blocks: (N, 1, 8, 8) to (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Conv2d(1, WIDTH, 3, padding=1), nn.BatchNorm2d(WIDTH), nn.ReLU()]
        for stride in (2, 1, 2):
            layers += [
                nn.Conv2d(WIDTH, WIDTH, 3, padding=1, stride=stride, groups=WIDTH), nn.BatchNorm2d(WIDTH), nn.ReLU(),
                nn.Conv2d(WIDTH, WIDTH, 1), nn.BatchNorm2d(WIDTH), nn.ReLU(),
            ]  # fmt: skip
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of 10 classes for images of shape (batch, 1, 8, 8)."""
        logits: Tensor = self.classifier(self.features(x))
        return logits


def digits(seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The digits in an order of the seed's own."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(images))
    return (images[order] / 16).reshape(-1, 1, 8, 8).astype(np.float32), labels[order].astype(np.int64)


def trained(images: Tensor, labels: Tensor, seed: int) -> nn.Module:
    """The float network, trained until its rate has fallen to nothing."""
    torch.manual_seed(seed)
    network = NarrowNetwork()
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    steps = FLOAT_EPOCHS * (len(images) // 32)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(FLOAT_EPOCHS):
        order = torch.randperm(len(images))
        for indices in order[: len(images) // 32 * 32].split(32):
            optimizer.zero_grad()
            functional.cross_entropy(network(images[indices]), labels[indices]).backward()
            optimizer.step()
            decay.step()
    return network.eval()


def report_of(program: Path, data: dict[str, dict[str, Any]], seed: int, spec: dict[str, Any]) -> JobReport:
    """Run the whole recipe on a folder of its own."""
    with tempfile.TemporaryDirectory() as directory:
        folder = JobFolder(Path(directory))
        wanted = {
            "method": "qat", "model": "mdl_0000000000000000000000", "seed": seed,
            "overrides": ALL_INT8, "benchmark": {"max_seconds": 0.01},
            "analysis": {"layers": False, "sensitivity_seconds": 0},
        }  # fmt: skip
        roles = dict.fromkeys(data, "dst_0000000000000000000000")
        inputs = JobInputs(
            job_id="job_benchmark",
            spec=spec_adapter.validate_python(wanted | roles | spec),
            datasets={role: f"{role}.safetensors" for role in data},
            threads=1,
        )
        folder.create(inputs)
        shutil.copy(program, folder.model)
        for role, arrays in data.items():
            save_file(arrays, folder.inputs / f"{role}.safetensors")
        return recipes.run(folder, lambda _: None)


def measured(seed: int, trials: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Accuracies in percent of each trial, on a float network and a division of the data of the seed's own."""
    images, labels = digits(seed)
    network = trained(torch.from_numpy(images[:TRAINING_SAMPLES]), torch.from_numpy(labels[:TRAINING_SAMPLES]), seed)
    data = {
        "training": {"x": images[:TRAINING_SAMPLES], "labels": labels[:TRAINING_SAMPLES]},
        "evaluation": {
            "x": np.ascontiguousarray(images[TRAINING_SAMPLES:]),
            "labels": np.ascontiguousarray(labels[TRAINING_SAMPLES:]),
        },
    }
    found = {}
    with tempfile.TemporaryDirectory() as directory:
        program = export_network(Path(directory) / "narrow.pt2", network, torch.randn(2, 1, 8, 8))
        for name, spec in trials.items():
            training = report_of(program, data, seed, spec).training
            assert training is not None
            found[name] = accuracies(training)
            print(seed, name, found[name], flush=True)
    return found


def accuracies(training: TrainingResult) -> dict[str, float]:
    """In percent, on the evaluation data."""
    assert training.static_metric is not None
    assert training.qat_metric is not None
    assert training.finetuned_metric is not None
    return {
        "float": 100 * training.static_metric.float_value,
        "static": 100 * training.static_metric.int8_value,
        "qat": 100 * training.qat_metric.int8_value,
        "finetuned": 100 * training.finetuned_metric,
        "offered_qat": float(training.offered == "qat"),
    }


def main() -> None:
    """Measure every trial over the seeds, print and keep."""
    torch.set_num_threads(1)
    result = Result("qat_recovery")
    by_seed = [measured(seed, TRIALS) for seed in SEEDS]
    for name in TRIALS:
        runs = [each[name] for each in by_seed]
        result.samples[name] = runs
        mean = {key: float(np.mean([run[key] for run in runs])) for key in runs[0]}
        for key in ("float", "finetuned", "static", "qat"):
            result.add(f"{name}: top-1 of {key}, mean of {len(runs)} seeds", mean[key], "%")
        lost = mean["finetuned"] - mean["static"]
        result.add(f"{name}: static PTQ loses against fine-tuned float", lost, "points")
        if lost < LEAST_LOSS_POINTS:
            print(f"{name}: too little is lost here to speak of recovering it")
            continue
        left = (mean["finetuned"] - mean["qat"]) / lost
        result.add(f"{name}: share of the loss that QAT leaves, of the means", left, "", limit=1 - LEAST_RECOVERED)
        worst = max((run["finetuned"] - run["qat"]) / (run["finetuned"] - run["static"]) for run in runs)
        result.add(f"{name}: the same of the worst seed", worst, "")
    result.save()


if __name__ == "__main__":
    main()
