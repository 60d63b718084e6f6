# Made by scripts/unasync.py from octavo/_async: change it there.
"""A job's events: those of the past, and those to come."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Generator
from contextlib import closing

from octavo._concurrency import sleep
from octavo._exceptions import APIConnectionError, APIStatusError, APITimeoutError, InternalServerError
from octavo._retry import delay_seconds
from octavo._sse import SSEDecoder
from octavo._sync.transport import Transport
from octavo._types import FINISHED, JobData, JobEvent

SILENCE_SECONDS = 45.0  #: the server pings every 15 s; a stream that is silent for longer is dead
LONG_POLL_SECONDS = 30
#: Consecutive failures, with 0.5 to 8 s between them and the request's own retries in each, before waiting gives up:
#: minutes, so that a server may be restarted while somebody waits.
TOLERATED_FAILURES = 12


class StreamUnusable(Exception):
    """Something between here and the server does not let event streams through."""


def past_events(transport: Transport, job_id: str, after: int) -> Generator[JobEvent, None, None]:
    """What has happened after event number `after`."""
    more = True
    while more:
        page = transport.json("GET", f"/v1/jobs/{job_id}/events", params={"after": after})
        for entry in page["data"]:
            event = JobEvent.model_validate(entry)
            after = event.seq
            yield event
        more = page["has_more"] and bool(page["data"])


def live_events(
    transport: Transport, job_id: str, after: int, deadline: float = math.inf
) -> Generator[JobEvent, None, None]:
    """What has happened after event number `after` and all that will, up to the final status or the deadline.

    Server-sent events first; long polls where they do not get through, and for the last seconds before the deadline,
    which a stream could miss. Broken connections and restarts of the server are lived through: every event comes once.
    """
    streaming = True
    failures = 0
    while (left := deadline - time.monotonic()) > 0:
        try:
            source = _streamed if streaming and left > SILENCE_SECONDS else _polled
            before = after
            with closing(source(transport, job_id, after, deadline)) as events:
                for event in events:
                    failures = 0
                    after = event.seq
                    yield event
                    if event.kind == "status" and event.data.get("status") in FINISHED:
                        return
            # The stream ended early, or `after` already stood behind the final event.
            if JobData.model_validate(transport.json("GET", f"/v1/jobs/{job_id}")).finished:
                for event in past_events(transport, job_id, after):
                    yield event
                return
            streaming = streaming and after > before
        except StreamUnusable:
            streaming = False
        except (APIConnectionError, InternalServerError):
            failures += 1
            if failures > TOLERATED_FAILURES:
                raise
            sleep(min(delay_seconds(failures), max(deadline - time.monotonic(), 0)))


def _streamed(transport: Transport, job_id: str, after: int, deadline: float) -> Generator[JobEvent, None, None]:
    headers = {"Accept": "text/event-stream", "Cache-Control": "no-store", "Last-Event-ID": str(after)}
    decoder = SSEDecoder()
    heard = False
    try:
        with transport.stream(f"/v1/jobs/{job_id}/events", headers=headers, read_timeout=SILENCE_SECONDS) as response:
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                raise StreamUnusable
            for line in response.iter_lines():
                heard = True
                sent = decoder.decode(line)
                if sent is not None:
                    yield JobEvent.model_validate(json.loads(sent.data))
                if deadline - time.monotonic() < SILENCE_SECONDS:
                    return
    except APITimeoutError:
        if not heard:
            raise StreamUnusable from None
        raise
    except APIStatusError as error:
        if error.status_code == 406:
            raise StreamUnusable from None
        raise


def _polled(transport: Transport, job_id: str, after: int, deadline: float) -> Generator[JobEvent, None, None]:
    etag: str | None = None
    while (left := deadline - time.monotonic()) > 0:
        wait = math.ceil(min(LONG_POLL_SECONDS, left))
        response = transport.request(
            "GET",
            f"/v1/jobs/{job_id}",
            params={"wait": None if etag is None else wait},  # the first answer shows where it stands
            headers={"If-None-Match": etag} if etag else None,
            extra_seconds=wait,
        )
        if response.status_code == 304:
            continue
        etag = response.headers.get("etag", "")
        for event in past_events(transport, job_id, after):
            after = event.seq
            yield event
        if JobData.model_validate(response.json()).finished:
            return
