"""What is not markup is escaped, wherever it comes from and wherever it goes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.worker.report_page.parsed import parse
from worker.report_page.markup import Html, element, join, shorten


@given(st.text())
def test_any_text_comes_back_from_a_parser_as_one_text(text: str) -> None:
    """In content and in an attribute; only what HTML does not allow is replaced."""
    page = element("p", text, title=text)
    [node] = parse(page).walk()
    shown = "".join(c if c in "\t\n" or c.isprintable() or not c.isascii() else "\ufffd" for c in text)
    assert node.text() == node["title"]
    assert len(node.text()) == len(shown)
    assert [a for a, b in zip(node.text(), shown, strict=True) if a != b and a not in "\ufffd?"] == []


def test_markup_is_not_escaped_again_and_text_is() -> None:
    assert element("p", element("b", "a<b"), "<i>") == "<p><b>a&lt;b</b>&lt;i&gt;</p>"


def test_markup_put_into_a_string_is_text_again() -> None:
    """So that an f-string, where anything could have been put in, is never taken for markup."""
    assert element("p", f"{Html('<b>')}") == "<p>&lt;b&gt;</p>"


@pytest.mark.parametrize("hidden", ["\x00", "\x1b", "\x7f", "\x85", "\u202e", "\u2066", "\u200f"])
def test_what_hides_or_turns_a_name_is_shown(hidden: str) -> None:
    assert join(f"a{hidden}b") == "a\ufffdb"


def test_a_lone_surrogate_can_be_written_to_a_file() -> None:
    assert join("a\ud800b").encode() == b"a?b"


def test_attributes_of_none_and_false_are_left_out() -> None:
    assert element("input", class_="x", title=None, hidden=False, open=True, data_find=3) == (
        '<input class="x" open data-find="3">'
    )


@pytest.mark.parametrize(
    ("text", "limit", "expected"), [("abcdef", 6, "abcdef"), ("abcdefg", 6, "ab…efg"), ("abcdefgh", 5, "ab…gh")]
)
def test_the_middle_of_a_long_name_is_left_out(text: str, limit: int, expected: str) -> None:
    assert shorten(text, limit) == expected
