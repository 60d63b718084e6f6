"""HTML and SVG made of Python calls: what is not markup already is escaped, so no layer name can become any."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import TypeAlias


class Html(str):
    """Markup that may stand in a page as it is; made by `element` and `join` only."""

    __slots__ = ()


Content: TypeAlias = "str | int | float | Iterable[Content] | None"

_VOID = frozenset({"br", "col", "hr", "input", "link", "meta"})
_WITHOUT_END = frozenset({"td", "th", "tr"})
"""What follows ends them, says the standard, and a page has tens of thousands."""

# HTML allows no control characters; marks of direction let a name show itself in another order than it has.
_INVISIBLE = [*range(0x20), *range(0x7F, 0xA0), 0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
_SHOWN = dict.fromkeys(_INVISIBLE, "\ufffd") | {0x09: "\t", 0x0A: "\n"}


def element(name: str, /, *content: Content, **attributes: str | float | None) -> Html:
    """`<name …>content</name>`; `class_` and `data_value` become `class` and `data-value`.

    An attribute of None or False is left out, of True stands without a value.
    """
    written = "".join(
        f" {_attribute_name(key)}" if value is True else f' {_attribute_name(key)}="{_text(value)}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if name in _VOID:
        return Html(f"<{name}{written}>")
    end = "" if name in _WITHOUT_END else f"</{name}>"
    return Html(f"<{name}{written}>{join(content)}{end}")


def join(content: Content) -> Html:
    """The parts one after another: markup as it is, all else escaped, None left out."""
    if content is None:
        return Html()
    if isinstance(content, Html):
        return content
    if isinstance(content, str | int | float):
        return Html(_text(content))
    return Html("".join(join(each) for each in content))


def shorten(text: str, limit: int) -> str:
    """The text with its middle left out when it is longer than `limit` characters."""
    if len(text) <= limit:
        return text
    head = (limit - 1) // 2
    return f"{text[:head]}…{text[len(text) - (limit - 1 - head) :]}"


def _attribute_name(key: str) -> str:
    return key.rstrip("_").replace("_", "-")


def _text(value: str | float) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    # A lone surrogate cannot be written to a file.
    text = str(value).encode("utf-8", "replace").decode()
    return escape(text.translate(_SHOWN))
