"""Answers remembered by Idempotency-Key, committed with the effect: neither ever exists without the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, insert, select

from shared.database.tables import idempotency_keys, now
from shared.errors import IdempotencyKeyReused

KEEP_SECONDS = 24 * 3600


@dataclass(frozen=True)
class RememberedAnswer:
    """What a POST answered the first time."""

    status_code: int
    headers: dict[str, str]
    body: Any


def recall(connection: Connection, key: str, fingerprint: str) -> RememberedAnswer | None:
    """The answer given under this key; IdempotencyKeyReused when it was another request."""
    query = select(idempotency_keys).where(
        idempotency_keys.c.key == key, idempotency_keys.c.created_at > now() - KEEP_SECONDS
    )
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    if row.fingerprint != fingerprint:
        raise IdempotencyKeyReused
    return RememberedAnswer(status_code=row.status_code, headers=row.headers, body=row.body)


def remember(connection: Connection, key: str, fingerprint: str, answer: RememberedAnswer) -> None:
    """Keep the answer, in the transaction of its effect.

    Raises sqlalchemy.exc.IntegrityError when the key was taken meanwhile: the transaction is then lost, and `recall` in
    a new one gives the winner's answer.
    """
    connection.execute(
        delete(idempotency_keys).where(
            idempotency_keys.c.key == key, idempotency_keys.c.created_at <= now() - KEEP_SECONDS
        )
    )
    connection.execute(
        insert(idempotency_keys).values(
            key=key,
            fingerprint=fingerprint,
            status_code=answer.status_code,
            headers=answer.headers,
            body=answer.body,
            created_at=now(),
        )
    )


def forget_old(connection: Connection) -> int:
    """Delete keys older than a day; how many."""
    return connection.execute(
        delete(idempotency_keys).where(idempotency_keys.c.created_at <= now() - KEEP_SECONDS)
    ).rowcount
