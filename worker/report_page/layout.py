"""What sections are made of: headings, notes, tables, figures."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from worker.report_page.figures import NONE, plural, whole
from worker.report_page.markup import Content, Html, element, join, shorten

MAX_NAME = 120
"""Characters of a name; a longer one loses its middle."""


_LONG = 12
"""Rows of a table that need no search."""


@dataclass(frozen=True)
class Section:
    """A part of the page, with its entry in the contents."""

    anchor: str
    title: str
    body: Html

    def render(self) -> Html:
        """The section under its heading."""
        heading = element("h2", self.title, id=self.anchor)
        return element("section", heading, self.body, aria_labelledby=self.anchor)


@dataclass(frozen=True)
class Column:
    """A column of a table; a `number` aligns right and is sorted by value."""

    title: str
    kind: Literal["text", "number"] = "text"
    hint: str | None = None


def note(*content: Content) -> Html:
    """How to read what follows, in small."""
    return element("p", *content, class_="note")


def subheading(text: str) -> Html:
    """A heading inside a section."""
    return element("h3", text)


def name(text: str, limit: int = MAX_NAME) -> Html:
    """A layer, node or tensor, as the user's code calls it."""
    short = shorten(text, limit)
    return element("code", short, title=shorten(text, 1000) if short != text else None)


def badge(word: str, kind: str) -> Html:
    """A word in a frame; `kind` is its colour in the style sheet."""
    return element("span", word, class_=f"badge {kind}")


def precision_badge(precision: str) -> Html:
    """int8, float32, float16 …, each always in its own colour."""
    return badge(precision, f"p-{precision}")


def as_json(value: Any, room: int = 30_000) -> Html:
    """A JSON document, indented; one of more characters than there is room for loses its middle."""
    return element("pre", shorten(json.dumps(value, indent=2, ensure_ascii=False, default=str), room), tabindex=0)


def fitting(parts: Sequence[Html], room: int) -> list[Html]:
    """The first of them, as many as fit into so many bytes."""
    ends = itertools.accumulate(len(part.encode()) for part in parts)
    return [part for part, end in zip(parts, ends, strict=True) if end <= room]


def left_out(count: int, shown: int, noun: str) -> Content:
    """What a list that was cut does not hold."""
    if count <= shown:
        return None
    return note(f"The first {whole(shown)} are shown; {plural(count - shown, noun)} more: see report.json.")


def definitions(pairs: Iterable[tuple[str, Content]]) -> Html:
    """Terms and what they are."""
    return element("dl", [element("div", element("dt", term), element("dd", told)) for term, told in pairs])


def folded(summary: Content, *content: Content) -> Html:
    """What is shown on demand."""
    return element("details", element("summary", summary), *content)


def table(
    caption: str,
    columns: Sequence[Column],
    rows: Sequence[Sequence[Content]],
    *,
    find: str | None = None,
    tall: bool = False,
    room: int | None = None,
    of: int = 0,
    noun: str = "row",
) -> Html:
    """A table whose first column names its rows; the script of the page adds sorting, and with `find` a filter.

    A column of numbers that has none is left out. `find` says what can be looked for, when there are many rows; `tall`
    keeps it in a box that scrolls. As many rows are shown as fit into `room` bytes; `of` how many there are, when these
    are only the first, and by which `noun`, is said below.
    """
    shown = [at for at, each in enumerate(columns) if at == 0 or not _empty(each, [row[at] for row in rows])]
    columns, rows = [columns[at] for at in shown], [[row[at] for at in shown] for row in rows]
    head = element(
        "tr", [element("th", each.title, scope="col", class_=_kind(each), title=each.hint) for each in columns]
    )
    every = [element("tr", _cells(columns, row)) for row in rows]
    body = every if room is None else fitting(every, room)
    written = element(
        "table",
        element("caption", caption),
        element("thead", head),
        element("tbody", body),
        data_find=find if len(body) > _LONG else None,
    )
    box = scrollable(caption, written, class_="scroll tall" if tall else "scroll")
    return join([box, left_out(max(of, len(rows)), len(body), noun)])


def scrollable(label: str, content: Content, class_: str = "scroll") -> Html:
    """A box that scrolls by itself when its content is wider than the page, also by keyboard."""
    return element("div", content, class_=class_, role="region", tabindex=0, aria_label=label)


def figure(caption: Content, drawing: Html, *, label: str) -> Html:
    """A drawing above its caption."""
    return element("figure", scrollable(label, drawing), element("figcaption", caption))


def _cells(columns: Sequence[Column], row: Sequence[Content]) -> Html:
    first, *rest = row
    cells = [element("th", first, scope="row", class_=_kind(columns[0]))]
    cells += [element("td", cell, class_=_kind(column)) for column, cell in zip(columns[1:], rest, strict=True)]
    return join(cells)


def _empty(column: Column, cells: Sequence[Content]) -> bool:
    return column.kind == "number" and all(cell is None or (isinstance(cell, str) and cell == NONE) for cell in cells)


def _kind(column: Column) -> str | None:
    return "num" if column.kind == "number" else None
