"""QAT on networks narrow enough that static PTQ loses at least three points: how much of the loss does it bring back?

Two networks of few channels, one of depthwise separable convolutions and one of inverted residuals, trained to the end
on scikit-learn's digits in float, then given to the whole recipe of `method: qat`. Its report holds all three: static
PTQ, QAT, and the float model fine-tuned for as many epochs. Recovered is `(qat - static) / (fine-tuned - static)`, of
which two thirds are asked for.

Every seed has a float network, a division of the data and a training of its own. 697 images are held out, so one image
is 0.14 points, and of a single seed the share says little: it is taken of the means over all seeds, with the interval
that drawing other seeds would give.

Eight bits do not make even the narrowest of these lose three points; that is measured here too, and said. The loss
comes from weights of few bits (`weight.quant_min`, `weight.quant_max`). Every layer is in int8, in static as in QAT.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from inputs import export_network, job_folder
from measuring import Result
from numpy.typing import NDArray
from safetensors.numpy import save_file
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[1]))  # the script's own folder is all that is there otherwise

from shared.job_report import JobReport, TrainingResult
from worker import recipes

SEEDS = tuple(range(10))
TRAINING_SAMPLES = 1100
FLOAT_EPOCHS = 40
QAT: dict[str, Any] = {"epochs": 15, "learning_rate": 2e-3}
THREE_BITS: dict[str, Any] = {"weight": {"quant_min": -4, "quant_max": 3}}
#: Static would keep the layers that cost most in float: both have the same layers in int8 here, all of them.
ALL_INT8 = [{"layer": "*", "precision": "int8"}]
LEAST_LOSS_POINTS = 3.0
LEAST_RECOVERED = 2 / 3
DRAWS = 10_000


class Separable(nn.Module):
    """Depthwise separable blocks, 8 channels: (N, 1, 8, 8) to (N, 10)."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        layers = [nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        for stride in (2, 1, 2):
            layers += [
                nn.Conv2d(width, width, 3, padding=1, stride=stride, groups=width), nn.BatchNorm2d(width), nn.ReLU(),
                nn.Conv2d(width, width, 1), nn.BatchNorm2d(width), nn.ReLU(),
            ]  # fmt: skip
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of 10 classes for images of shape (batch, 1, 8, 8)."""
        logits: Tensor = self.classifier(self.features(x))
        return logits


class InvertedResiduals(nn.Module):
    """A MobileNetV2 of 6 channels, 18 inside its blocks: (N, 1, 8, 8) to (N, 10)."""

    def __init__(self, width: int = 6, inside: int = 18) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU6())
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, inside, 1, bias=False), nn.BatchNorm2d(inside), nn.ReLU6(),
                nn.Conv2d(inside, inside, 3, padding=1, stride=stride, groups=inside, bias=False),
                nn.BatchNorm2d(inside), nn.ReLU6(),
                nn.Conv2d(inside, width, 1, bias=False), nn.BatchNorm2d(width),
            )
            for stride in (1, 2, 1)
        )  # fmt: skip
        self.classifier = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of 10 classes for images of shape (batch, 1, 8, 8)."""
        x = self.stem(x)
        for block in self.blocks:
            changed = block(x)
            x = x + changed if changed.shape == x.shape else changed
        logits: Tensor = self.classifier(x.mean((2, 3)))
        return logits


NETWORKS: dict[str, type[nn.Module]] = {"separable": Separable, "inverted residuals": InvertedResiduals}


@dataclass(frozen=True)
class Trial:
    """What a network is asked to become; `limited`: two thirds of what static loses are asked for."""

    network: str
    spec: dict[str, Any]
    limited: bool = False


TRIALS = {
    "separable, 3-bit weights": Trial("separable", THREE_BITS | {"qat": QAT}, limited=True),
    "separable, 3-bit weights, learnable scales": Trial(
        "separable", THREE_BITS | {"qat": QAT | {"learnable_scales": True}}
    ),
    "separable, 8-bit weights": Trial("separable", {"qat": QAT}),
    "inverted residuals, 3-bit weights": Trial("inverted residuals", THREE_BITS | {"qat": QAT}, limited=True),
}


def digits(seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The digits in an order of the seed's own."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(images))
    return (images[order] / 16).reshape(-1, 1, 8, 8).astype(np.float32), labels[order].astype(np.int64)


def trained(made: type[nn.Module], images: Tensor, labels: Tensor, seed: int) -> nn.Module:
    """The float network, trained until its rate has fallen to nothing."""
    torch.manual_seed(seed)
    network = made()
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
    wanted = {
        "method": "qat", "model": "mdl_0000000000000000000000", "seed": seed, "runtimes": ["torch"],
        "overrides": ALL_INT8, "benchmark": {"max_seconds": 0.01},
        "analysis": {"layers": False, "sensitivity_seconds": 0},
    }  # fmt: skip
    roles = dict.fromkeys(data, "dst_0000000000000000000000")
    with job_folder(program, wanted | roles | spec) as folder:
        for role, arrays in data.items():
            save_file(arrays, folder.inputs / f"{role}.safetensors")
        return recipes.run(folder, lambda _: None)


def measured(seed: int) -> dict[str, dict[str, float]]:
    """Accuracies in percent of each trial, on float networks and a division of the data of the seed's own."""
    images, labels = digits(seed)
    learnt = slice(TRAINING_SAMPLES)
    held_out = slice(TRAINING_SAMPLES, None)
    data = {
        role: {"x": np.ascontiguousarray(images[part]), "labels": np.ascontiguousarray(labels[part])}
        for role, part in (("training", learnt), ("evaluation", held_out))
    }
    found = {}
    with tempfile.TemporaryDirectory() as directory:
        programs = {
            name: export_network(
                Path(directory) / f"{name}.pt2",
                trained(made, torch.from_numpy(images[learnt]), torch.from_numpy(labels[learnt]), seed),
                torch.randn(2, 1, 8, 8),
            )
            for name, made in NETWORKS.items()
        }
        for name, trial in TRIALS.items():
            training = report_of(programs[trial.network], data, seed, trial.spec).training
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


def left_of(runs: Sequence[dict[str, float]]) -> float:
    """The share of what static loses that QAT loses too, of the means over the runs."""
    lost, still_lost = (sum(run["finetuned"] - run[kind] for run in runs) for kind in ("static", "qat"))
    return still_lost / lost


def interval(runs: Sequence[dict[str, float]]) -> tuple[float, float]:
    """Where 95 % of such shares lie when the seeds are drawn anew, with replacement (Efron's percentile bootstrap)."""
    draws = np.random.default_rng(0).integers(len(runs), size=(DRAWS, len(runs)))
    low, high = np.quantile([left_of([runs[each] for each in draw]) for draw in draws], [0.025, 0.975])
    return float(low), float(high)


def tell(result: Result, name: str, runs: list[dict[str, float]], *, limited: bool) -> None:
    """The figures of one trial."""
    result.samples[name] = runs
    mean = {key: float(np.mean([run[key] for run in runs])) for key in runs[0]}
    for key in ("float", "finetuned", "static", "qat"):
        result.add(f"{name}: top-1 of {key}, mean of {len(runs)} seeds", mean[key], "%")
    result.add(f"{name}: share of the seeds in which QAT is offered", mean["offered_qat"], "")
    lost = mean["finetuned"] - mean["static"]
    result.add(f"{name}: static PTQ loses against fine-tuned float", lost, "points")
    if limited:
        missing = max(0.0, LEAST_LOSS_POINTS - lost)
        result.add(f"{name}: that is less than {LEAST_LOSS_POINTS:g} points by", missing, "points", limit=0.0)
    if lost < LEAST_LOSS_POINTS:
        print(f"{name}: too little is lost here to speak of recovering it")
        return
    low, high = interval(runs)
    limit = 1 - LEAST_RECOVERED if limited else None
    result.add(f"{name}: share of the loss that QAT leaves, of the means", left_of(runs), "", limit=limit)
    result.add(f"{name}: the same, lower end of its 95 % interval over seeds", low, "")
    result.add(f"{name}: the same, upper end", high, "")


def main() -> None:
    """Measure every trial over the seeds, print and keep."""
    torch.set_num_threads(1)
    result = Result("qat_recovery")
    by_seed = [measured(seed) for seed in SEEDS]
    for name, trial in TRIALS.items():
        tell(result, name, [each[name] for each in by_seed], limited=trial.limited)
    result.save()


if __name__ == "__main__":
    main()
