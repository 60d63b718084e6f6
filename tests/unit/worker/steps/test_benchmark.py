"""Batch sizes that the model cannot take are measured at one that it can."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from shared.job import Step
from shared.latency_report import BenchmarkResult
from shared.quantization_spec import BenchmarkSettings
from tests.unit.worker.test_datasets import spec
from worker.datasets import InMemorySamples
from worker.energy import NOT_FOR_ALL, NOT_THERE
from worker.inference import BatchRange
from worker.progress import ProgressTracker
from worker.runtimes import EagerSession
from worker.steps import benchmark as benchmarking
from worker.steps.benchmark import benchmark
from worker.steps.contenders import Contender
from worker.steps.load import LoadedModel

SAMPLES = InMemorySamples((torch.randn(5, 4),))


def pairs_only(x: Tensor) -> tuple[Tensor]:
    """A model that was exported with any batch and takes even ones."""
    return (x.reshape(-1, 2, 4).sum(1),)


def in_memory(model: Callable[..., Any]) -> Contender:
    return Contender(lambda _: EagerSession(model))


def run(batch: BatchRange, **settings: object) -> tuple[list[tuple[int, int, str | None]], list[str]]:
    tracker = ProgressTracker(lambda _: None, {Step.BENCHMARK: 1})
    model = LoadedModel(pairs_only, (spec("x", (None, 4)),), ("output",), batch, batch.clamp(32))  # type: ignore[arg-type]  # any callable does
    candidates = dict.fromkeys(("float_eager", "float_frozen", "int8_torch"), in_memory(pairs_only))
    told: list[float] = []
    results = benchmark(
        model, candidates, SAMPLES, BenchmarkSettings.model_validate({"max_seconds": 0.01} | settings),
        seed=0, tracker=tracker, advance=lambda done, total, detail=None: told.append(done / total),
    )  # fmt: skip
    assert told == sorted(told)
    return [(r.batch_size, r.threads, r.note) for r in results], [w.code for w in tracker.warnings]


def test_more_samples_than_there_are_repeat_the_last() -> None:
    results, warnings = run(BatchRange(1, 100), batch_sizes=[2, 8])
    assert [result[:2] for result in results] == [(2, 1), (8, 1)]
    assert warnings == []


def test_a_batch_size_at_which_the_model_fails_is_replaced_and_noted() -> None:
    results, warnings = run(BatchRange(1, 100), batch_sizes=[3])
    ((size, _, note),) = results
    assert size == 32
    assert (note or "").startswith("A batch of 3 is not taken by eager torch float: measured at 32.")
    assert warnings == ["batch_size_not_taken"]


def test_sizes_that_come_to_the_same_are_measured_once() -> None:
    results, warnings = run(BatchRange(4, 4), batch_sizes=[1, 4, 8])
    assert [result[0] for result in results] == [4]
    assert warnings == ["batch_size_not_taken"] * 2


def test_more_threads_than_cores_are_measured_with_the_cores_and_noted() -> None:
    cores = len(os.sched_getaffinity(0))
    results, warnings = run(BatchRange(1, 100), batch_sizes=[2], threads=[1, cores, cores + 1, 256])
    assert sorted({threads for _, threads, _ in results}) == sorted({1, cores})
    assert len(results) == len({1, cores})
    assert warnings == ["too_many_threads"] * 2
    ((_, _, note),) = run(BatchRange(1, 100), batch_sizes=[2], threads=[cores + 1])[0]
    assert f"{cores + 1} threads on {cores} cores: measured with {cores}." in (note or "")


def test_what_does_not_fit_the_time_limit_is_told_before_and_shortened_alike() -> None:
    """Four combinations in four fifths of 5 s that run for real: a second each at most, of 600 asked for."""
    tracker = ProgressTracker(lambda _: None, {Step.BENCHMARK: 1})
    model = LoadedModel(pairs_only, (spec("x", (None, 4)),), ("output",), BatchRange(1, 100), 32)  # type: ignore[arg-type]  # any callable does
    told_at_first: list[str] = []

    def slow(x: Tensor) -> tuple[Tensor]:
        if tracker.warnings and not told_at_first:
            told_at_first.append(tracker.warnings[0].message)
        time.sleep(0.02)  # a model that takes time, not a wait for one
        return (x,)

    results = benchmark(
        model, dict.fromkeys(("float_eager", "int8_torch"), in_memory(slow)), SAMPLES,
        BenchmarkSettings(batch_sizes=[2, 4, 6, 8], max_seconds=600), ends_at_seconds=5.0,
        seed=0, tracker=tracker, advance=lambda done, total, detail=None: None,
    )  # fmt: skip
    assert [result.batch_size for result in results] == [2, 4, 6, 8]
    assert tracker.warnings[0].code == "benchmark_shortened"
    assert "4 combinations" in tracker.warnings[0].message
    assert told_at_first
    assert max(result.rounds for result in results) < 30


def test_combinations_for_which_no_time_is_left_are_named_and_the_first_is_measured() -> None:
    moments = itertools.count(0, 100)
    tracker = ProgressTracker(lambda _: None, {Step.BENCHMARK: 1}, clock=lambda: float(next(moments)))
    model = LoadedModel(pairs_only, (spec("x", (None, 4)),), ("output",), BatchRange(1, 100), 32)  # type: ignore[arg-type]  # any callable does
    results = benchmark(
        model, dict.fromkeys(("float_eager", "int8_torch"), in_memory(pairs_only)), SAMPLES,
        BenchmarkSettings(batch_sizes=[2, 4, 6], max_seconds=0.01), ends_at_seconds=300,
        seed=0, tracker=tracker, advance=lambda done, total, detail=None: None,
    )  # fmt: skip
    assert [result.batch_size for result in results] == [2]
    assert [warning.code for warning in tracker.warnings][-1] == "benchmark_cut"
    assert "2 of 3 combinations" in tracker.warnings[-1].message


def test_each_combination_is_measured_on_a_copy_that_was_never_called() -> None:
    """Kernels of oneDNN keep the shape of their first call: no other size and no earlier step may be first."""
    shapes_of_copies: list[set[tuple[int, ...]]] = []

    def opened(_: int) -> EagerSession:
        shapes: set[tuple[int, ...]] = set()
        shapes_of_copies.append(shapes)

        def model(x: Tensor) -> tuple[Tensor]:
            shapes.add(tuple(x.shape))
            return (x,)

        return EagerSession(model)

    tracker = ProgressTracker(lambda _: None, {Step.BENCHMARK: 1})
    model = LoadedModel(pairs_only, (spec("x", (None, 4)),), ("output",), BatchRange(1, 100), 32)  # type: ignore[arg-type]  # any callable does
    benchmark(
        model, dict.fromkeys(("float_eager", "int8_torch"), Contender(opened)), SAMPLES,
        BenchmarkSettings(batch_sizes=[2, 4], max_seconds=0.01),
        seed=0, tracker=tracker, advance=lambda done, total, detail=None: None,
    )  # fmt: skip
    assert {shape for shapes in shapes_of_copies for shape in shapes} == {(2, 4), (4, 4)}
    assert all(len(shapes) == 1 for shapes in shapes_of_copies)


def measured(batch_sizes: list[int]) -> list[BenchmarkResult]:
    model = LoadedModel(pairs_only, (spec("x", (None, 4)),), ("output",), BatchRange(1, 100), 32)  # type: ignore[arg-type]  # any callable does
    return benchmark(
        model, dict.fromkeys(("float_eager", "int8_torch"), in_memory(pairs_only)), SAMPLES,
        BenchmarkSettings(batch_sizes=batch_sizes, max_seconds=0.01), seed=0,
        tracker=ProgressTracker(lambda _: None, {Step.BENCHMARK: 1}), advance=lambda done, total, detail=None: None,
    )  # fmt: skip


class Counter:
    """Counts a millijoule a run; a package of RAPL there is not on every machine."""

    def joules_of(self, run: Callable[[], object], seconds: float) -> float:
        run()
        return 0.001


def test_energy_is_of_one_sample_and_told_at_the_first_combination(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmarking, "energy_counter", Counter)
    first, second = measured(batch_sizes=[4, 8])
    assert [each.energy_joules for each in first.candidates] == [0.00025, 0.00025]
    assert (first.energy or "").startswith("RAPL counts all of the CPU's packages")
    assert [each.energy_joules for each in second.candidates] == [None, None]


def test_why_there_is_no_energy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmarking, "energy_counter", lambda: None)
    [result] = measured(batch_sizes=[4])
    assert result.energy in (NOT_FOR_ALL, NOT_THERE)
