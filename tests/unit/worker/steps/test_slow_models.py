"""Of a slow model only what is likely to be the fastest is measured, and the rest is told."""

from __future__ import annotations

import functools
import time
from collections import Counter

import pytest
import torch
from torch import Tensor

from shared.job import Step
from shared.quantization_spec import RUNTIMES, Runtime
from worker.inference import BatchRange
from worker.progress import ProgressTracker
from worker.runtimes import EagerSession
from worker.steps import slow_models
from worker.steps.contenders import Contender
from worker.steps.slow_models import Kind, worth_rounds

INPUTS = (torch.zeros(1),)


class Sleepers:
    """Candidates that take these milliseconds, in their order; it counts how often each is called, and with what."""

    def __init__(self, **milliseconds: float) -> None:
        self.calls: Counter[str] = Counter()
        self.threads: set[tuple[int, int]] = set()
        self.candidates = {
            name: Contender(functools.partial(self._open, name, each), runtime=self._runtime(name))
            for name, each in milliseconds.items()
        }

    @staticmethod
    def _runtime(name: str) -> Runtime:
        return next((each for each in RUNTIMES if each in name), "torch")

    def _open(self, name: str, milliseconds: float, threads: int) -> EagerSession:
        def run(x: Tensor) -> tuple[Tensor]:
            self.calls[name] += 1
            self.threads.add((threads, torch.get_num_threads()))
            time.sleep(milliseconds / 1000)
            return (x,)

        return EagerSession(run)


def kept(given: Sleepers, tracker: ProgressTracker, wrong: tuple[str, ...] = ()) -> list[str]:
    fit = [name for name in given.candidates if name not in wrong]
    of_float, of_int8 = ([name for name in fit if name.startswith(kind)] for kind in ("float", "int8"))
    kinds = [Kind(of_float), Kind(of_int8, wrong)]
    return list(worth_rounds(given.candidates, kinds, INPUTS, BatchRange(1, 8), threads=2, tracker=tracker))


@pytest.fixture
def tracker() -> ProgressTracker:
    return ProgressTracker(lambda _: None, {Step.BENCHMARK: 1})


def test_of_a_quick_model_one_of_each_kind_is_called_and_all_are_measured(tracker: ProgressTracker) -> None:
    given = Sleepers(float_eager=1, float_frozen=1, int8_torch=1)
    assert kept(given, tracker) == list(given.candidates)
    assert given.calls == Counter(float_eager=1, int8_torch=1)
    assert tracker.warnings == []


def test_of_a_slow_model_the_fastest_of_each_kind_are_left(
    tracker: ProgressTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slow_models, "_SLOW_SECONDS", 0.05)
    given = Sleepers(float_eager=100, float_frozen=40, float_openvino=80, int8_torch=90, int8_onnxruntime=20)
    assert kept(given, tracker) == ["float_frozen", "int8_onnxruntime"]
    assert set(given.calls.values()) == {1}
    (told,) = tracker.warnings
    assert told.code == "slow_model"
    assert "of 5 candidates only frozen torch float (0.04" in told.message
    assert " s) and ONNX Runtime int8 (0.02" in told.message


def test_only_the_slow_kind_loses_candidates(tracker: ProgressTracker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow_models, "_SLOW_SECONDS", 0.05)
    given = Sleepers(float_eager=100, float_frozen=80, int8_torch=1, int8_onnxruntime=1)
    assert kept(given, tracker) == ["float_frozen", "int8_torch", "int8_onnxruntime"]
    assert given.calls["int8_onnxruntime"] == 0


def test_patience_with_a_kind_ends_when_each_runtime_was_called(
    tracker: ProgressTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slow_models, "_SLOW_SECONDS", 0.05)
    monkeypatch.setattr(slow_models, "_PATIENCE_SECONDS", 0.12)
    given = Sleepers(float_eager=80, float_frozen=1, float_onnxruntime=60, float_openvino=20, int8_torch=60)
    assert kept(given, tracker) == ["float_openvino", "int8_torch"]
    assert given.calls["float_frozen"] == 0, "torch has had its turn"
    assert given.calls["float_onnxruntime"] == 1
    assert "the fastest of 3 that were called once" in tracker.warnings[0].message


def test_what_is_wrong_is_neither_called_nor_measured_of_a_slow_model(
    tracker: ProgressTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slow_models, "_SLOW_SECONDS", 0.05)
    given = Sleepers(float_eager=60, int8_torch=60, int8_openvino=1)
    assert kept(given, tracker, wrong=("int8_openvino",)) == ["float_eager", "int8_torch"]
    assert given.calls["int8_openvino"] == 0
    quick = Sleepers(float_eager=1, int8_torch=1, int8_openvino=1)
    assert kept(quick, tracker, wrong=("int8_openvino",)) == list(quick.candidates)


def test_all_are_called_with_the_threads_that_they_are_measured_with(tracker: ProgressTracker) -> None:
    before = torch.get_num_threads()
    given = Sleepers(float_eager=1, int8_torch=1)
    kept(given, tracker)
    assert given.threads == {(2, 2)}
    assert torch.get_num_threads() == before
