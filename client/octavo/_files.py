"""Files on their way in and out: hashed, cut into regions, moved into place only when whole and right."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path

from octavo._exceptions import ChecksumMismatch

CHUNK_BYTES = 1024**2


def read_region(path: Path, start: int, size_bytes: int) -> Iterator[bytes]:
    """The bytes of a file from `start` on, in chunks, `size_bytes` of them or up to its end."""
    with path.open("rb") as file:
        file.seek(start)
        while size_bytes > 0 and (chunk := file.read(min(CHUNK_BYTES, size_bytes))):
            size_bytes -= len(chunk)
            yield chunk


def size_of(path: Path) -> int:
    """Bytes of a file."""
    return path.stat().st_size


def sha256_of(path: Path, start: int = 0, size_bytes: int | None = None) -> str:
    """SHA-256 of a file, or of a region of it, in hex."""
    digest = hashlib.sha256()
    for chunk in read_region(path, start, size_of(path) - start if size_bytes is None else size_bytes):
        digest.update(chunk)
    return digest.hexdigest()


def content_digest(sha256: str) -> str:
    """The Content-Digest header (RFC 9530) for a SHA-256 in hex."""
    return f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:"


def part_count(size_bytes: int, part_size_bytes: int) -> int:
    """How many parts a file is sent in."""
    return -(-size_bytes // part_size_bytes)


class PartialDownload:
    """A file that is not there until every byte is: written beside its place, checked, then moved.

    A broken download leaves `.<name>.<sha256>.part`; the next one goes on from there.
    """

    def __init__(self, path: Path, sha256: str) -> None:
        self.path = path
        self.sha256 = sha256
        self.part_path = path.with_name(f".{path.name}.{sha256[:16]}.part")

    def is_complete(self) -> bool:
        """Whether the file is already there with these very bytes."""
        return self.path.is_file() and sha256_of(self.path) == self.sha256

    @property
    def size_bytes(self) -> int:
        """How much has arrived."""
        return size_of(self.part_path) if self.part_path.exists() else 0

    def restart(self) -> None:
        """Forget what has arrived."""
        self.part_path.unlink(missing_ok=True)

    def append(self, chunk: bytes) -> None:
        """Take what comes next."""
        with self.part_path.open("ab") as file:
            file.write(chunk)

    def finish(self) -> Path:
        """Check the bytes and move them into place.

        Raises:
            ChecksumMismatch: they are not those that the server announced; they are thrown away.
        """
        self.part_path.touch()  # an empty file has no chunk to append
        actual = sha256_of(self.part_path)
        if actual != self.sha256:
            self.restart()
            raise ChecksumMismatch(
                f"{self.path.name}: the server announced SHA-256 {self.sha256}, the bytes received have {actual}; "
                "nothing was kept. Download it again."
            )
        return self.part_path.replace(self.path)
