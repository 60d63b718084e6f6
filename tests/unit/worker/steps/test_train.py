"""Training: what freezes when, what evaluation may not change, and which model is called better."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from shared.errors import ModelUnsupported
from shared.job import Step
from shared.job_report import EpochResult, MetricResult, OutputFidelity, Quality
from shared.quantization_spec import QatSettings, QatSpec
from tests.unit.worker.conftest import DATASET_ID, MODEL_ID, Digits
from worker.datasets import InMemorySamples
from worker.inference import batch_range
from worker.progress import ProgressTracker
from worker.quantization import input_specs, load_program, plan, prepare_qat, raise_program
from worker.steps.calibrate import calibrate
from worker.steps.evaluate import Yardstick
from worker.steps.load import LoadedModel
from worker.steps.train import _noise_to_signal, choose_loss, compare_with_static, train

SAMPLES = 128


@pytest.fixture
def model(digits: Digits) -> LoadedModel:
    program = load_program(digits.program)
    specs = tuple(input_specs(program))
    return LoadedModel(raise_program(program), specs, ("output",), batch_range(specs), 32)


@pytest.fixture
def training(digits: Digits) -> InMemorySamples:
    return InMemorySamples(
        (torch.from_numpy(digits.training_x[:SAMPLES]),), torch.from_numpy(digits.training_y[:SAMPLES])
    )


Train = Callable[..., list[EpochResult]]


@pytest.fixture
def prepared(model: LoadedModel, training: InMemorySamples) -> nn.Module:
    spec = QatSpec(method="qat", model=MODEL_ID, training=DATASET_ID)
    prepared = prepare_qat(model.raised, plan(model.raised, spec), training.read(0, 2).inputs)
    calibrate(model, [prepared], training, lambda _done, _total: None)
    return prepared


@pytest.fixture
def trained(model: LoadedModel, training: InMemorySamples, prepared: nn.Module) -> Train:
    def run(steps: list[dict[str, Tensor]] | None = None, **settings: Any) -> list[EpochResult]:
        """Train; the state at the end of every training step is kept in `steps`."""
        tracker = ProgressTracker(lambda _: None, {Step.TRAIN: 1})

        def advance(done: float, total: float, detail: str | None = None) -> None:
            if steps is not None:
                steps.append({name: value.clone() for name, value in prepared.state_dict().items()})

        return train(
            model, prepared, training, QatSettings(**settings), loss_name="cross_entropy",
            yardstick=Yardstick(training, "training", "top1", None), seed=0, tracker=tracker, advance=advance,
        )  # fmt: skip

    return run


def changes(steps: list[dict[str, Tensor]], ending: str) -> list[bool]:
    """For each step after the first, whether any value of which the name ends so has changed."""
    names = [name for name in steps[0] if name.endswith(ending)]
    assert names
    return [any(not torch.equal(before[name], after[name]) for name in names) for before, after in pairwise(steps)]


def test_batch_norm_statistics_stay_once_frozen_over_epochs_too(trained: Train) -> None:
    """Three epochs of four steps; frozen before the seventh: steps 1 to 6 change them, 7 to 12 do not."""
    steps: list[dict[str, Tensor]] = []
    trained(steps, epochs=3, freeze_batch_norm_after=0.5, freeze_observers_after=1)
    assert len(steps) == 12
    assert changes(steps, "running_mean") == [True] * 5 + [False] * 6
    assert changes(steps, "weight") == [True] * 11


def test_observed_ranges_stay_once_frozen(trained: Train) -> None:
    steps: list[dict[str, Tensor]] = []
    trained(steps, epochs=3, freeze_observers_after=0.5, freeze_batch_norm_after=1)
    assert changes(steps, "activation_post_process.max_val")[:5] == [True] * 5
    assert changes(steps, "max_val")[5:] == [False] * 6


def test_evaluating_an_epoch_does_not_move_ranges_or_statistics(trained: Train, prepared: nn.Module) -> None:
    """With everything live to the end, the state after the last evaluation is that after the last step."""
    steps: list[dict[str, Tensor]] = []
    trained(steps, epochs=1, freeze_observers_after=1, freeze_batch_norm_after=1)
    for name, value in prepared.state_dict().items():
        torch.testing.assert_close(value, steps[-1][name], rtol=0, atol=0)


def test_the_learning_rate_falls_to_almost_nothing(trained: Train) -> None:
    """Adam moves a weight by about the rate: the last of twelve steps has 1.7 % of the first one's."""
    steps: list[dict[str, Tensor]] = []
    trained(steps, epochs=3)
    name = next(name for name in steps[0] if name.endswith("weight") and "classifier" in name)
    moves = [float((after[name] - before[name]).abs().max()) for before, after in pairwise(steps)]
    assert 0 < moves[-1] < moves[0] / 10


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_every_optimizer_lowers_the_loss(trained: Train, optimizer: str) -> None:
    epochs = trained(epochs=4, learning_rate=1e-2 if optimizer == "sgd" else 1e-3, optimizer=optimizer)
    assert epochs[-1].loss < epochs[0].loss


@pytest.mark.parametrize("loss", ["auto", "mse", "distillation"])
def test_a_model_without_a_float_output_cannot_be_trained(
    training: InMemorySamples, loss: Literal["auto", "mse", "distillation"]
) -> None:
    class Decides(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1).argmax(1)

    program = torch.export.export(Decides(), training.read(0, 2).inputs)
    specs = tuple(input_specs(program))
    model = LoadedModel(raise_program(program), specs, ("output",), batch_range(specs), 2)
    with pytest.raises(ModelUnsupported, match="gradient"):
        choose_loss(model, training, loss)


def test_distillation_is_the_noise_to_signal_ratio() -> None:
    """A noise of a tenth of the signal in one output and none in the other: (0.01 + 0) / 2; integers do not count."""
    reference = [torch.tensor([[3.0, 4.0]]), torch.ones(1, 2), torch.ones(1, dtype=torch.int64)]
    outputs = [torch.tensor([[3.0, 4.5]]), torch.ones(1, 2), torch.zeros(1, dtype=torch.int64)]
    assert float(_noise_to_signal(reference, outputs)) == pytest.approx(0.005)


def quality(drop: float | None, sqnr_db: float | None) -> Quality:
    metric = None
    if drop is not None:
        metric = MetricResult(name="top1", float_value=0.9, int8_value=0.9 - drop, drop=drop, max_drop=None, met=None)
    fidelity = [OutputFidelity(output="y", sqnr_db=sqnr_db, cosine=1, agreement=None)]
    return Quality(data="evaluation", samples=10, metric=metric, fidelity=fidelity)


@pytest.mark.parametrize(
    ("qat", "static", "better", "codes"),
    [
        (quality(0.01, 30), quality(0.02, 40), "qat", set()),
        (quality(0.02, 30), quality(0.01, 20), "static", {"qat_not_better"}),
        (quality(0.01, 30), quality(0.01, 20), "same", {"qat_not_better"}),
        (quality(-0.01, 30), quality(0.01, 30), "qat", {"qat_trained_further"}),
        (quality(None, 30), quality(None, 20), "qat", set()),
        (quality(None, 30), quality(None, 30.4), "same", {"qat_not_better"}),
        (quality(None, None), quality(None, 50), "qat", set()),
    ],
)
def test_the_metric_decides_which_is_better_and_sqnr_without_one(
    qat: Quality, static: Quality, better: str, codes: set[str]
) -> None:
    tracker = ProgressTracker(lambda _: None, {Step.TRAIN: 1})
    result = compare_with_static("cross_entropy", [], qat, static, tracker=tracker)
    assert result.better == better
    assert {warning.code for warning in tracker.warnings} == codes
    assert result.static_metric == static.metric
