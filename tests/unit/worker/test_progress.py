"""What a recipe tells while it runs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from shared.errors import DatasetError, InternalError
from shared.job import Step
from worker.progress import LogMessage, MetricMessage, ProgressTracker, runner_message_adapter

Told = list[Any]
WEIGHTS = {Step.LOAD: 1.0, Step.CALIBRATE: 6.0, Step.PACKAGE: 3.0}


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def told() -> Told:
    return []


@pytest.fixture
def tracker(clock: Clock, told: Told) -> ProgressTracker:
    return ProgressTracker(told.append, WEIGHTS, clock=clock)


def test_fractions_follow_the_weights_of_the_steps(tracker: ProgressTracker, told: Told, clock: Clock) -> None:
    with tracker.step(Step.LOAD, "Loading"):
        clock.now += 1
    with tracker.step(Step.CALIBRATE, "Observing") as advance:
        clock.now += 1
        advance(5, 10, "half")
    with tracker.step(Step.PACKAGE, "Writing"):
        clock.now += 1
    seen = [(message.step, round(message.fraction, 6), message.message) for message in told]
    assert seen == [
        (Step.LOAD, 0.0, "Loading"),
        (Step.LOAD, 0.1, "Loading"),
        (Step.CALIBRATE, 0.1, "Observing"),
        (Step.CALIBRATE, 0.4, "half"),
        (Step.PACKAGE, 0.7, "Writing"),
        (Step.PACKAGE, 1.0, "Writing"),
    ]


def test_the_fraction_never_falls(tracker: ProgressTracker, told: Told, clock: Clock) -> None:
    with tracker.step(Step.CALIBRATE, "Observing") as advance:
        for done in (9, 3, 12, 0):
            clock.now += 1
            advance(done, 10)
    fractions = [message.fraction for message in told]
    assert fractions == sorted(fractions)
    assert fractions[-1] == pytest.approx(0.7)


def test_messages_are_at_most_five_a_second(tracker: ProgressTracker, told: Told, clock: Clock) -> None:
    with tracker.step(Step.CALIBRATE, "Observing") as advance:
        for done in range(1000):
            clock.now += 0.001
            advance(done, 1000)
    assert len(told) <= 2 + 5


def test_a_step_is_told_at_once_however_soon_after_the_last(tracker: ProgressTracker, told: Told) -> None:
    with tracker.step(Step.LOAD, "Loading"):
        pass
    with tracker.step(Step.CALIBRATE, "Observing"):
        pass
    assert [message.message for message in told] == ["Loading", "Observing"]


def test_the_time_left_is_estimated_from_the_time_taken(tracker: ProgressTracker, told: Told, clock: Clock) -> None:
    with tracker.step(Step.LOAD, "Loading"):
        clock.now += 2  # a tenth of the work in 2 s: 18 s are left
    assert told[0].eta_seconds is None
    assert told[1].eta_seconds == pytest.approx(18.0)


def test_the_time_left_moves_smoothly_towards_a_new_estimate(
    tracker: ProgressTracker, told: Told, clock: Clock
) -> None:
    with tracker.step(Step.LOAD, "Loading"):
        clock.now += 2
    with tracker.step(Step.CALIBRATE, "Observing") as advance:
        clock.now += 2
        advance(1, 6)
        # A fifth in 4 s says 16 s; the first estimate, 18 s, has counted down to 16 s too.
        assert told[-1].eta_seconds == pytest.approx(16.0)
        clock.now += 4
        advance(1, 6)
        # Now a fifth in 8 s says 32 s, and the old one has come to 12 s: 0.3 of the way from 12 to 32.
        assert told[-1].eta_seconds == pytest.approx(18.0)


def test_steps_are_timed_also_when_they_raise(tracker: ProgressTracker, clock: Clock) -> None:
    def fail() -> None:
        with tracker.step(Step.LOAD, "Loading"):
            clock.now += 2.5
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    assert tracker.timings == {"load": 2.5}


def test_a_warning_is_told_and_kept_once(tracker: ProgressTracker, told: Told) -> None:
    tracker.warn("few", "Too few.", "Give more.")
    tracker.warn("few", "Too few.", "Give more.")
    assert told == [LogMessage(kind="warning", message="Too few.")]
    assert [(warning.code, warning.hint) for warning in tracker.warnings] == [("few", "Give more.")]


def test_metrics_are_told_with_what_they_belong_to(tracker: ProgressTracker, told: Told) -> None:
    tracker.metric(name="loss", value=0.5, epoch=2)
    assert told == [MetricMessage(data={"name": "loss", "value": 0.5, "epoch": 2})]


def test_no_units_of_work_count_as_done(tracker: ProgressTracker, told: Told, clock: Clock) -> None:
    with tracker.step(Step.LOAD, "Loading") as advance:
        clock.now += 1
        advance(0, 0)
    assert told[-1].fraction == pytest.approx(0.1)


def test_what_a_terminal_would_obey_is_replaced_in_every_message() -> None:
    error = {"code": "model_unsafe", "message": "a\x1b[2J\0", "owner": "user", "hint": "\u202e", "step": "load"}
    for message in (
        {"kind": "log", "message": "a\x1b]0;x\x07"},
        {"kind": "progress", "step": "load", "fraction": 0.5, "message": "\x9b31m"},
        {"kind": "failed", "error": error},
    ):
        heard = runner_message_adapter.validate_json(json.dumps(message)).model_dump_json()
        assert not [part for part in ("\\u001b", "\\u0000", "\x9b", "\u202e") if part in heard]


@pytest.mark.parametrize(
    "message",
    [
        '{"kind": "failed", "error": {"code": "<script>", "message": "", "owner": "user"}}',
        '{"kind": "failed", "error": {"code": "a", "message": "", "owner": "nobody"}}',
        '{"kind": "failed", "error": {"code": "a", "message": "", "owner": "user", "step": "zz"}}',
        '{"kind": "progress", "step": "load", "fraction": 0.5, "eta_seconds": Infinity}',
    ],
)
def test_a_message_of_made_up_words_or_endless_numbers_is_none(message: str) -> None:
    with pytest.raises(ValidationError):
        runner_message_adapter.validate_json(message)


@pytest.mark.parametrize(
    "data",
    [
        {f"k{number}": 1 for number in range(11)},
        {"Not A Name": 1},
        {"name": "x" * 301},
        {"value": int("9" * 4000)},
        {"value": [1]},
    ],
)
def test_a_figure_has_few_parts_and_each_is_small(data: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        runner_message_adapter.validate_json(f'{{"kind": "metric", "data": {json.dumps(data, default=str)}}}')


def test_a_figure_that_is_no_number_is_null_and_its_words_are_printable() -> None:
    text = '{"kind": "metric", "data": {"value": NaN, "least": -Infinity, "name": "a\\u001b]0;b\\u202e", "epoch": 2}}'
    data = runner_message_adapter.validate_json(text).data
    assert data == {"value": None, "least": None, "name": "a�]0;b�", "epoch": 2}
    assert MetricMessage(data={"value": float("inf"), "epoch": 2}).data == {"value": None, "epoch": 2}


@pytest.mark.parametrize(("code", "owner"), [("any_word", "user"), ("internal_error", "user"), ("dataset_error", "x")])
def test_a_failure_is_one_that_octavo_knows_and_has_its_owner(code: str, owner: str) -> None:
    for error in (DatasetError("no"), InternalError("no")):
        honest = {"kind": "failed", "error": error.to_job_error().model_dump()}
        assert runner_message_adapter.validate_python(honest).error.code == error.code
    with pytest.raises(ValidationError):
        runner_message_adapter.validate_python(
            {"kind": "failed", "error": {"code": code, "owner": owner, "message": "m"}}
        )
