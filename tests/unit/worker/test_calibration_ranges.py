"""Spread, coverage and how many samples would do: on distributions of which the answer is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from worker.calibration_ranges import (
    LEAST_SAMPLES,
    SUBSETS,
    RangeTracker,
    coverage,
    enough_samples,
    growth_curve,
    scale_spread,
    united,
)


def subsets_of(values: Tensor) -> Tensor:
    """(samples, tensors) dealt out to the subsets: (SUBSETS, tensors, 2)."""
    parts = [values[index::SUBSETS] for index in range(SUBSETS)]
    return torch.stack([torch.stack([part.amin(0), part.amax(0)], -1) for part in parts])


def uniform(samples: int, tensors: int = 400) -> Tensor:
    return torch.rand(samples, tensors, generator=torch.Generator().manual_seed(0))


def test_equal_subsets_have_no_spread_and_half_of_them_cover_all() -> None:
    ranges = torch.tensor([-1.0, 3.0]).repeat(SUBSETS, 5, 1)
    assert scale_spread(ranges) == 0
    assert coverage(ranges) == 1
    assert growth_curve(ranges) == [(1 / 8, 0), (1 / 4, 0), (1 / 2, 0)]
    assert enough_samples(ranges, 1000) == 125


def test_spread_is_greatest_less_least_scale_over_their_mean() -> None:
    """Four subsets of widths 1, 2, 2, 3; the range always holds zero."""
    ranges = torch.tensor([[[0.5, 1.0]], [[-1.0, 1.0]], [[0.0, 2.0]], [[-3.0, -2.0]]])
    assert scale_spread(ranges) == (3 - 1) / 2


def test_eight_subsets_are_taken_as_four() -> None:
    widths = torch.tensor([1.0, 1, 1, 1, 1, 1, 1, 2])  # pairs (0, 4), (1, 5), (2, 6), (3, 7): 1, 1, 1, 2
    ranges = torch.stack([torch.zeros(8), widths], -1)[:, None]
    assert scale_spread(ranges) == pytest.approx((2 - 1) / 1.25)


def test_coverage_is_that_of_the_maximum_of_half_as_many() -> None:
    """The greatest of n uniform values is n / (n + 1) on average: 32 of 64 cover (32/33) / (64/65)."""
    assert coverage(subsets_of(uniform(64))) == pytest.approx((32 / 33) / (64 / 65), abs=0.005)


def test_how_many_would_do_is_told_from_how_growth_falls() -> None:
    """Twice n uniform values widen a range by about 1 / 2n: below 5 % from 10 on, below 0.5 % from 100 on."""
    few = subsets_of(uniform(16))
    assert growth_curve(few)[-1][1] == pytest.approx((16 / 17) / (8 / 9) - 1, abs=0.01)
    found = enough_samples(few, 16, growth=0.005)
    assert found is not None
    assert 60 < found < 200
    assert enough_samples(subsets_of(uniform(2048)), 2048, growth=0.005) == 256  # the first size that is looked at


def test_ranges_that_go_on_growing_say_that_they_are_unknown() -> None:
    """Cauchy values: the greatest doubles with their number, for ever."""
    heavy = torch.tan((uniform(512) - 0.5) * math.pi)
    assert growth_curve(subsets_of(heavy))[-1][1] > 0.4
    assert enough_samples(subsets_of(heavy), 512) is None


def test_a_handful_is_never_enough() -> None:
    ranges = torch.tensor([-1.0, 3.0]).repeat(4, 5, 1)
    assert enough_samples(ranges, 4) == LEAST_SAMPLES


def test_one_subset_tells_nothing() -> None:
    ranges = torch.tensor([[[0.0, 1.0]]])
    assert (scale_spread(ranges), coverage(ranges), enough_samples(ranges, 10)) == (None, None, None)


def test_a_tensor_that_saw_nothing_is_left_out() -> None:
    ranges = torch.tensor([[[0.0, 1.0], [math.nan, math.nan]], [[0.0, 2.0], [math.nan, math.nan]]])
    assert united(ranges)[0].tolist() == [0, 2]
    assert united(ranges)[1].isnan().all()
    assert scale_spread(ranges) == pytest.approx(1 / 1.5)
    assert coverage(ranges) == pytest.approx(1.5 / 2)


class Observer(nn.Module):
    """As torch.ao's: gives back what it takes in, capped."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("min_val", torch.tensor(math.inf))
        self.register_buffer("max_val", torch.tensor(-math.inf))

    def forward(self, values: Tensor) -> Tensor:
        return values.clamp(max=6)


class Weights(Observer):
    """Observes weights."""


def test_the_tracker_keeps_one_range_for_each_subset_and_observer() -> None:
    model = nn.Sequential(Observer(), nn.Identity())
    model.add_module("weight_fake_quant", Weights())
    tracker = RangeTracker([model])
    with tracker.watching():
        for batch in range(10):
            model(torch.tensor([-float(batch), 0.0, math.nan if batch == 3 else 1.0, 100.0, -math.inf]))
            tracker.next_batch()
    model(torch.tensor([1e6]))  # nobody watches any more
    assert tracker.ranges.shape == (SUBSETS, 1, 2)
    assert tracker.ranges[:, 0, 0].tolist() == [-8, -9, -2, -3, -4, -5, -6, -7]
    assert tracker.ranges[:, 0, 1].tolist() == [6] * SUBSETS


def test_the_tracker_has_as_many_subsets_as_there_were_batches() -> None:
    model = nn.Sequential(Observer())
    tracker = RangeTracker([model])
    with tracker.watching():
        for _ in range(3):
            model(torch.ones(2))
            tracker.next_batch()
    assert tracker.ranges.shape == (3, 1, 2)


def test_observers_answer_as_one_part_of_the_data_and_are_as_before_afterwards() -> None:
    observer = Observer()
    tracker = RangeTracker([nn.Sequential(observer)])
    with tracker.watching():
        for batch in range(8):
            observer(torch.tensor([-1.0 - batch, 2.0]))
            tracker.next_batch()
    observer.min_val.fill_(-8)
    observer.max_val.fill_(2)
    with tracker.seeing_only(1):  # batches 1 and 5
        assert (float(observer.min_val), float(observer.max_val)) == (-6, 2)
    assert (float(observer.min_val), float(observer.max_val)) == (-8, 2)
