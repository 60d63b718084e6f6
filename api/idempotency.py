"""POSTs that may be sent twice: the first answer is kept with its effect, in one transaction, and repeated."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Header, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from shared.database import Database
from shared.database.idempotency import RememberedAnswer, recall, remember

REPLAYED_HEADER = "Idempotent-Replayed"
_ATTEMPTS = 3

IdempotencyKeyHeader = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description=(
            "Any word of your own, kept for a day: the same request under the same key has its effect once and gets "
            "the same answer; another request under that key gets 409."
        ),
        examples=["8f14e45f-ceea-467f-a8f0-0c4b9d3f6c1e"],
    ),
]


@dataclass(frozen=True)
class Once:
    """What makes two requests the same; without a key every request is new."""

    key: str | None
    fingerprint: str

    @classmethod
    def of(cls, request: Request, key: str | None, body_sha256: str) -> Once:
        """The key with the hash of method, path, query and body."""
        parts = (request.method, request.url.path, request.url.query, body_sha256)
        return cls(key, hashlib.sha256("\n".join(parts).encode()).hexdigest())


@dataclass(frozen=True)
class Answer:
    """What a POST answers, and whether it is a repetition."""

    status_code: int
    body: object
    headers: dict[str, str]
    replayed: bool = False

    @classmethod
    def of(cls, status_code: int, body: BaseModel, headers: dict[str, str] | None = None) -> Answer:
        """A new answer."""
        # A job's spec and report are passed on as they were stored, not rebuilt: pydantic would warn of that.
        return cls(status_code, body.model_dump(mode="json", warnings=False), headers or {})

    def response(self) -> Response:
        """The answer as it is sent."""
        replayed = {REPLAYED_HEADER: "true"} if self.replayed else {}
        return JSONResponse(self.body, status_code=self.status_code, headers={**self.headers, **replayed})


def recalled(connection: Connection, once: Once) -> Answer | None:
    """The answer that this request got before; IdempotencyKeyReused when its key belongs to another."""
    if once.key is None:
        return None
    known = recall(connection, once.key, once.fingerprint)
    return None if known is None else Answer(known.status_code, known.body, known.headers, replayed=True)


def do_once(database: Database, once: Once, effect: Callable[[Connection], Answer]) -> Answer:
    """Run `effect` in a write transaction that also keeps its answer, or repeat the answer that is kept."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with database.write() as connection:
                known = recalled(connection, once)
                if known is not None:
                    return known
                answer = effect(connection)
                if once.key is not None:
                    kept = RememberedAnswer(answer.status_code, answer.headers, answer.body)
                    remember(connection, once.key, once.fingerprint, kept)
        except IntegrityError:
            # The same key was committed meanwhile by another connection: its answer is found the next time round.
            if once.key is None or attempt == _ATTEMPTS:
                raise
        else:
            return answer
    raise AssertionError("unreachable")
