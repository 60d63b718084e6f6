"""Bodies become files that are whole, hashed, and gone afterwards."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

import pytest

from api.staging import StagingArea, StagingWriter
from shared.errors import DiskFull
from tests.api_server import sha256


def test_a_staged_file_is_whole_hashed_and_private(tmp_path: Path) -> None:
    with StagingArea(tmp_path).file() as writer:
        writer.write([b"ab", b"c"])
        staged = writer.finish()
        assert staged.path.read_bytes() == b"abc"
        assert (staged.size_bytes, staged.sha256) == (3, sha256(b"abc"))
        assert staged.path.stat().st_mode & 0o077 == 0


def test_a_staged_file_is_gone_on_leaving_also_after_an_error(tmp_path: Path) -> None:
    with suppress(RuntimeError), StagingArea(tmp_path).file():
        assert len(list(tmp_path.iterdir())) == 1
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_the_store_took_is_not_missed(tmp_path: Path) -> None:
    area = StagingArea(tmp_path)
    with area.file() as writer:
        writer.finish().path.rename(tmp_path / "taken")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_full_disk_is_the_services_fault() -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    try:
        with pytest.raises(DiskFull):
            StagingWriter(Path("/dev/full"), descriptor).write([b"x"])
    finally:
        os.close(descriptor)


def test_preparing_sweeps_what_is_a_day_old_and_keeps_the_rest(tmp_path: Path) -> None:
    for name, age_seconds in (("old", 25 * 3600), ("new", 3600)):
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (time.time() - age_seconds,) * 2)
    StagingArea(tmp_path).prepare()
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
