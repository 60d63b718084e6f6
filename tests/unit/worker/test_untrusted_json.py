"""What a runner wrote, read by who does not believe it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shared.errors import OutputTooLarge
from worker.untrusted_json import read_untrusted


def written(folder: Path, text: str) -> Path:
    (path := folder / "plan.json").write_text(text)
    return path


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_what_is_harmless_is_read_as_it_is(tmp_path: Path) -> None:
    assert read_untrusted(written(tmp_path, '{"a": [1, 2.5, null, true, "b\\u001b"]}')) == {
        "a": [1, 2.5, None, True, "b\N{REPLACEMENT CHARACTER}"]
    }


def test_the_caller_may_allow_less(tmp_path: Path) -> None:
    path = written(tmp_path, "[" + " " * 1000 + "]")
    assert read_untrusted(path, max_bytes=1002) == []
    with pytest.raises(OutputTooLarge, match=r"plan\.json is too large"):
        read_untrusted(path, max_bytes=1001)


@pytest.mark.parametrize(
    "part", ["[],", "{},", '{"":[]},', "0,", '"",'], ids=["lists", "objects", "both", "numbers", "texts"]
)
def test_many_small_parts_are_refused_before_they_are_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """Each takes tens to hundreds of bytes, of three in the file."""
    path = written(tmp_path, f"[{part * 5_000_000}0]")
    monkeypatch.setattr("json.loads", lambda _: pytest.fail("it was parsed"))
    with pytest.raises(OutputTooLarge, match="too many parts"):
        read_untrusted(path)


def test_a_link_a_pipe_and_a_folder_are_not_read(tmp_path: Path) -> None:
    link, pipe = tmp_path / "link", tmp_path / "pipe"
    link.symlink_to(written(tmp_path, "{}"))
    os.mkfifo(pipe)
    opened = open_files()
    for path in (link, pipe, tmp_path, tmp_path / "missing"):
        with pytest.raises(OSError, match=path.name):
            read_untrusted(path)
    assert open_files() == opened
