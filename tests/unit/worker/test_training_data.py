"""What is held back from training, and data too scarce to train on."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from shared.errors import TrainingTooSmall
from shared.job import Step
from shared.quantization_spec import QatSettings
from worker.datasets import InMemorySamples, Subset
from worker.inference import BatchRange
from worker.progress import ProgressTracker
from worker.training_data import TrainingData, split

ANY = BatchRange(1, 10**9)
NETWORK = nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4))


def samples(count: int) -> InMemorySamples:
    return InMemorySamples((torch.arange(count, dtype=torch.float32)[:, None],), torch.arange(count))


def divided(
    count: int, batch: BatchRange = ANY, *, epochs: int = 3, batch_size: int = 32, seed: int = 0
) -> tuple[TrainingData, set[str]]:
    tracker = ProgressTracker(lambda _: None, {Step.TRAIN: 1})
    settings = QatSettings(epochs=epochs, batch_size=batch_size)
    data = split(samples(count), batch, NETWORK, settings, seed=seed, tracker=tracker)
    return data, {warning.code for warning in tracker.warnings}


@pytest.mark.parametrize(("count", "held_back"), [(64, 16), (100, 16), (1000, 100), (50_000, 2000)])
def test_a_tenth_is_held_back_and_nothing_is_in_both(count: int, held_back: int) -> None:
    data, warnings = divided(count)
    assert data.held_back is not None
    assert (data.learnt.count, data.held_back.count) == (count - held_back, held_back)
    both = torch.cat([each.read_labels(0, each.count) for each in (data.learnt, data.held_back)])
    assert sorted(both.tolist()) == list(range(count))
    assert not warnings


def test_another_seed_holds_others_back() -> None:
    (first, _), (second, _) = divided(100, seed=1), divided(100, seed=2)
    assert first.judge.read_labels(0, 16).tolist() != second.judge.read_labels(0, 16).tolist()


@pytest.mark.parametrize(("count", "epochs"), [(63, 3), (1000, 1)])
def test_of_few_samples_or_for_one_epoch_nothing_is_held_back(count: int, epochs: int) -> None:
    data, _ = divided(count, epochs=epochs)
    assert data.held_back is None
    assert data.learnt.count == count
    assert data.judge.count == 32


def test_fewer_samples_than_a_batch_are_one_batch_and_told() -> None:
    data, warnings = divided(20)
    assert data.batch_size == 20
    assert warnings == {"few_training_samples"}


def test_fewer_samples_than_the_only_batch_of_the_model_are_refused() -> None:
    with pytest.raises(TrainingTooSmall, match="20 samples, and the model was exported for batches of 32"):
        divided(20, BatchRange(32, 32))


def test_holding_back_never_leaves_less_than_a_batch() -> None:
    data, _ = divided(100, BatchRange(96, 96))
    assert data.held_back is None
    assert data.batch_size == 96


def test_batches_of_one_are_told_to_keep_batch_norm_as_it_is() -> None:
    data, warnings = divided(100, batch_size=1)
    assert data.batch_size == 1
    assert warnings == {"batch_norm_frozen"}


def test_a_subset_reads_what_its_indices_say_in_their_order() -> None:
    subset = Subset(samples(10), [7, 3, 5])
    assert subset.read(1, 3).inputs[0][:, 0].tolist() == [3, 5]
    assert subset.take([2, 0]).inputs[0][:, 0].tolist() == [5, 7]
    assert subset.read_labels(0, 3).tolist() == [7, 3, 5]
