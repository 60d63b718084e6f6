"""When to send a request again, and after how long."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

RETRIED_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
WAITED_OUT = frozenset({"plan_unavailable"})
"""Errors that the server gave only after it had waited itself: at once, the next try would end alike."""
FIRST_DELAY_SECONDS = 0.5
LONGEST_DELAY_SECONDS = 8.0
LONGEST_RETRY_AFTER_SECONDS = 120.0


def delay_seconds(attempt: int, headers: Mapping[str, str] | None = None) -> float:
    """Seconds to wait before retry number `attempt` (from 0).

    The server's Retry-After wins, up to two minutes; else 0.5 s doubling to 8 s, of which up to a quarter is taken off
    at random so that many clients do not come back at once.
    """
    announced = _retry_after_seconds(headers or {})
    if announced is not None:
        return min(announced, LONGEST_RETRY_AFTER_SECONDS)
    delay = min(FIRST_DELAY_SECONDS * 2.0**attempt, LONGEST_DELAY_SECONDS)
    return delay * (1 - 0.25 * random.random())  # noqa: S311  # jitter, not a secret


def _retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
