"""Waiting for a job: streams, long polls, restarts, timeouts, Ctrl-C, and what becomes of it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

import octavo
from octavo._async import events as async_events
from octavo._sync import events as sync_events
from tests.unit.client import samples
from tests.unit.client.scripted_server import Dropped, Reply, Request, Script, ScriptedServer, as_json, problem

Serve = Callable[[Script], ScriptedServer]
HISTORY = [
    samples.event(1, "status", status="queued", attempt=0),
    samples.event(2, "status", status="running", attempt=1),
    samples.event(3, "progress", step="load", fraction=0.2, message="Loading", eta_seconds=3.0),
    samples.event(4, "warning", message="Only 20 samples."),
    samples.event(5, "progress", step="evaluate", fraction=0.7, message="", eta_seconds=None),
    samples.event(6, "status", status="succeeded", attempt=1),
]
ERROR = {"code": "dataset_not_finite", "message": "NaN in x.", "hint": "Drop it.", "owner": "user", "step": "load"}


class JobServer:
    """A job whose events come `step` at a time, by stream and by poll; `broken` is called before each answer."""

    def __init__(
        self,
        *,
        final: str = "succeeded",
        step: int = 100,
        streams: bool = True,
        broken: Callable[[Request], None] = lambda _: None,
    ) -> None:
        self.final = final
        self.step = step
        self.streams = streams
        self.broken = broken
        self.known = 0
        self.history = [*HISTORY[:-1], samples.event(6, "status", status=final, attempt=1)]

    def __call__(self, request: Request) -> Reply:
        self.broken(request)
        if request.path.endswith("/events"):
            return self.events(request)
        if "wait" in request.query:
            self.known += self.step
        finished = self.known >= len(self.history)
        etag = f'"{min(self.known, len(self.history))}"'
        if request.headers["If-None-Match"] == etag:
            time.sleep(0.05)  # a server would wait for a change
            return Reply(304, headers={"ETag": etag})
        error = ERROR if self.final == "failed" else None
        changes: dict[str, Any] = {"error": error} if finished else {"step": "load"}
        return as_json(samples.job(self.final if finished else "running", **changes), ETag=etag)

    def events(self, request: Request) -> Reply:
        if request.headers["Accept"] != "text/event-stream":
            after = int(request.query["after"])
            return as_json(samples.event_page(*self.history[after : max(self.known, after)]))
        if not self.streams:
            return problem(406, "not_acceptable")
        after = int(request.headers["Last-Event-ID"])
        self.known = max(self.known, min(after + self.step, len(self.history)))
        text = ": ping\n\n" + "".join(
            f"id: {event['seq']}\nevent: {event['kind']}\ndata: {json.dumps(event)}\n\n"
            for event in self.history[after : self.known]
        )
        return Reply(200, text.encode(), {"Content-Type": "text/event-stream"})


def wait(server: ScriptedServer, **options: Any) -> tuple[octavo.Job, list[int]]:
    seen: list[int] = []
    with octavo.Client(server.url, max_retries=0) as client:
        job = client.jobs.get(samples.JOB_ID).wait(on_event=lambda event: seen.append(event.seq), **options)
        return job, seen


def streams(server: ScriptedServer) -> list[str]:
    """The Last-Event-IDs that streams were asked for with."""
    return [request.headers["Last-Event-ID"] for request in server.requests if request.headers["Last-Event-ID"]]


def test_a_stream_tells_everything_and_the_report_is_there(serve: Serve) -> None:
    server = serve(JobServer())
    job, seen = wait(server)
    assert (job.status, seen) == ("succeeded", [1, 2, 3, 4, 5, 6])
    assert job.report.verdict.word == "recommended"
    assert streams(server) == ["0"]


def test_a_stream_that_ends_early_goes_on_after_its_last_event(serve: Serve) -> None:
    """Every event once, none twice."""
    server = serve(JobServer(step=2))
    _, seen = wait(server)
    assert seen == [1, 2, 3, 4, 5, 6]
    assert streams(server) == ["0", "2", "4"]


def test_without_streams_it_polls(serve: Serve) -> None:
    """A proxy that refuses event streams costs nothing but latency."""
    server = serve(JobServer(step=2, streams=False))
    job, seen = wait(server)
    assert (job.status, seen) == ("succeeded", [1, 2, 3, 4, 5, 6])
    assert len(streams(server)) == 1
    polls = [request for request in server.requests if "wait" in request.query]
    assert all(request.headers["If-None-Match"] for request in polls)


def test_something_that_is_no_stream_is_not_taken_for_one(serve: Serve) -> None:
    """Such as a proxy's page with status 200."""
    script = JobServer(step=3)

    def page(request: Request) -> Reply:
        if request.headers["Accept"] == "text/event-stream":
            return Reply(200, b"<html>", {"Content-Type": "text/html"})
        return script(request)

    _, seen = wait(serve(page))
    assert seen == [1, 2, 3, 4, 5, 6]


def broken_at(*numbers: int) -> Callable[[Request], None]:
    """Break the connection at these requests, counted from 0."""
    count = iter(range(1000))

    def broken(_: Request) -> None:
        if next(count) in numbers:
            raise Dropped

    return broken


def test_a_restart_of_the_server_is_lived_through(serve: Serve) -> None:
    server = serve(JobServer(step=2, broken=broken_at(1, 2, 4, 5, 6, 7)))
    job, seen = wait(server)
    assert (job.status, seen) == ("succeeded", [1, 2, 3, 4, 5, 6])


def test_a_server_that_stays_away_is_an_error(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync_events, "TOLERATED_FAILURES", 3)
    server = serve(JobServer(broken=broken_at(*range(1, 1000))))
    with pytest.raises(octavo.APIConnectionError):
        wait(server)
    assert len(server.requests) == 5


def test_a_failed_job_raises_with_its_reason(serve: Serve) -> None:
    with pytest.raises(octavo.JobRefused, match=r"NaN in x\. \[dataset_not_finite\]") as raised:
        wait(serve(JobServer(final="failed")))
    assert raised.value.error.owner == "user"
    assert raised.value.job.id == samples.JOB_ID


def test_a_cancelled_job_raises(serve: Serve) -> None:
    with pytest.raises(octavo.JobCancelled):
        wait(serve(JobServer(final="cancelled")))


@pytest.mark.parametrize("final", ["failed", "cancelled"])
def test_raise_on_failure_false_returns_it(serve: Serve, final: str) -> None:
    job, _ = wait(serve(JobServer(final=final)), raise_on_failure=False)
    assert job.status == final
    with pytest.raises(octavo.JobFailed if final == "failed" else octavo.JobCancelled):
        _ = job.report


def test_a_timeout_ends_the_waiting_and_not_the_job(serve: Serve) -> None:
    server = serve(JobServer(step=0))
    with pytest.raises(octavo.WaitTimeout, match=r"is running after 0\.2 s"):
        wait(server, timeout=0.2)
    assert {request.method for request in server.requests} == {"GET"}


def test_a_job_that_was_finished_already_is_returned_at_once(serve: Serve) -> None:
    script = JobServer()
    script.known = len(script.history)
    job, seen = wait(serve(script))
    assert (job.status, seen) == ("succeeded", [1, 2, 3, 4, 5, 6])


def test_following_from_behind_the_end_ends(serve: Serve) -> None:
    script = JobServer()
    script.known = len(script.history)
    with octavo.Client(serve(script).url) as client:
        assert list(client.jobs.events(samples.JOB_ID, after=6, follow=True)) == []


def test_past_events_do_not_wait(serve: Serve) -> None:
    script = JobServer()
    script.known = 3
    with octavo.Client(serve(script).url) as client:
        assert [event.seq for event in client.jobs.events(samples.JOB_ID)] == [1, 2, 3]
        assert [event.seq for event in client.jobs.get(samples.JOB_ID).events(after=2)] == [3]


def test_the_async_client_waits_alike(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(JobServer(step=2, broken=broken_at(1, 3)))
    seen: list[int] = []

    async def run() -> str:
        async with octavo.AsyncClient(server.url, max_retries=0) as client:
            job = await client.jobs.get(samples.JOB_ID)
            await job.wait(on_event=lambda event: seen.append(event.seq))
            return job.status

    assert asyncio.run(run()) == "succeeded"
    assert seen == [1, 2, 3, 4, 5, 6]
    assert async_events.TOLERATED_FAILURES == sync_events.TOLERATED_FAILURES


def test_a_bar_shows_steps_and_warnings(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    wait(serve(JobServer()), progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Warning: Only 20 samples." in shown.err
    assert "evaluate" in shown.err
    assert "100%" in shown.err


def test_nothing_is_shown_where_nobody_watches(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    wait(serve(JobServer()))
    assert capsys.readouterr() == ("", "")


def test_ctrl_c_detaches_and_cancels_nothing(serve: Serve) -> None:
    """In a real process with a real SIGINT; it says how to attach again."""
    server = serve(JobServer(step=0, streams=False))
    program = f"import octavo; octavo.Client({server.url!r}).jobs.get({samples.JOB_ID!r}).wait()"
    with subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 30
        while not any("wait" in request.query for request in server.requests):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGINT)
        assert process.stderr is not None
        stderr = process.stderr.read()
    assert f"Detached; {samples.JOB_ID} goes on." in stderr
    assert "KeyboardInterrupt" in stderr
    assert {request.method for request in server.requests} == {"GET"}


def test_a_missed_target_is_raised_on_demand(serve: Serve) -> None:
    verdict = {"word": "accuracy_not_met", "sentence": "Accuracy drops by 5 pp.", "accuracy": "not_met"}

    def script(_: Request) -> Reply:
        return as_json(samples.job("succeeded", report=samples.report(verdict=verdict)))

    with octavo.Client(serve(script).url) as client:
        job = client.jobs.get(samples.JOB_ID)
        assert job.raise_for_status() is job
        with pytest.raises(octavo.TargetNotMet, match="drops by 5 pp"):
            job.raise_for_target()


def test_a_report_that_is_not_there_says_why(serve: Serve) -> None:
    answers = iter([samples.job("running"), samples.job("succeeded", report=None)])
    with octavo.Client(serve(lambda _: as_json(next(answers))).url) as client:
        for reason in ("has no report yet", "was listed without its report"):
            with pytest.raises(octavo.NoReport, match=reason):
                _ = client.jobs.get(samples.JOB_ID).report
