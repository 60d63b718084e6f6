"""What is held back from the observers."""

from __future__ import annotations

import pytest
import torch

from worker.datasets import InMemorySamples, Samples
from worker.steps.held_back import divide, spread


def numbered(count: int) -> InMemorySamples:
    return InMemorySamples((torch.arange(count, dtype=torch.float32)[:, None],), None)


def numbers(samples: Samples) -> list[int]:
    return [int(value) for value in samples.read(0, samples.count).inputs[0].flatten()]


@pytest.mark.parametrize("count", [16, 17, 63, 64, 100, 256, 500, 512, 1000, 5000, 12345])
@pytest.mark.parametrize("batch_size", [1, 8, 32])
def test_every_sample_is_observed_or_held_back_and_none_is_both(count: int, batch_size: int) -> None:
    observed, held_back = (numbers(part) for part in divide(numbered(count), batch_size))
    assert sorted(observed + held_back) == list(range(count))
    assert 1 <= len(held_back) <= 64
    assert len(held_back) <= count // 8 + 1


@pytest.mark.parametrize("count", [64, 100, 500, 1000, 5000])
def test_what_is_held_back_is_spread_over_the_data(count: int) -> None:
    """Each quarter has its share: of data sorted by class no class is missing."""
    _, held_back = divide(numbered(count), 32)
    chosen = numbers(held_back)
    share = len(chosen) / 4
    for quarter in range(4):
        inside = [number for number in chosen if quarter * count / 4 <= number < (quarter + 1) * count / 4]
        assert share / 2 <= len(inside) <= 2 * share


@pytest.mark.parametrize("count", [64, 100, 500, 512])
def test_an_eighth_is_held_back_while_that_is_no_more_than_64(count: int) -> None:
    assert divide(numbered(count), 32)[1].count == pytest.approx(count / 8, abs=count / 64 + 1)


@pytest.mark.parametrize("count", [1, 2, 15])
def test_of_few_samples_none_can_be_spared(count: int) -> None:
    observed, held_back = divide(numbered(count), 32)
    assert numbers(observed) == numbers(held_back) == list(range(count))


@pytest.mark.parametrize(("count", "most"), [(5, 256), (256, 256), (257, 256), (448, 256), (5000, 256)])
def test_spread_takes_at_most_so_many_from_all_over(count: int, most: int) -> None:
    chosen = numbers(spread(numbered(count), most))
    assert len(chosen) <= most
    assert len(chosen) >= min(count, most) / 2
    assert len(set(chosen)) == len(chosen)
    assert chosen[0] == 0
    assert chosen[-1] >= count - -(-count // most)
