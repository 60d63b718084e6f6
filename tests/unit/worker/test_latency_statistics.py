"""The arithmetic of latencies, on samples drawn with a seed: whether intervals cover as often as they say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from worker.latency_statistics import (
    BETWEEN_RUNS,
    block_length,
    percentile_bound_ms,
    speedup_ci95,
    stated_interval,
)

Samples = NDArray[np.float64]


def resembling(count: int, resemblance: float, generator: np.random.Generator) -> Samples:
    """Standard normal samples, each with this correlation to the one before."""
    fresh = generator.normal(size=count) * math.sqrt(1 - resemblance**2)
    samples = [generator.normal()]
    for each in fresh[1:]:
        samples.append(resemblance * samples[-1] + each)
    return np.array(samples)


def covered(rounds: int, resemblance: float, experiments: int = 100) -> float:
    """How often the interval holds the true ratio of 1.5, where each candidate's rounds resemble those before."""
    generator = np.random.default_rng(1)
    held = 0
    for _ in range(experiments):
        baseline, int8 = (np.exp(0.05 * resembling(rounds, resemblance, generator)) for _ in range(2))
        low, high = speedup_ci95(1.5 * baseline, int8)
        held += low <= 1.5 <= high
    return held / experiments


@pytest.mark.parametrize(
    ("share", "enough"),
    [(0.5, 11), (0.9, 64), (0.99, 662)],
)
def test_a_bound_takes_as_many_samples_as_mlperfs_loadgen_asks_for(share: float, enough: int) -> None:
    """64 and 662 are LoadGen's own numbers; the bound is then the largest sample."""
    samples = np.arange(enough, dtype=float)
    assert percentile_bound_ms(samples, share) == enough - 1
    assert percentile_bound_ms(samples[1:], share) is None


def test_a_bound_is_not_exceeded_by_the_true_percentile() -> None:
    """Of 300 experiments with 99 % confidence, 10 or fewer fail (p > 0.999); the plain p90 fails in half of them."""
    generator = np.random.default_rng(0)
    true_p90 = -math.log(0.1)
    draws = [generator.exponential(size=200) for _ in range(300)]
    bounds = [percentile_bound_ms(each, 0.9) or 0.0 for each in draws]
    assert sum(bound < true_p90 for bound in bounds) <= 10
    assert sum(np.percentile(each, 90) < true_p90 for each in draws) > 100


def test_a_constant_ratio_has_an_interval_of_no_width() -> None:
    int8_ms = np.random.default_rng(0).lognormal(size=200)
    assert speedup_ci95(2 * int8_ms, int8_ms) == pytest.approx((2.0, 2.0))


@pytest.mark.parametrize("rounds", [3, 5, 20, 60, 300])
def test_the_interval_covers_the_true_ratio_about_as_often_as_it_says(rounds: int) -> None:
    """Of 100 experiments a 95 % interval covers 88 or more (p > 0.998)."""
    assert covered(rounds, 0.0) >= 0.88


@pytest.mark.parametrize(("rounds", "resemblance"), [(200, 0.5), (600, 0.9)])
def test_rounds_that_resemble_each_other_do_not_narrow_the_interval(rounds: int, resemblance: float) -> None:
    """Drawn one by one such rounds would cover in 79 and 33 of 100 experiments."""
    assert covered(rounds, resemblance) >= 0.85


def test_blocks_are_as_long_as_samples_resemble_each_other() -> None:
    generator = np.random.default_rng(3)
    lengths = [
        np.mean([block_length(resembling(500, resemblance, generator)) for _ in range(20)])
        for resemblance in (0.0, 0.5, 0.95)
    ]
    assert lengths[0] < 3
    assert lengths == sorted(lengths)
    assert lengths[2] > 20


@pytest.mark.parametrize("samples", [np.ones(300), np.arange(300.0), np.array([1.0, 2.0])])
def test_a_block_is_never_more_than_a_third_of_the_samples(samples: Samples) -> None:
    assert 1 <= block_length(samples) <= max(1, len(samples) // 3)


def test_the_interval_narrows_with_more_rounds() -> None:
    generator = np.random.default_rng(2)
    widths = []
    for rounds in (20, 500):
        low, high = speedup_ci95(
            generator.lognormal(sigma=0.2, size=rounds), generator.lognormal(sigma=0.2, size=rounds)
        )
        widths.append(high - low)
    assert widths[1] < widths[0] / 2


def test_the_same_seed_gives_the_same_interval() -> None:
    generator = np.random.default_rng(4)
    baseline, int8 = generator.lognormal(size=50), generator.lognormal(size=50)
    assert speedup_ci95(baseline, int8, seed=7) == speedup_ci95(baseline, int8, seed=7)


def test_what_is_stated_is_never_narrower_than_what_runs_differ_by() -> None:
    low, high = stated_interval((2.0, 2.0), 2.0)
    assert (low, high) == pytest.approx((2 * math.exp(-BETWEEN_RUNS), 2 * math.exp(BETWEEN_RUNS)))
    low, high = stated_interval((1.9, 2.2), 2.0)
    assert low < 1.9
    assert high > 2.2
