"""JSON that a runner wrote: whoever took it over can have written anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from shared.errors import OutputTooLarge
from shared.printable import printable

_MAX_BYTES = 64 * 1024**2
_MAX_CHARACTERS = 100_000
_GREATEST = 2**260  # the squares of what float32 holds among it, but no sum of a few thousand that is infinite


def read_untrusted(path: Path) -> Any:
    """What stands in the file, with text that can be shown and kept, and numbers that can be added up.

    Raises OutputTooLarge, and ValueError or RecursionError when it is not that.
    """
    if path.stat().st_size > _MAX_BYTES:
        raise OutputTooLarge(f"{path.name} is too large.")
    return _plain(json.loads(path.read_bytes()))


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
