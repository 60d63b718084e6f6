"""A page as a parser sees it: its elements in order, with their attributes and text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from html.parser import HTMLParser

VOID = {"meta", "br", "hr", "input", "link", "img", "col"}
ENDED_BY = {"td": {"td", "th", "tr"}, "th": {"td", "th", "tr"}, "tr": {"tr"}}


@dataclass
class Node:
    tag: str
    attributes: dict[str, str | None]
    parent: Node | None
    children: list[Node | str] = field(default_factory=list)

    def text(self) -> str:
        return "".join(each if isinstance(each, str) else each.text() for each in self.children)

    def walk(self) -> Iterator[Node]:
        for each in self.children:
            if isinstance(each, Node):
                yield each
                yield from each.walk()

    def all(self, *tags: str) -> list[Node]:
        return [each for each in self.walk() if each.tag in tags]

    def one(self, tag: str) -> Node:
        [found] = self.all(tag)
        return found

    def __getitem__(self, name: str) -> str | None:
        return self.attributes.get(name)


class _Builder(HTMLParser):
    """Ends of td, th and tr may be left out, as in the standard; any other element that is not ended is an error."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Node("", {}, None)
        self._here = self.root

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        while tag in ENDED_BY.get(self._here.tag, ()):
            self._up()
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), f"<{tag}> has an attribute twice: {names}"
        node = Node(tag, dict(attrs), self._here)
        self._here.children.append(node)
        if tag not in VOID:
            self._here = node

    def handle_endtag(self, tag: str) -> None:
        while self._here.tag != tag and self._here.tag in ENDED_BY:
            self._up()
        assert self._here.tag == tag, f"</{tag}> ends <{self._here.tag}>"
        self._up()

    def handle_data(self, data: str) -> None:
        self._here.children.append(data)

    def close(self) -> None:
        super().close()
        assert self._here is self.root, f"<{self._here.tag}> is not ended"

    def _up(self) -> None:
        assert self._here.parent is not None
        self._here = self._here.parent


@lru_cache(maxsize=8)
def parse(page: str) -> Node:
    """The document; not to be changed, as tests of the same page share it."""
    builder = _Builder()
    builder.feed(page)
    builder.close()
    return builder.root
