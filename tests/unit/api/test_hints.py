"""Hints are sent in the background: in order, best effort, never in the way."""

from __future__ import annotations

import threading

from api.jobs.hints import HintPublisher


def test_hints_are_published_in_order_and_before_the_end() -> None:
    published: list[tuple[str, str | None]] = []
    hints = HintPublisher(lambda *hint: published.append(hint))
    hints.start()
    for job, worker in (("a", None), ("b", "wrk_1"), ("c", None)):
        hints.hint(job, worker)
    hints.stop(timeout_seconds=30)
    assert published == [("a", None), ("b", "wrk_1"), ("c", None)]


def test_a_hint_that_fails_does_not_stop_the_next() -> None:
    published: list[str] = []

    def publish(job_id: str, _: str | None) -> None:
        if job_id == "a":
            raise ConnectionError
        published.append(job_id)

    hints = HintPublisher(publish)
    hints.start()
    hints.hint("a")
    hints.hint("b")
    hints.stop(timeout_seconds=30)
    assert published == ["b"]


def test_a_broker_that_hangs_holds_up_neither_the_caller_nor_the_end() -> None:
    """Far more hints than there is room for return at once while the broker never answers."""
    answered = threading.Event()
    hints = HintPublisher(lambda *_: answered.wait(60))
    hints.start()
    for number in range(20_000):
        hints.hint(f"job_{number}")
    hints.stop(timeout_seconds=0.1)
    assert not answered.is_set()
    answered.set()
