"""One byte range is understood; what is not is ignored; what has no bytes is refused."""

from __future__ import annotations

import pytest

from api.artifacts.ranges import wanted_range


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("", None),
        ("bytes=0-", (0, 10)),
        ("bytes=0-0", (0, 1)),
        ("bytes= 2 - 4", (2, 5)),
        ("bytes=4-99", (4, 10)),
        ("bytes=-3", (7, 10)),
        ("bytes=-99", (0, 10)),
        ("bytes=5-4", None),
        ("bytes=-", None),
        ("bytes=0-1,3-4", None),
        ("bytes=a-b", None),
        ("items=0-1", None),
    ],
)
def test_a_range_of_ten_bytes(header: str | None, expected: tuple[int, int] | None) -> None:
    assert wanted_range(header, 10) == expected


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=10-20", "bytes=-0"])
def test_a_range_without_bytes_is_refused(header: str) -> None:
    with pytest.raises(ValueError, match=header):
        wanted_range(header, 10)


def test_an_empty_file_has_no_range() -> None:
    with pytest.raises(ValueError, match="bytes=0-"):
        wanted_range("bytes=0-", 0)
