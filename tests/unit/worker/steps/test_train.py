"""Training: what freezes when, what evaluation may not change, which epoch is kept, and how it is taken up again."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, fx, nn

from tests.unit.worker.steps.conftest import MakeCourse, prepared_for
from worker.datasets import InMemorySamples, Subset
from worker.steps.train import Training
from worker.training_checkpoint import Checkpoint, Curve

State = dict[str, Tensor]


def state_of(network: nn.Module) -> State:
    return {name: value.clone() for name, value in network.state_dict().items()}


def same(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


Train = Callable[..., tuple[Curve, fx.GraphModule]]


@pytest.fixture
def train(make_course: MakeCourse, training: InMemorySamples, best_file: Path) -> Train:
    """Train by these settings; `steps` takes the state after every step, `kept` the checkpoints."""

    def run(
        steps: list[State] | None = None,
        kept: list[Checkpoint] | None = None,
        *,
        earlier: Checkpoint | None = None,
        **qat: Any,
    ) -> tuple[Curve, fx.GraphModule]:
        course = make_course(**qat)
        prepared = prepared_for(course, training, **qat)
        one = Training(course, prepared, "qat", best_file)
        if earlier is not None:
            assert one.resume(earlier)
        curve = one.run(
            course.schedule.epochs,
            lambda checkpoint: None if kept is None else kept.append(copied(checkpoint)),
            lambda _step, _told: None if steps is None else steps.append(state_of(prepared)),
        )
        return curve, prepared

    return run


def copied(checkpoint: Checkpoint) -> Checkpoint:
    """As it comes back from a file: a checkpoint shares its tensors with the network that goes on training."""
    buffer = io.BytesIO()
    torch.save((checkpoint.network, checkpoint.optimizer, checkpoint.best, checkpoint.trained), buffer)
    buffer.seek(0)
    network, optimizer, best, trained = torch.load(buffer, weights_only=True)
    curves = {phase: curve.model_copy(deep=True) for phase, curve in checkpoint.curves.items()}
    return Checkpoint(checkpoint.phase, curves, network, optimizer, best, trained)


def changes(steps: list[State], ending: str) -> list[bool]:
    """For each step after the first, whether any value of which the name ends so has changed."""
    names = [name for name in steps[0] if name.endswith(ending)]
    assert names
    return [any(not torch.equal(before[name], after[name]) for name in names) for before, after in pairwise(steps)]


# --- what freezes ----------------------------------------------------------------------------------------------------


def test_batch_norm_statistics_stay_once_frozen_over_epochs_too(train: Train) -> None:
    """Three epochs of four steps; frozen before the seventh: steps 1 to 6 change them, 7 to 12 do not."""
    steps: list[State] = []
    train(steps, epochs=3, freeze_batch_norm_after=0.5, freeze_observers_after=1)
    assert len(steps) == 12
    assert changes(steps, "running_mean") == [True] * 5 + [False] * 6
    assert changes(steps, "weight") == [True] * 11


def test_observed_ranges_stay_once_frozen(train: Train) -> None:
    steps: list[State] = []
    train(steps, epochs=3, freeze_observers_after=0.5, freeze_batch_norm_after=1)
    assert changes(steps, "activation_post_process.max_val")[:5] == [True] * 5
    assert changes(steps, "max_val")[5:] == [False] * 6


def test_evaluating_an_epoch_does_not_move_ranges_or_statistics(train: Train) -> None:
    """With everything live to the end, the state after the last evaluation is that after the last step."""
    steps: list[State] = []
    _, prepared = train(steps, epochs=1, freeze_observers_after=1, freeze_batch_norm_after=1)
    assert same(state_of(prepared), steps[-1])


def test_the_learning_rate_falls_to_almost_nothing(train: Train) -> None:
    """Adam moves a weight by about the rate: the last of twelve steps has 1.7 % of the first one's."""
    steps: list[State] = []
    curve, _ = train(steps, epochs=3)
    name = next(name for name in steps[0] if name.endswith("weight") and "classifier" in name)
    moves = [float((after[name] - before[name]).abs().max()) for before, after in pairwise(steps)]
    assert 0 < moves[-1] < moves[0] / 10
    rates = [epoch.learning_rate or 0.0 for epoch in curve.epochs]
    assert rates == sorted(rates, reverse=True)


def test_learnt_scales_move_and_stay_positive_and_their_zero_points_stay(train: Train) -> None:
    steps: list[State] = []
    train(steps, epochs=2, learnable_scales=True, learning_rate=1e-2)
    assert all(changes(steps, "weight_fake_quant.scale"))
    assert all(changes(steps, "post_process_0.scale"))
    assert not any(changes(steps, "zero_point"))
    assert all(float(value.min()) > 0 for name, value in steps[-1].items() if name.endswith(".scale"))


# --- which epoch is kept ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_every_optimizer_lowers_the_loss(train: Train, optimizer: Literal["adam", "adamw", "sgd"]) -> None:
    curve, _ = train(epochs=4, learning_rate=1e-2 if optimizer == "sgd" else 1e-3, optimizer=optimizer)
    assert curve.epochs[-1].loss < curve.epochs[0].loss


def test_the_epoch_that_is_best_on_the_samples_held_back_is_what_is_left(
    make_course: MakeCourse, training: InMemorySamples, best_file: Path
) -> None:
    """From the third epoch on each end spoils the classifier; what is left is an epoch before, to the bit."""
    course = make_course(epochs=5)
    prepared = prepared_for(course, training, epochs=5)
    kept: list[Checkpoint] = []
    per_epoch = course.schedule.steps_per_epoch

    def spoil(step: int, _told: str) -> None:
        if step >= 3 * per_epoch and step % per_epoch == 0:
            with torch.no_grad():
                prepared.get_parameter("classifier.weight").zero_()

    curve = Training(course, prepared, "qat", best_file).run(5, lambda each: kept.append(copied(each)), spoil)
    assert curve.best_epoch in (1, 2)
    assert same(state_of(prepared), kept[curve.best_epoch - 1].network)
    assert curve.best_score == max(each.curves["qat"].best_score for each in kept)


@pytest.mark.parametrize(
    ("scores", "kept"),
    [
        ([0.9, 0.9, 0.9], 3),  # as good
        ([0.75, 0.95, 0.75], 2),  # 20 of 100 samples are no noise
        ([0.95, 0.98, 0.95], 3),  # three samples are
        ([0.95, 0.99, 0.95], 2),  # four are not, where hardly any is wrong
        ([0.5, 0.54, 0.5], 3),  # but are where half are: a standard error is five
        ([0.99, 0.97, 0.95], 2),  # measured from the best, not from the one kept last
    ],
)
def test_of_epochs_that_the_samples_held_back_cannot_tell_apart_the_last_is_kept(  # noqa: PLR0917 - fixtures
    make_course: MakeCourse,
    training: InMemorySamples,
    best_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    scores: list[float],
    kept: int,
) -> None:
    course = make_course(epochs=3)
    course = replace(course, data=replace(course.data, held_back=Subset(training, [0] * 100)))
    found = iter(scores)
    monkeypatch.setattr("worker.steps.train.losses_and_hits", lambda *_: (0.1, next(found)))
    one = Training(course, prepared_for(course, training, epochs=3), "qat", best_file)
    curve = one.run(3, lambda _: None, lambda _step, _told: None)
    assert curve.best_epoch == kept
    assert curve.best_score == (max(scores), -0.1)


def test_it_stops_when_epochs_get_no_better_for_as_long_as_the_patience(train: Train) -> None:
    curve, _ = train(epochs=40, learning_rate=0.05, schedule="constant", early_stop_patience=2)
    assert curve.stopped == "early"
    assert curve.stalled == 2
    assert len(curve.epochs) < 40


def test_a_training_that_diverges_keeps_its_best_epoch(
    make_course: MakeCourse, training: InMemorySamples, best_file: Path
) -> None:
    """The weights turn to NaN in the third epoch: the second or the first is what is left."""
    course = make_course(epochs=5)
    prepared = prepared_for(course, training, epochs=5)
    kept: list[Checkpoint] = []

    def spoil(step: int, _told: str) -> None:
        if step == 2 * course.schedule.steps_per_epoch + 1:
            with torch.no_grad():
                next(prepared.parameters()).fill_(float("nan"))

    curve = Training(course, prepared, "qat", best_file).run(5, lambda each: kept.append(copied(each)), spoil)
    assert curve.stopped == "diverged"
    assert len(curve.epochs) == 2
    assert curve.best_epoch is not None
    assert same(state_of(prepared), kept[curve.best_epoch - 1].network)


def test_weight_decay_takes_from_weights_and_not_from_biases(
    make_course: MakeCourse, training: InMemorySamples, best_file: Path
) -> None:
    course = make_course(epochs=1, optimizer="adamw", weight_decay=0.5, learnable_scales=True)
    prepared = prepared_for(course, training, learnable_scales=True)
    groups = Training(course, prepared, "qat", best_file)._optimizer.param_groups
    decayed = {id(each) for group in groups for each in group["params"] if group["weight_decay"] == 0.5}
    assert decayed == {
        id(each) for name, each in prepared.named_parameters() if name.endswith("weight") and each.ndim > 1
    }
    assert sum(len(group["params"]) for group in groups) == len(list(prepared.parameters()))


# --- taking up -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [1, 2, 3])
@pytest.mark.parametrize("learnable_scales", [False, True])
def test_taken_up_after_any_epoch_the_weights_end_the_same_to_the_bit(
    train: Train, after: int, learnable_scales: bool
) -> None:
    """Observers freeze in the second epoch, batch norm in the third; Adam's moments come back too."""
    qat = {"epochs": 4, "learning_rate": 1e-3, "learnable_scales": learnable_scales}
    kept: list[Checkpoint] = []
    curve, uninterrupted = train(kept=kept, **qat)
    taken_up, resumed = train(earlier=kept[after - 1], **qat)
    assert same(state_of(resumed), state_of(uninterrupted))
    seconds = {"epochs": {"__all__": {"seconds"}}}
    assert taken_up.model_dump(exclude=seconds) == curve.model_dump(exclude=seconds)


def test_the_same_seed_gives_the_same_weights_to_the_bit(train: Train) -> None:
    _, first = train(epochs=2)
    _, second = train(epochs=2)
    assert same(state_of(first), state_of(second))


def test_a_checkpoint_of_another_network_changes_nothing(
    make_course: MakeCourse, training: InMemorySamples, best_file: Path, train: Train
) -> None:
    kept: list[Checkpoint] = []
    train(kept=kept, epochs=1, learnable_scales=True)
    course = make_course(epochs=2)
    prepared = prepared_for(course, training)
    foreign = Checkpoint(
        "qat", {"qat": Curve()}, kept[0].network | {"surplus": torch.zeros(1)}, kept[0].optimizer, None, None
    )
    before = state_of(prepared)
    one = Training(course, prepared, "qat", best_file)
    assert not one.resume(foreign)
    assert same(state_of(prepared), before)
    assert one.curve == Curve()
