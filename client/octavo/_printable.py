"""Text from a server, made fit for a terminal: names and messages in a report may be a stranger's."""

from __future__ import annotations

import re

# What a terminal would obey or show in another order, but for line breaks and tabs.
_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """The text with a � for each control or direction character, colours among them."""
    return _COMMANDS.sub("\N{REPLACEMENT CHARACTER}", text)
