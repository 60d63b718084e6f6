"""Byte ranges of HTTP (RFC 9110, section 14): one range, as every resuming client sends it."""

from __future__ import annotations

import re

_ONE_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


def wanted_range(header: str | None, size_bytes: int) -> tuple[int, int] | None:
    """First byte and one behind the last, or None for the whole file.

    Several ranges at once and units other than bytes are ignored, as the RFC allows. Raises ValueError when the file
    has no byte in the range.
    """
    match = _ONE_RANGE.fullmatch((header or "").replace(" ", ""))
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:  # the last so many bytes
        start, end = max(0, size_bytes - int(last)), size_bytes
    else:
        start, end = int(first), min(size_bytes, int(last) + 1 if last else size_bytes)
        if last and int(last) < start:
            return None
    if start >= end:
        raise ValueError(header)
    return start, end
