"""The few things that differ between the async code and the sync code made from it, under names that differ alike.

`scripts/unasync.py` takes `async_` off: `await async_sleep(1)` becomes `sleep(1)`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import anyio
import anyio.to_thread

P = ParamSpec("P")
R = TypeVar("R")


async def async_sleep(seconds: float) -> None:
    """Wait without holding up the event loop."""
    await anyio.sleep(seconds)


def sleep(seconds: float) -> None:
    """Wait."""
    time.sleep(seconds)


async def async_run_blocking(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run what hashes, writes or exports in a thread, so that the event loop goes on."""
    return await anyio.to_thread.run_sync(lambda: function(*args, **kwargs))


def run_blocking(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run it here."""
    return function(*args, **kwargs)
