"""A runner that floods its supervisor with words costs the database no more than another."""

from __future__ import annotations

from typing import Any

import pytest

from shared.job import Progress, Step
from worker import execution
from worker.execution import ProgressRecorder


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What would have been written."""
    found: list[Any] = []
    monkeypatch.setattr(ProgressRecorder, "_write", lambda _, write: found.append(write))
    return found


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> ProgressRecorder:
    monkeypatch.setattr(execution, "_MAX_EVENTS", 100)
    nothing: Any = None
    return ProgressRecorder(nothing, nothing)


def clock(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    monkeypatch.setattr(execution.time, "monotonic", lambda: seconds)


def test_a_step_that_begins_is_written_at_once_and_going_back_and_forth_is_not(
    recorder: ProgressRecorder, written: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock(monkeypatch, 1000.0)
    for number in range(1000):
        recorder.move((Step.LOAD, Step.CALIBRATE)[number % 2], Progress(fraction=0.5))
    assert len(written) == 2
    clock(monkeypatch, 1000.6)
    recorder.move(Step.LOAD, Progress(fraction=0.5))
    assert len(written) == 3


def test_progress_counts_among_the_events_and_goes_on_slowly_when_they_are_used_up(
    recorder: ProgressRecorder, written: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(60):
        clock(monkeypatch, 1000.0 + number)
        recorder.move(Step.TRAIN, Progress(fraction=0.5))
        recorder.tell("metric", {"name": "loss"})
    in_a_minute = len(written)
    for number in range(60):
        clock(monkeypatch, 1060.0 + number)
        recorder.move(Step.TRAIN, Progress(fraction=0.5))
        recorder.tell("metric", {"name": "loss"})
    assert 100 <= in_a_minute <= 102
    assert len(written) - in_a_minute == 2
