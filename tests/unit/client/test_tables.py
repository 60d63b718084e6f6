"""Plain text in columns."""

from __future__ import annotations

import pytest

from octavo._tables import aligned, bytes_text, shortened, side_by_side


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (123_456_789, "123 MB"), (5e12, "5 TB")]
)
def test_sizes_for_people(size: float, text: str) -> None:
    assert bytes_text(size) == text


def test_no_rows_are_no_text() -> None:
    assert aligned([]) == ""
    assert side_by_side([], 80) == ""


def test_a_cell_stays_on_its_line_whatever_a_layer_is_called() -> None:
    assert aligned([["a\n$ rm", "1"], ["b", "2"]]).splitlines() == ["a $ rm  1", "b       2"]


def test_columns_that_do_not_fit_follow_below_with_the_first_one_again() -> None:
    rows = [["", "A", "B", "C"], ["what", "12345", "12345", "12345"]]
    assert side_by_side(rows, 25).splitlines() == ["      A      B      C", "what  12345  12345  12345"]
    below = ["      A      B", "what  12345  12345", "", "      C", "what  12345"]
    assert side_by_side(rows, 24).splitlines() == below
    assert side_by_side(rows, 1).count("what") == 3, "a column that is wider than the line stands alone"


@pytest.mark.parametrize(
    ("text", "width", "expected"), [("layer4.1", 8, "layer4.1"), ("layer4.1.conv2", 9, "laye…onv2"), ("abc", 2, "…c")]
)
def test_a_long_name_keeps_both_ends(text: str, width: int, expected: str) -> None:
    assert shortened(text, width) == expected
    assert len(shortened(text, width)) <= width
