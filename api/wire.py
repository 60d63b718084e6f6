"""What every wire type shares: times as RFC 3339, pages with an opaque cursor, names without control characters."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime
from typing import Annotated, Generic, TypeVar

from fastapi import Query
from pydantic import BaseModel, Field

from shared.errors import RequestInvalid

T = TypeVar("T")

# PostgreSQL refuses NUL in text, and no control character belongs in a name.
_NO_CONTROL = r"^[^\x00-\x1f\x7f]*$"
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=_NO_CONTROL, examples=["resnet18"])]
Filename = Annotated[str, Field(min_length=1, max_length=255, pattern=_NO_CONTROL, examples=["resnet18.pt2"])]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="In lower-case hex.")]

Limit = Annotated[int, Query(ge=1, le=100, description="How many at most.")]
After = Annotated[
    str | None, Query(max_length=200, description="The `next` of the page before.", examples=["am9iXzAxOWFiYzVk"])
]


class Page(BaseModel, Generic[T]):
    """Some of the entries, newest first; give `next` as `after` for those that follow."""

    data: list[T]
    has_more: bool
    next: str | None = Field(description="Cursor of the following page; null on the last.")


def utc(seconds: float) -> datetime:
    """Seconds since the epoch as a time that is written in RFC 3339."""
    return datetime.fromtimestamp(seconds, UTC)


def cursor_of(last_id: str) -> str:
    """An opaque cursor behind this id."""
    return urlsafe_b64encode(last_id.encode()).decode().rstrip("=")


def id_behind(cursor: str | None, prefix: str) -> str | None:
    """The id that a cursor stands for; RequestInvalid when this server never made it."""
    if cursor is None:
        return None
    try:
        found = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii")
    except ValueError:
        found = ""
    if not found.startswith(prefix) or not found.replace("_", "").isalnum():
        raise RequestInvalid("`after` must be the `next` of an earlier page.")
    return found
