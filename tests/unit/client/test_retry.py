"""Pauses between retries: growing, jittered, and the server's word wins."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest

from octavo import _retry
from octavo._retry import delay_seconds


@pytest.fixture(autouse=True)
def _usual_delays(monkeypatch: pytest.MonkeyPatch, settings: None) -> None:
    monkeypatch.setattr(_retry, "FIRST_DELAY_SECONDS", 0.5)
    monkeypatch.setattr(_retry, "LONGEST_DELAY_SECONDS", 8.0)


@pytest.mark.parametrize(("attempt", "longest"), [(0, 0.5), (1, 1.0), (2, 2.0), (4, 8.0), (50, 8.0)])
def test_the_pause_doubles_up_to_a_limit_less_a_quarter_at_most(attempt: int, longest: float) -> None:
    delays = {delay_seconds(attempt) for _ in range(50)}
    assert all(0.75 * longest <= delay <= longest for delay in delays)
    assert len(delays) > 1


def test_retry_after_in_seconds_wins() -> None:
    assert delay_seconds(0, {"retry-after": "7"}) == 7.0


def test_retry_after_as_a_date_wins() -> None:
    assert delay_seconds(0, {"retry-after": formatdate(time.time() + 60, usegmt=True)}) == pytest.approx(60, abs=2)


def test_retry_after_is_obeyed_within_reason() -> None:
    assert delay_seconds(0, {"retry-after": "86400"}) == 120.0


@pytest.mark.parametrize("value", ["soon", "", "-5"])
def test_a_senseless_retry_after_does_no_harm(value: str) -> None:
    assert 0 <= delay_seconds(0, {"retry-after": value}) <= 0.5
