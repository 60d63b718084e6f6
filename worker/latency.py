"""Latency of several candidates of one model, interleaved in one process, and a speedup that says how sure it is.

Each round runs every candidate once, in a random order, so that whatever else the machine does falls on all of them
alike; rounds are paired for the interval of the speedup. An untimed call goes before each timed one: the caches then
hold what a server that runs this model alone has there, not the candidate that ran before.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from shared.job_report import BenchmarkResult, LatencyStats

INT8 = "int8"
FLOAT_EAGER = "float_eager"
FLOAT_FROZEN = "float_frozen"

MIN_ROUNDS = 5
MAX_ROUNDS = 500
_ENOUGH_ROUNDS = 200  # and then only as long as the interval is wider than this:
_ENOUGH_RELATIVE_INTERVAL = 0.02
_CHECK_EVERY_ROUNDS = 50
_MIN_WARMUP_RUNS = 3  # TorchScript optimises during its first two runs
_MAX_WARMUP_RUNS = 20
_WARMUP_SHARE = 0.1  # of the time budget
_RESAMPLES = 2000
_P99_MIN_SAMPLES = 100
_NOISY_IQR = 0.10  # of the median, as torch.utils.benchmark warns

Candidate = Callable[[], Any]


def measure_latency(
    candidates: Mapping[str, Candidate],
    *,
    batch_size: int,
    threads: int,
    max_seconds: float,
    seed: int,
    advance: Callable[[float], None] = lambda _: None,
) -> BenchmarkResult:
    """Measure the candidates, one of them `int8` and one `float_eager`, at this many threads.

    Rounds go on until `max_seconds` have passed or the interval of the speedup is narrow; never fewer than five.
    `advance` is told the share of the budget that is used, in 0..1.
    """
    with computing_with(threads), torch.inference_mode(), _no_garbage_collection():
        samples_ms = _run_rounds(candidates, max_seconds, seed, advance)
    medians = {name: float(np.median(samples)) for name, samples in samples_ms.items()}
    baseline = min((name for name in candidates if name != INT8), key=medians.__getitem__)
    low, high = speedup_ci95(samples_ms[baseline], samples_ms[INT8], seed)
    return BenchmarkResult(
        batch_size=batch_size,
        threads=threads,
        rounds=len(samples_ms[INT8]),
        baseline=baseline,
        candidates=[_stats(name, samples, batch_size) for name, samples in samples_ms.items()],
        speedup=medians[baseline] / medians[INT8],
        speedup_ci95=(low, high),
        significant=low > 1 or high < 1,
        speedup_vs_eager=medians[FLOAT_EAGER] / medians[INT8],
        note=_doubts(samples_ms),
    )


def speedup_ci95(baseline_ms: NDArray[np.float64], int8_ms: NDArray[np.float64], seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap interval of `median(baseline) / median(int8)` over paired rounds (Efron 1979).

    Rounds are drawn with replacement, both candidates' samples of a round together, 2,000 times.
    """
    rounds = len(baseline_ms)
    drawn = np.random.default_rng(seed).integers(0, rounds, (_RESAMPLES, rounds))
    ratios = np.median(baseline_ms[drawn], axis=1) / np.median(int8_ms[drawn], axis=1)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return float(low), float(high)


def _run_rounds(
    candidates: Mapping[str, Candidate], max_seconds: float, seed: int, advance: Callable[[float], None]
) -> dict[str, NDArray[np.float64]]:
    names = list(candidates)
    baselines = [name for name in names if name != INT8]
    order = random.Random(seed)  # noqa: S311  # an order, not a secret
    started_at = time.perf_counter()
    for name in names:
        _warm_up(candidates[name], _WARMUP_SHARE * max_seconds / len(names))
    taken: dict[str, list[float]] = {name: [] for name in names}
    for rounds in range(1, MAX_ROUNDS + 1):
        order.shuffle(names)
        for name in names:
            candidates[name]()
            taken[name].append(_time_ms(candidates[name]))
        used = (time.perf_counter() - started_at) / max_seconds
        advance(min(1.0, max(used, rounds / MAX_ROUNDS)))
        if rounds >= MIN_ROUNDS and used >= 1:
            break
        if rounds >= _ENOUGH_ROUNDS and rounds % _CHECK_EVERY_ROUNDS == 0:
            arrays = {name: np.array(values) for name, values in taken.items()}
            baseline = min(baselines, key=lambda name: float(np.median(arrays[name])))
            low, high = speedup_ci95(arrays[baseline], arrays[INT8], seed)
            if high - low < _ENOUGH_RELATIVE_INTERVAL * low:
                break
    return {name: np.array(taken[name]) for name in candidates}


def _warm_up(candidate: Candidate, budget_seconds: float) -> None:
    started_at = time.perf_counter()
    for run in range(_MAX_WARMUP_RUNS):
        if run >= _MIN_WARMUP_RUNS and time.perf_counter() - started_at > budget_seconds:
            return
        candidate()


def _time_ms(candidate: Candidate) -> float:
    began_at = time.perf_counter_ns()
    candidate()
    return (time.perf_counter_ns() - began_at) / 1e6


def _stats(name: str, samples_ms: NDArray[np.float64], batch_size: int) -> LatencyStats:
    p50, p90, p99 = (float(value) for value in np.percentile(samples_ms, [50, 90, 99]))
    return LatencyStats(
        name=name,
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99 if len(samples_ms) >= _P99_MIN_SAMPLES else None,
        mean_ms=float(samples_ms.mean()),
        throughput_per_second=batch_size / p50 * 1000,
        samples_ms=[round(float(sample), 5) for sample in samples_ms],
    )


def _doubts(samples_ms: Mapping[str, NDArray[np.float64]]) -> str | None:
    noisy = []
    for name, samples in samples_ms.items():
        low, median, high = np.percentile(samples, [25, 50, 75])
        if (high - low) / median > _NOISY_IQR:
            noisy.append(f"{name} {100 * (high - low) / median:.0f} %")
    doubts = []
    if noisy:
        doubts.append(f"Noisy: the interquartile range exceeds 10 % of the median ({', '.join(noisy)}).")
    rounds = len(samples_ms[INT8])
    if rounds < 2 * MIN_ROUNDS:
        doubts.append(f"Only {rounds} rounds fitted into the time budget.")
    return " ".join(doubts) or None


@contextmanager
def computing_with(count: int) -> Iterator[None]:
    """Compute with this many threads inside the block, and with as many as before after it."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
