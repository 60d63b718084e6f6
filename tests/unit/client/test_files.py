"""A download is in its place only when it is whole and right."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

import octavo
from octavo._files import PartialDownload, content_digest, part_count, read_region, sha256_of

CONTENT = bytes(range(256)) * 20_000  # five chunks
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    return path


def test_a_file_and_its_regions_are_hashed(file: Path) -> None:
    assert sha256_of(file) == SHA256
    assert sha256_of(file, 7, 100) == hashlib.sha256(CONTENT[7:107]).hexdigest()


@pytest.mark.parametrize(("start", "size"), [(0, 10), (5, 2_000_000), (5_119_990, 10), (5_119_990, 100), (0, 0)])
def test_a_region_is_read_and_no_more(file: Path, start: int, size: int) -> None:
    assert b"".join(read_region(file, start, size)) == CONTENT[start : start + size]


def test_content_digest_is_base64_between_colons() -> None:
    """RFC 9530, appendix D: the digest of `{"hello": "world"}` and a newline."""
    digest = hashlib.sha256(b'{"hello": "world"}\n').hexdigest()
    assert content_digest(digest) == "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:"


@pytest.mark.parametrize(("size", "parts"), [(1, 1), (9, 1), (10, 1), (11, 2), (20, 2), (21, 3)])
def test_part_count(size: int, parts: int) -> None:
    assert part_count(size, 10) == parts


def test_a_right_download_is_moved_into_place(tmp_path: Path) -> None:
    download = PartialDownload(tmp_path / "model.pt", SHA256)
    download.append(CONTENT[:1000])
    assert (download.size_bytes, download.path.exists()) == (1000, False)
    download.append(CONTENT[1000:])
    assert download.finish().read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


def test_a_wrong_download_leaves_nothing_and_the_old_file_alone(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"old")
    download = PartialDownload(tmp_path / "model.pt", SHA256)
    download.append(b"wrong")
    with pytest.raises(octavo.ChecksumMismatch, match=SHA256):
        download.finish()
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("model.pt", b"old")]


def test_an_empty_file_can_be_downloaded(tmp_path: Path) -> None:
    assert PartialDownload(tmp_path / "empty", hashlib.sha256().hexdigest()).finish().read_bytes() == b""
