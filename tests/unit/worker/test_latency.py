"""The benchmark's own arithmetic and bookkeeping; never how fast this machine is."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from shared.latency_report import BenchmarkResult
from worker.candidate_names import FLOAT_EAGER, FLOAT_FROZEN
from worker.latency import (
    INT8,
    MAX_ROUNDS,
    MIN_ROUNDS,
    Candidate,
    Rounds,
    measure_latency,
    measure_rounds,
)
from worker.machine_state import CoreTime, MachineState


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


def test_candidates_run_interleaved_in_a_changing_order() -> None:
    calls: list[str] = []
    machine = Machine()
    names = [FLOAT_EAGER, FLOAT_FROZEN, INT8]

    def calling(name: str) -> Candidate:
        timed = machine.candidate(name, 0.001)

        def call() -> None:
            calls.append(name)
            timed()

        return call

    (sitting,) = measure_rounds(
        {name: calling(name) for name in names}, threads=1, max_seconds=0.5, seed=0, clock=lambda: machine.now,
        look=machine.look,
    )  # fmt: skip
    pairs = calls[-6 * sitting.count :]
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


@dataclass
class Machine:
    """A clock that only candidates move, and a core that others use as told; the real arithmetic does the rest."""

    now: float = 0.0
    used_by_others: Callable[[float], float] = lambda _: 0.0
    """Seconds of the core that others had until a moment."""
    calls: dict[str, int] = field(default_factory=dict)
    chance: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def candidate(self, name: str, seconds: float, *, spread: float = 0.01) -> Candidate:
        def call() -> None:
            self.calls[name] = self.calls.get(name, 0) + 1
            self.now += seconds * float(np.exp(self.chance.normal(0, spread)))

        return call

    def look(self, cores: Collection[int]) -> MachineState:
        times = {core: CoreTime(self.now + self.used_by_others(self.now), 0.0) for core in cores}
        return MachineState(self.now, self.now, times, 0, {}, 1.0)

    def rounds(self, max_seconds: float = 5.0, told: list[float] | None = None, **seconds: float) -> list[Rounds]:
        return measure_rounds(
            {name: self.candidate(name, each) for name, each in seconds.items()},
            int8=[name for name in seconds if name.startswith("int8")],
            threads=1, max_seconds=max_seconds, seed=0, clock=lambda: self.now, look=self.look,
            advance=(told if told is not None else []).append,
        )  # fmt: skip


def test_a_quick_steady_model_is_measured_until_there_is_a_p99_and_no_longer() -> None:
    machine = Machine()
    (sitting,) = machine.rounds(float_eager=0.001, int8=0.0005)
    assert sitting.count == 662
    assert sitting.doubts == []


def test_an_interval_that_stays_wide_goes_on_to_the_end() -> None:
    machine = Machine()
    candidates = {name: machine.candidate(name, 1e-6, spread=0.5) for name in ("float_eager", "int8")}
    sittings = measure_rounds(
        candidates, int8=["int8"], threads=1, max_seconds=5, seed=0, clock=lambda: machine.now, look=machine.look
    )
    assert sittings[0].count == MAX_ROUNDS


def test_the_budget_is_kept_to_one_round() -> None:
    machine = Machine()
    told: list[float] = []
    (sitting,) = machine.rounds(5.0, told, float_eager=0.02, float_frozen=0.015, int8=0.01)
    assert 5 <= machine.now < 5 + 2 * 0.06
    assert sitting.count > 40
    assert told == sorted(told)
    assert told[-1] == 1


def test_a_model_that_runs_for_minutes_is_called_once_to_warm_up_and_in_two_rounds() -> None:
    machine = Machine()
    (sitting,) = machine.rounds(5.0, float_eager=120.0, int8=60.0)
    assert machine.calls == {"float_eager": 1 + MIN_ROUNDS, "int8": 1 + MIN_ROUNDS}
    assert sitting.count == MIN_ROUNDS
    assert [doubt.told for doubt in sitting.doubts] == ["Only 2 rounds fitted into the time budget."]


def test_quick_rounds_are_ten_at_least_also_when_warming_up_took_all_the_time() -> None:
    machine = Machine()
    compiled: list[bool] = []
    quick = machine.candidate("int8", 0.001)

    def compiling() -> None:
        machine.now += 0.0 if compiled else 3.0
        compiled.append(True)
        quick()

    (sitting, *_) = measure_rounds(
        {"float_eager": machine.candidate("float_eager", 0.001), "int8": compiling}, int8=["int8"], threads=1,
        max_seconds=1.0, seed=0, clock=lambda: machine.now, look=machine.look,
    )  # fmt: skip
    assert sitting.count == 10


def test_calls_too_slow_for_ten_rounds_go_without_untimed_ones() -> None:
    machine = Machine()
    (sitting,) = machine.rounds(5.0, float_eager=0.4, int8=0.1)
    assert machine.calls["int8"] <= sitting.count + 3
    assert sitting.count >= 6


def test_noise_by_half_of_the_budget_is_answered_by_a_second_sitting_in_the_other_half() -> None:
    """Another process has two fifths of the core in the first three seconds."""
    machine = Machine(used_by_others=lambda now: 0.4 * min(now, 3.0))
    first, second = machine.rounds(5.0, float_eager=0.02, int8=0.01)
    assert [doubt.cause for doubt in first.doubts] == ["other_load"]
    assert second.causes == {"other_load"}, "half a second of it is left"
    assert machine.now < 5 + 0.1

    machine = Machine(used_by_others=lambda now: 0.4 * min(now, 2.0))
    first, second = machine.rounds(5.0, float_eager=0.02, int8=0.01)
    assert first.causes == {"other_load"}
    assert second.causes == set()


def test_there_is_one_retry_and_no_more() -> None:
    machine = Machine(used_by_others=lambda now: 0.4 * now)
    assert len(machine.rounds(5.0, float_eager=0.001, int8=0.0005)) == 2


def test_a_slow_model_is_not_measured_twice_beyond_its_budget() -> None:
    machine = Machine(used_by_others=lambda now: 0.4 * now)
    assert len(machine.rounds(5.0, float_eager=0.3, int8=0.2)) == 1
    assert machine.now < 5 + 1.0


def test_candidates_of_one_kind_are_compared_with_the_fastest() -> None:
    machine = Machine()
    (sitting,) = machine.rounds(2.0, float_eager=0.001, float_frozen=0.0005)
    assert set(sitting.samples_ms) == {"float_eager", "float_frozen"}
    (sitting,) = machine.rounds(2.0, alone=0.001)
    assert sitting.count >= 662


def slowed(milliseconds: float) -> Candidate:
    """Takes at least so long: an interval may be wide, but not on the wrong side."""

    def spin() -> None:
        end = time.perf_counter() + milliseconds / 1000
        while time.perf_counter() < end:
            pass

    return spin


def test_every_int8_candidate_is_compared_with_the_fastest_float_one() -> None:
    candidates = {
        FLOAT_EAGER: slowed(4), "float_onnxruntime": slowed(2), "int8": slowed(1), "int8_openvino": slowed(0.25)
    }  # fmt: skip
    result = measure_latency(
        candidates, int8=["int8", "int8_openvino"], batch_size=1, threads=1, max_seconds=1.0, seed=0
    )
    assert (result.baseline, result.int8) == ("float_onnxruntime", "int8_openvino")
    assert [each.name for each in result.speedups] == ["int8_openvino", "int8"]
    assert result.speedups[0].speedup == result.speedup > result.speedups[1].speedup > 1
    assert result.conclusion.startswith("OpenVINO int8 is ")
    assert result.speedup_vs_eager == result.speedups[0].speedup_vs_eager


def test_without_eager_float_nothing_is_said_of_it() -> None:
    result = measure_latency({"theirs": nothing, "ours": nothing}, int8=["ours"], batch_size=1, threads=1,
                             max_seconds=0.05, seed=0)  # fmt: skip
    assert result.speedup_vs_eager is None
    assert (result.baseline, result.int8) == ("theirs", "ours")


def test_equal_candidates_do_not_differ_and_words_say_so() -> None:
    result = measure_latency({FLOAT_EAGER: slowed(0.5), INT8: slowed(0.5)}, batch_size=1, threads=1, max_seconds=0.4,
                             seed=0)  # fmt: skip
    assert not result.significant
    assert result.conclusion.startswith("No significant difference between torch int8 and eager torch float")


def test_the_cores_are_named_and_are_those_that_were_run_on() -> None:
    seen: set[frozenset[int]] = set()
    candidates = {name: (lambda: seen.add(frozenset(os.sched_getaffinity(0)))) for name in (FLOAT_EAGER, INT8)}
    free = os.sched_getaffinity(0)
    result = measure_latency(candidates, batch_size=1, threads=1, max_seconds=0.02, seed=0)
    assert len(result.cores) == 1
    assert frozenset(result.cores) in seen
    assert seen == {frozenset(each.cores) for each in result.sittings}
    assert os.sched_getaffinity(0) == free


def test_the_figures_are_of_the_sitting_that_is_kept_and_both_are_told() -> None:
    result = measure()
    (kept,) = [each for each in result.sittings if each.kept]
    assert (kept.cores, kept.rounds, kept.speedup, kept.doubts) == (
        result.cores, result.rounds, result.speedup, result.doubts
    )  # fmt: skip
    assert ("Measured twice" in (result.note or "")) == (len(result.sittings) == 2)
    assert result.noisy == any(doubt.cause != "few_rounds" for doubt in result.doubts)


@pytest.mark.parametrize(("max_seconds", "has_p99"), [(10.0, True), (1e-9, False)])
def test_there_is_a_p99_only_where_there_are_samples_enough(max_seconds: float, has_p99: bool) -> None:
    for candidate in measure(max_seconds).candidates:
        assert (candidate.p99_ms is not None) is has_p99
        assert (candidate.p99_bound_ms is not None) is has_p99
        if candidate.p99_ms is not None and candidate.p99_bound_ms is not None:
            assert candidate.p50_ms <= candidate.p99_ms <= candidate.p99_bound_ms
