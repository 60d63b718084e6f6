"""Text from a process or a machine that may be hostile, made fit to be kept, shown and logged."""

from __future__ import annotations

import re

# What PostgreSQL cannot keep, a terminal would obey, or makes text read as another: line breaks and tabs stay.
_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """The text with a � for each control or direction character."""
    return _COMMANDS.sub("\N{REPLACEMENT CHARACTER}", text)


def printable_line(text: str, *, limit: int) -> str:
    """The same on one line, cut to this many characters."""
    return printable(text[: limit + 1].replace("\n", " ").replace("\t", " "))[:limit]
