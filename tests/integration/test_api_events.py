"""A job's history as JSON pages and as server-sent events."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.api_server import Api, PretendedWorker

STREAM = {"Accept": "text/event-stream"}


@pytest.fixture
def job(api: Api, small_net: Path) -> str:
    return str(api.submit(method="dynamic", model=api.add_model(small_net))["id"])


def parse(text: str) -> list[dict[str, Any]]:
    """The events of a stream: id, event and data; comments are left out."""
    events = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line and not line.startswith(":"))
        if fields:
            events.append({"id": int(fields["id"]), "event": fields["event"], "data": json.loads(fields["data"])})
    return events


def run_to_the_end(api: Api, job: str) -> None:
    worker = PretendedWorker(api, job)
    for fraction in (0.1, 0.5, 0.9):
        worker.progress(fraction, f"at {fraction}\nand a second line")
    worker.succeed({})


def test_events_come_in_pages_oldest_first(api: Api, job: str) -> None:
    run_to_the_end(api, job)
    seqs: list[int] = []
    page: dict[str, Any] = {"has_more": True, "next": 0}
    while page["has_more"]:
        page = api.client.get(f"/v1/jobs/{job}/events", params={"after": page["next"], "limit": 2}).json()
        seqs += [each["seq"] for each in page["data"]]
    assert seqs == [1, 2, 3, 4, 5, 6]
    nothing = api.client.get(f"/v1/jobs/{job}/events?after=6").json()
    assert nothing == {"data": [], "has_more": False, "next": None}


def test_a_stream_replays_the_history_and_ends_with_the_final_status(api: Api, job: str) -> None:
    run_to_the_end(api, job)
    answer = api.client.get(f"/v1/jobs/{job}/events", headers=STREAM)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-cache"
    events = parse(answer.text)
    assert [each["id"] for each in events] == [1, 2, 3, 4, 5, 6]
    assert [each["event"] for each in events] == ["status", "status", "progress", "progress", "progress", "status"]
    assert events[3]["data"]["data"]["message"] == "at 0.5\nand a second line"
    assert events[-1]["data"]["data"]["status"] == "succeeded"
    assert [each["data"] for each in events] == api.client.get(f"/v1/jobs/{job}/events").json()["data"]


@pytest.mark.parametrize(
    ("headers", "query"), [({"Last-Event-ID": "4"}, ""), ({}, "?after=4"), ({"Last-Event-ID": "4"}, "?after=1")]
)
def test_a_broken_stream_goes_on_where_it_was(api: Api, job: str, headers: dict[str, str], query: str) -> None:
    run_to_the_end(api, job)
    answer = api.client.get(f"/v1/jobs/{job}/events{query}", headers={**STREAM, **headers})
    assert [each["id"] for each in parse(answer.text)] == [5, 6]


def test_a_stream_that_has_seen_everything_ends_at_once(api: Api, job: str) -> None:
    run_to_the_end(api, job)
    answer = api.client.get(f"/v1/jobs/{job}/events", headers={**STREAM, "Last-Event-ID": "99"})
    assert (answer.status_code, answer.text) == (200, "")


def test_a_stream_follows_a_job_until_it_is_cancelled(api: Api, job: str) -> None:
    arrived: list[str] = []
    first = threading.Event()

    def follow() -> None:
        with api.client.stream("GET", f"/v1/jobs/{job}/events", headers=STREAM) as answer:
            for chunk in answer.iter_text():
                arrived.append(chunk)
                first.set()

    following = threading.Thread(target=follow)
    following.start()
    api.client.post(f"/v1/jobs/{job}/cancel")
    following.join(30)
    assert first.is_set()
    events = parse("".join(arrived))
    assert events[0]["data"]["data"]["status"] == "queued"
    assert events[-1]["data"]["data"]["status"] == "cancelled"


@pytest.mark.parametrize("query", ["after=-1", "after=x", "limit=0", "limit=1001"])
def test_a_wrong_page_is_an_invalid_request(api: Api, job: str, query: str) -> None:
    answer = api.client.get(f"/v1/jobs/{job}/events?{query}")
    assert (answer.status_code, answer.json()["code"]) == (422, "request_invalid")


@pytest.mark.parametrize("seen", ["²".encode("latin-1"), b"9" * 20, b"9223372036854775808", b"-1", b"abc"])
def test_a_last_event_id_that_was_never_given_is_no_error(api: Api, job: str, seen: bytes) -> None:
    assert api.client.get(f"/v1/jobs/{job}/events", headers={b"Last-Event-ID": seen}).status_code == 200


def test_a_sequence_number_beyond_any_is_refused(api: Api, job: str) -> None:
    assert api.client.get(f"/v1/jobs/{job}/events", params={"after": 10**30}).status_code == 422
