"""Why freezing batch norm did harm, and which schedule does none: the tables of docs/decisions/0013.

A small convolutional network on scikit-learn's digits, trained in float, then for four epochs with fake quantize, by
schedules that differ in how the learning rate falls and when batch norm is frozen. For each: top-1 of the int8 model,
the lowest top-1 (fake quantize) in the 24 steps after the freeze, and the gradient's norm before and after it.
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import Result, median
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.ao.quantization import (  # noqa: TID251 - torch's own fake quantize, which is held against ours
    FusedMovingAvgObsFakeQuantize,
    MovingAveragePerChannelMinMaxObserver,
)
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[1]))  # the script's own folder is all that is there otherwise

from shared.quantization_spec import QatSpec
from worker.quantization import convert, freeze_batch_norm, freeze_observers, plan, prepare_qat, qconfigs, raise_program
from worker.training_schedule import TrainingSchedule

SEEDS = (0, 1, 2, 3)
TRAINING_SAMPLES = 1300
BATCH = 32
EPOCHS = 4
FLOAT_EPOCHS = 12
BITS = {3: (-4, 3), 8: (-128, 127)}
RATES = (5e-3, 1e-3)
WATCHED_STEPS, WATCHED_EVERY = 24, 4


@dataclass(frozen=True)
class Trial:
    """A schedule: how the rate goes, at which share of the steps batch norm freezes, and whether the rate is capped."""

    form: str
    freeze_after: float
    capped: bool


DEFAULT = "cosine, frozen at 0.66, rate capped (the default)"
TRIALS = {
    "constant, never frozen": Trial("constant", 1, capped=False),
    "constant, frozen at half (the prototype)": Trial("constant", 0.5, capped=False),
    "constant, frozen at half, rate capped (as shipped)": Trial("constant", 0.5, capped=True),
    "cosine, never frozen": Trial("cosine", 1, capped=False),
    DEFAULT: Trial("cosine", 0.66, capped=True),
}


class Network(nn.Module):
    """Three convolutions with batch norm: (N, 1, 8, 8) to (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1, stride=2), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )  # fmt: skip
        self.classifier = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of 10 classes."""
        logits: Tensor = self.classifier(self.features(x))
        return logits


@dataclass(frozen=True)
class Digits:
    """Divided by the seed."""

    x: Tensor
    y: Tensor
    held_out_x: Tensor
    held_out_y: Tensor


def digits(seed: int) -> Digits:
    """The digits, in an order of the seed's own."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(images))
    x = torch.tensor((images[order] / 16).reshape(-1, 1, 8, 8), dtype=torch.float32)
    y = torch.tensor(labels[order])
    return Digits(x[:TRAINING_SAMPLES], y[:TRAINING_SAMPLES], x[TRAINING_SAMPLES:], y[TRAINING_SAMPLES:])


def fit(
    network: nn.Module,
    data: Digits,
    *,
    epochs: int,
    rate_at: Callable[[int, int], float],
    seed: int,
    before: Callable[[int], None] = lambda _: None,
    after: Callable[[int, float], None] = lambda _step, _norm: None,
) -> None:
    """Adam and cross-entropy; `before` each step and `after` it, with the gradient's norm."""
    shuffling = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam([each for each in network.parameters() if each.requires_grad])
    steps = epochs * (len(data.x) // BATCH)
    step = 0
    for _ in range(epochs):
        network.train()
        order = torch.randperm(len(data.x), generator=shuffling)
        for indices in order[: len(order) // BATCH * BATCH].split(BATCH):
            before(step)
            for group in optimizer.param_groups:
                group["lr"] = rate_at(step, steps)
            optimizer.zero_grad()
            functional.cross_entropy(first(network(data.x[indices])), data.y[indices]).backward()
            squares = [float(each.grad.square().sum()) for each in network.parameters() if each.grad is not None]
            optimizer.step()
            step += 1
            after(step, math.sqrt(sum(squares)))


def first(outputs: Any) -> Tensor:
    """The raised network returns a tuple."""
    found: Tensor = outputs[0] if isinstance(outputs, tuple) else outputs
    return found


def top1(network: nn.Module, data: Digits) -> float:
    """On held-out samples, in percent."""
    with torch.no_grad():
        right = first(network(data.held_out_x)).argmax(1) == data.held_out_y
    return 100 * float(right.float().mean())


def top1_now(prepared: nn.Module, data: Digits) -> float:
    """Of a network in training, which is left as it is."""
    frozen = copy.deepcopy(prepared)
    freeze_observers(frozen)
    return top1(frozen.eval(), data)


def float_network(data: Digits, seed: int) -> nn.Module:
    """Trained until its rate has fallen to nothing."""
    torch.manual_seed(seed)
    network = Network()
    cosine = lambda step, steps: 5e-3 * 0.5 * (1 + math.cos(math.pi * step / steps))  # noqa: E731
    fit(network, data, epochs=FLOAT_EPOCHS, rate_at=cosine, seed=seed)
    return network.eval()


def run(raised: Any, data: Digits, *, trial: Trial, bits: int, rate: float, seed: int) -> dict[str, float]:
    """Train by one schedule and convert; see the module's summary for what comes back."""
    low, high = BITS[bits]
    spec = QatSpec(
        method="qat", model="mdl_0000000000000000000000", training="dst_0000000000000000000000",
        weight={"quant_min": low, "quant_max": high}, activation={"reduce_range": False},
    )  # fmt: skip
    settled = plan(raised, spec)
    prepared = prepare_qat(raised, settled, (data.x[:2],))
    with torch.no_grad():
        prepared.eval()(data.x[:256])
    steps_per_epoch = len(data.x) // BATCH
    freezes_at = math.ceil(trial.freeze_after * EPOCHS * steps_per_epoch)
    form: Any = trial.form
    schedule = TrainingSchedule(
        EPOCHS, steps_per_epoch, form, freezes_at // 2, freezes_at if trial.capped else EPOCHS * steps_per_epoch
    )
    lowest, norms = [100.0], {"before": [0.0], "after": [0.0]}

    def before(step: int) -> None:
        if step == EPOCHS * steps_per_epoch // 2:
            freeze_observers(prepared)
        if step >= freezes_at:
            freeze_batch_norm(prepared)

    def after(step: int, norm: float) -> None:
        if freezes_at - WATCHED_STEPS < step <= freezes_at:
            norms["before"].append(norm)
        if freezes_at < step <= freezes_at + WATCHED_STEPS:
            norms["after"] += [norm] if step <= freezes_at + 5 else []
            if step % WATCHED_EVERY == 0:
                lowest.append(top1_now(prepared, data))

    fit(
        prepared, data, epochs=EPOCHS, rate_at=lambda step, _: rate * schedule.rate(step), seed=seed,
        before=before, after=after,
    )  # fmt: skip
    return {
        "int8": top1(convert(prepared, settled), data),
        "fake_quantize": top1_now(prepared, data),
        "lowest_after_freeze": min(lowest),
        "gradient_before": median(norms["before"]),
        "gradient_after": median(norms["after"]),
    }


def fused_weight(settings: Any) -> Any:
    """What `torch.ao` gives by default: the fused fake quantize, whose scale is not the one of conversion."""
    return FusedMovingAvgObsFakeQuantize.with_args(
        observer=MovingAveragePerChannelMinMaxObserver,
        dtype=torch.qint8,
        qscheme=torch.per_channel_symmetric,
        quant_min=settings.quant_min,
        quant_max=settings.quant_max,
    )


def main() -> None:
    """Measure every schedule over the seeds, print and keep."""
    torch.set_num_threads(1)
    result = Result("qat_schedule")
    networks = []
    for seed in SEEDS:
        data = digits(seed)
        network = float_network(data, seed)
        program = torch.export.export(network, (data.x[:2],), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
        networks.append((seed, data, raise_program(program)))
    result.add("float: top-1, mean", float(np.mean([top1(raised, data) for _, data, raised in networks])), "%")
    for rate in RATES:
        for name, trial in TRIALS.items():
            runs = [run(raised, data, trial=trial, bits=3, rate=rate, seed=seed) for seed, data, raised in networks]
            tell(result, f"3 bits, rate {rate:g}, {name}", runs)
    ours = qconfigs._trained_weight  # noqa: SLF001 - no setting brings the fused one back
    for made, weight in (("ours", ours), ("torch's fused", fused_weight)):
        qconfigs._trained_weight = weight  # noqa: SLF001
        for bits in BITS:
            runs = [
                run(raised, data, trial=TRIALS[DEFAULT], bits=bits, rate=1e-3, seed=seed)
                for seed, data, raised in networks
            ]
            tell(result, f"{bits} bits, rate 0.001, the default, fake quantize: {made}", runs)
    qconfigs._trained_weight = ours  # noqa: SLF001
    result.save()


def tell(result: Result, name: str, runs: list[dict[str, float]]) -> None:
    """The figures of one schedule."""
    result.samples[name] = runs
    result.add(f"{name}: int8 top-1, mean", float(np.mean([each["int8"] for each in runs])), "%")
    result.add(f"{name}: int8 top-1, worst seed", min(each["int8"] for each in runs), "%")
    result.add(f"{name}: with fake quantize, mean", float(np.mean([each["fake_quantize"] for each in runs])), "%")
    if runs[0]["gradient_after"]:
        result.add(f"{name}: lowest after the freeze", min(each["lowest_after_freeze"] for each in runs), "%")
        grown = median([each["gradient_after"] / each["gradient_before"] for each in runs])
        result.add(f"{name}: gradient's norm grows at the freeze, median", grown, "x")


if __name__ == "__main__":
    main()
