"""What samples of latency allow to be said: percentiles with bounds, and a ratio of medians with its interval."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float64]

BETWEEN_RUNS = 0.02
"""What a run cannot know of itself: by how much another one, with other addresses and another clock, may differ.

It widens every stated interval. Speedups of the same pair, ten times in new processes, had a standard deviation of
0.8 %, so 95 % of them are within 1.6 %, where each run's own interval reached 0.3 % to each side.
benchmarks/interval_coverage.py shows whether this is enough."""

_CONFIDENCE = 0.99  # of MLPerf's bounds
_RESAMPLES = 1000
_FEW = 5  # rounds; fewer are no ground for a bootstrap
_STUDENT_T = (12.706, 4.303, 3.182)  # 97.5 %, with 1, 2 and 3 degrees of freedom


def percentile_bound_ms(samples_ms: Samples, share: float) -> float | None:
    """What the percentile does not exceed, with 99 % confidence; None where there are too few samples to say.

    MLPerf's early stopping estimate, as its LoadGen computes it: of `n` samples the `t`-th largest, `t` being the
    largest count, at least one, for which a binomial draw of `n` with probability `1 - share` gives `t` or fewer in
    less than 1 % of all cases. So p50 takes 11 samples, p90 64 and p99 662. It takes samples to be independent.
    https://github.com/mlcommons/inference/blob/master/loadgen/early_stopping.cc and results.cc, SingleStream.
    """
    count = len(samples_ms)
    over, cumulated = 0, share**count
    while over < count:
        chance = math.exp(_log_chance(over + 1, count, 1 - share))
        if cumulated + chance >= 1 - _CONFIDENCE:
            break
        cumulated += chance
        over += 1
    return float(np.sort(samples_ms)[count - over]) if over else None


def _log_chance(found: int, of: int, probability: float) -> float:
    ways = math.lgamma(of + 1) - math.lgamma(found + 1) - math.lgamma(of - found + 1)
    return ways + found * math.log(probability) + (of - found) * math.log1p(-probability)


def speedup_ci95(baseline_ms: Samples, int8_ms: Samples, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of `median(baseline) / median(int8)`, within this run, of samples that are paired by round.

    A percentile bootstrap over rounds (Efron 1979), both samples of a round together. Rounds that follow each other
    are alike, so they are drawn in blocks that go round the end (Politis and Romano 1992), as long as the samples ask
    for, and the interval is expanded as Student's exceeds the normal one with as many samples as blocks (Hesterberg
    2015). Fewer than five rounds: Student's interval of the mean logarithm of the rounds' ratios; two at least.
    """
    rounds = len(baseline_ms)
    speedup = median_ratio(baseline_ms, int8_ms)
    if rounds < _FEW:
        logs = np.log(baseline_ms / int8_ms)
        half = _STUDENT_T[rounds - 2] * float(logs.std(ddof=1)) / math.sqrt(rounds)
        return speedup * math.exp(-half), speedup * math.exp(half)
    length = max(block_length(baseline_ms), block_length(int8_ms))
    starts = np.random.default_rng(seed).integers(0, rounds, (_RESAMPLES, math.ceil(rounds / length)))
    drawn = (starts[:, :, None] + np.arange(length)).reshape(_RESAMPLES, -1)[:, :rounds] % rounds
    ratios = np.median(baseline_ms[drawn], axis=1) / np.median(int8_ms[drawn], axis=1)
    ends = np.percentile(ratios, [2.5, 97.5]) / speedup
    low, high = speedup * ends ** _expansion(rounds / length)
    return float(low), float(high)


def _expansion(blocks: float) -> float:
    """Student's 97.5 % point over the normal one (Cornish and Fisher's expansion, good to 1 % from five blocks on)."""
    freedom = max(1.0, blocks - 1)
    return 1 + 1.21 / freedom + 1.44 / freedom**2


def stated_interval(interval: tuple[float, float], speedup: float) -> tuple[float, float]:
    """The interval within a run, widened by what differs between one run and the next: the two are independent."""
    low, high = (math.hypot(math.log(end / speedup), BETWEEN_RUNS) for end in interval)
    return speedup * math.exp(-low), speedup * math.exp(high)


def median_ratio(baseline_ms: Samples, other_ms: Samples) -> float:
    """How many times as fast the other one is."""
    return float(np.median(baseline_ms) / np.median(other_ms))


def block_length(samples_ms: Samples) -> int:
    """How many samples in a row resemble each other: the block length for a bootstrap of their median.

    Politis and White's rule (2004, corrected by Patton 2009) for circular blocks, on whether a sample is above the
    median: a median knows no more of it. Never more than a third of the samples, which then are too few to tell.
    """
    count = len(samples_ms)
    above = np.sign(samples_ms - np.median(samples_ms))
    above -= above.mean()
    if count < _FEW or not above.any():
        return 1
    longest = min(count // 2, math.ceil(math.sqrt(count)) + _FEW)
    covariances = np.array([above[: count - lag] @ above[lag:] / count for lag in range(longest + 1)])
    alike = np.abs(covariances / covariances[0]) > 2 * math.sqrt(math.log10(count) / count)
    # The last lag before a row of lags that show nothing.
    shown = next((lag for lag in range(longest) if not alike[lag + 1 : lag + 1 + _FEW].any()), longest)
    bandwidth = min(2 * max(1, shown), longest)
    lags = np.arange(1, bandwidth + 1)
    weighted = np.minimum(1, 2 * (1 - lags / bandwidth)) * covariances[1 : bandwidth + 1]
    spectrum, slope = covariances[0] + 2 * weighted.sum(), 2 * (lags * weighted).sum()
    if spectrum <= 0:
        return 1
    best: float = (1.5 * float(slope / spectrum) ** 2 * count) ** (1 / 3)
    return max(1, min(math.ceil(best), count // 3))
