"""JSON that a runner wrote: whoever took it over can have written anything."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

from shared.errors import OutputTooLarge
from shared.printable import printable

_MAX_BYTES = 64 * 1024**2
# Each costs up to 200 bytes once it is parsed, and a thousand as a part of a report; a node of a graph has three.
_MAX_CONTAINERS = 1_000_000
# Each is one value more, of up to 60 bytes: most of them are latencies, of a thousand rounds a candidate.
_MAX_COMMAS = 4_000_000
_MAX_CHARACTERS = 100_000
_GREATEST = 2**260  # the squares of what float32 holds among it, but no sum of a few thousand that is infinite


def read_untrusted(path: Path, *, max_bytes: int = _MAX_BYTES) -> Any:
    """What stands in the file, with text that can be shown and kept, and numbers that can be added up.

    Raises OutputTooLarge, OSError when it is no regular file, and ValueError or RecursionError when it holds anything
    else.
    """
    text = _read_regular(path, max_bytes)
    # Before it is parsed; those within strings count as well, which are few.
    if text.count(b"[") + text.count(b"{") > _MAX_CONTAINERS or text.count(b",") > _MAX_COMMAS:
        raise OutputTooLarge(f"{path.name} has too many parts.")
    return _plain(json.loads(text))


def _read_regular(path: Path, max_bytes: int) -> bytes:
    """All of a file that is neither a link nor a device nor larger than that."""
    # O_NONBLOCK, for a named pipe would hold this up for good.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        if found.st_size > max_bytes:
            raise OutputTooLarge(f"{path.name} is too large.")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(max_bytes)  # of one that has grown meanwhile no more
    finally:
        os.close(descriptor)


def _plain(value: Any) -> Any:
    """JSON with text that can be shown and kept, and numbers that can be added up."""
    match value:
        case str():
            if len(value) > _MAX_CHARACTERS:
                raise ValueError("a text is too long")
            return printable(value)
        case dict():
            return {_plain(name): _plain(each) for name, each in value.items()}
        case list():
            return [_plain(each) for each in value]
        case int() | float():
            if not abs(value) <= _GREATEST:
                raise ValueError("a number is too great, or none")
    return value
