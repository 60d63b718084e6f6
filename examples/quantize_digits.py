"""The main job through the SDK: a network trained here, quantized by all three methods, with the proof.

Needs a running server (`octavo-server up`; OCTAVO_URL and OCTAVO_API_KEY say where), torch and scikit-learn:

    python examples/quantize_digits.py [directory for the results]

`examples/demo.py` starts a server around it.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

import octavo

# By what each needs here, where the results are: the worker may have had more.
EXAMPLES = {
    "torch": "load_example.py",
    "onnxruntime": "load_example_onnxruntime.py",
    "openvino": "load_example_openvino.py",
}


@dataclass(frozen=True)
class Digits:
    """Handwritten digits, 8×8 pixels in 0..1, and what they show."""

    images: torch.Tensor
    labels: torch.Tensor

    def batches(self, size: int, generator: torch.Generator) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """All of them once, in random order."""
        for chosen in torch.randperm(len(self.images), generator=generator).split(size):
            yield self.images[chosen], self.labels[chosen]


def load() -> tuple[Digits, Digits]:
    """1200 digits to train on, and 597 that training never sees."""
    bunch = load_digits()
    split = train_test_split(bunch.images, bunch.target, train_size=1200, stratify=bunch.target, random_state=0)
    train_images, test_images = (torch.tensor(images, dtype=torch.float32)[:, None] / 16 for images in split[:2])
    train_labels, test_labels = (torch.tensor(labels) for labels in split[2:])
    return Digits(train_images, train_labels), Digits(test_images, test_labels)


def make_network() -> nn.Module:
    """A plain convolutional network, as anybody would write it."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 128, 3, padding=1), nn.BatchNorm2d(128), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(128, 128, 3, padding=1), nn.BatchNorm2d(128), nn.ReLU(),
        nn.Conv2d(128, 128, 3, padding=1), nn.BatchNorm2d(128), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(512, 128), nn.ReLU(), nn.Dropout(0.2),
        nn.Linear(128, 10),
    )  # fmt: skip


def train(network: nn.Module, digits: Digits, *, epochs: int = 5) -> None:
    """Adam with a falling learning rate."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    network.train()
    for _ in range(epochs):
        for images, labels in digits.batches(64, generator):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images), labels).backward()
            optimizer.step()
        schedule.step()
    network.eval()


def trained_network(digits: Digits) -> nn.Module:
    """The network after a few seconds of training; the same one every time on the same machine."""
    torch.manual_seed(0)
    network = make_network()
    train(network, digits)
    return network


def quantize(client: octavo.Client, network: nn.Module, train_set: Digits, test_set: Digits) -> list[octavo.Job]:
    """Upload once, submit three jobs, wait for each."""
    model = client.models.upload(network, train_set.images[:2], name="digits")
    name = model.inputs[0].name
    calibration = client.datasets.upload({name: train_set.images[:200]}, name="digits calibration")
    training = client.datasets.upload({name: train_set.images}, labels=train_set.labels, name="digits training")
    evaluation = client.datasets.upload({name: test_set.images}, labels=test_set.labels, name="digits evaluation")
    jobs = [
        client.jobs.quantize(model, "dynamic", evaluation=evaluation, name="digits dynamic"),
        client.jobs.quantize(model, "static", calibration=calibration, evaluation=evaluation, name="digits static"),
        client.jobs.quantize(
            model,
            "qat",
            training=training,
            calibration=calibration,
            evaluation=evaluation,
            qat={"epochs": 2, "learning_rate": 1e-4, "batch_size": 64},
            name="digits qat",
        ),
    ]
    for job in jobs:
        print(f"{job.name}: {job.id}", flush=True)
        job.wait()
    return jobs


def check_artifacts(job: octavo.Job, directory: Path) -> None:
    """Download what the job made, hold it against its own manifest, and run the examples that came with it."""
    paths = job.artifacts.download(directory)
    for line in paths["SHA256SUMS"].read_text().splitlines():
        expected, name = line.split(maxsplit=1)
        actual = hashlib.sha256((directory / name.lstrip("*")).read_bytes()).hexdigest()
        if actual != expected:
            raise SystemExit(f"{directory / name} is not what SHA256SUMS says")
    print(f"\n{job.name}: {len(paths)} artifacts in {directory}, every SHA-256 is right")
    for runtime, name in EXAMPLES.items():
        if name in paths and find_spec(runtime) is not None:
            run_example(directory, name)


def run_example(directory: Path, name: str) -> None:
    """Show what it prints, in a process of its own."""
    example = subprocess.run([sys.executable, name], cwd=directory, capture_output=True, text=True, check=False)
    if example.returncode:
        raise SystemExit(f"{directory / name} failed:\n{example.stderr}")
    print(f"{name} says:\n  " + example.stdout.strip().replace("\n", "\n  "))


def run(client: octavo.Client, directory: Path, network: nn.Module, train_set: Digits, test_set: Digits) -> None:
    """The whole job, on a server that runs."""
    jobs = quantize(client, network, train_set, test_set)
    print(f"\n{octavo.compare(jobs).figures()}")
    for job in jobs:
        check_artifacts(job, directory / job.report.method)


def main() -> None:
    """Train, quantize, compare, check."""
    directory = Path(sys.argv[1] if len(sys.argv) > 1 else "octavo-digits")
    train_set, test_set = load()
    network = trained_network(train_set)
    with octavo.Client() as client:
        run(client, directory, network, train_set, test_set)


if __name__ == "__main__":
    main()
