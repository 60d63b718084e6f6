"""The benchmark's own arithmetic and bookkeeping; never how fast this machine is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from shared.job_report import BenchmarkResult
from worker.latency import FLOAT_EAGER, FLOAT_FROZEN, INT8, MIN_ROUNDS, measure_latency, speedup_ci95


def nothing() -> None:
    return None


def measure(max_seconds: float = 0.05) -> BenchmarkResult:
    candidates = {FLOAT_EAGER: nothing, FLOAT_FROZEN: nothing, INT8: nothing}
    return measure_latency(candidates, batch_size=4, threads=1, max_seconds=max_seconds, seed=3)


def test_figures_are_those_of_the_raw_samples() -> None:
    result = measure()
    by_name = {candidate.name: candidate for candidate in result.candidates}
    assert set(by_name) == {FLOAT_EAGER, FLOAT_FROZEN, INT8}
    for candidate in result.candidates:
        assert len(candidate.samples_ms) == result.rounds
        p50, p90 = np.percentile(candidate.samples_ms, [50, 90])
        assert candidate.p50_ms == pytest.approx(p50, abs=1e-5)
        assert candidate.p90_ms == pytest.approx(p90, abs=1e-5)
        assert candidate.throughput_per_second == pytest.approx(4 / candidate.p50_ms * 1000)
    assert result.speedup == pytest.approx(by_name[result.baseline].p50_ms / by_name[INT8].p50_ms)
    assert result.speedup_vs_eager == pytest.approx(by_name[FLOAT_EAGER].p50_ms / by_name[INT8].p50_ms)


def test_the_baseline_is_the_float_candidate_with_the_lowest_p50() -> None:
    result = measure()
    of_float = [candidate for candidate in result.candidates if candidate.name != INT8]
    assert result.baseline == min(of_float, key=lambda candidate: candidate.p50_ms).name


def test_the_interval_brackets_the_speedup_and_decides_significance() -> None:
    result = measure()
    low, high = result.speedup_ci95
    assert low <= result.speedup <= high
    assert result.significant == (low > 1 or high < 1)


def test_p99_is_null_with_fewer_than_a_hundred_samples() -> None:
    result = measure(max_seconds=1e-9)
    assert result.rounds == MIN_ROUNDS
    assert all(candidate.p99_ms is None for candidate in result.candidates)
    assert "Only 5 rounds" in (result.note or "")


def test_candidates_run_interleaved_in_a_changing_order() -> None:
    calls: list[str] = []
    names = [FLOAT_EAGER, FLOAT_FROZEN, INT8]
    candidates = {name: (lambda name=name: calls.append(name)) for name in names}
    result = measure_latency(candidates, batch_size=1, threads=1, max_seconds=0.05, seed=0)
    pairs = calls[-6 * result.rounds :]
    timed = pairs[1::2]
    assert pairs[::2] == timed, "an untimed call of the same candidate goes before each timed one"
    rounds = [tuple(timed[start : start + 3]) for start in range(0, len(timed), 3)]
    assert all(sorted(order) == sorted(names) for order in rounds)
    assert len(set(rounds)) > 1


def test_threads_are_set_for_the_measurement_and_restored() -> None:
    before = torch.get_num_threads()
    seen = set()
    candidates = {name: (lambda: seen.add(torch.get_num_threads())) for name in (FLOAT_EAGER, INT8)}
    measure_latency(candidates, batch_size=1, threads=before + 1, max_seconds=0.01, seed=0)
    assert seen == {before + 1}
    assert torch.get_num_threads() == before


def test_threads_are_restored_when_a_candidate_raises() -> None:
    before = torch.get_num_threads()

    def fail() -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        measure_latency({FLOAT_EAGER: nothing, INT8: fail}, batch_size=1, threads=before + 1, max_seconds=0.01, seed=0)
    assert torch.get_num_threads() == before


def test_a_constant_ratio_has_an_interval_of_no_width() -> None:
    int8_ms = np.random.default_rng(0).lognormal(size=200)
    assert speedup_ci95(2 * int8_ms, int8_ms) == pytest.approx((2.0, 2.0))


def test_the_interval_covers_the_true_ratio_about_as_often_as_it_says() -> None:
    """100 experiments with a true ratio of medians of 1.5: a 95 % interval covers it in 88 or more (p > 0.998)."""
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(100):
        low, high = speedup_ci95(1.5 * generator.lognormal(sigma=0.2, size=60), generator.lognormal(sigma=0.2, size=60))
        covered += low <= 1.5 <= high
    assert 88 <= covered <= 100


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
