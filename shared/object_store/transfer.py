"""Bytes on their way in and out of a store: read in chunks, hashed, with the port's errors."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, Protocol, Self

from shared.errors import DiskFull, ObjectCorrupt, StorageUnavailable

CHUNK_BYTES = 1024**2


class ByteSource(Protocol):
    """Something read from front to back: a file, or the body of a response."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; empty at the end."""
        ...

    def close(self) -> None:
        """Let go of the file or the connection."""
        ...


class ObjectReader:
    """The bytes of an object or of a range of it, in chunks of at most 1 MiB; iterate it once, and close it.

    Iterating raises StorageUnavailable when the store goes away or ends the range early.
    """

    def __init__(
        self, source: ByteSource, size_bytes: int, translated: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self._source = source
        self._left = size_bytes
        self._translated = translated

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        if self._left <= 0:
            self.close()
            raise StopIteration
        with self._translated():
            chunk = self._source.read(min(CHUNK_BYTES, self._left))
        if not chunk:
            raise StorageUnavailable(f"The object ended {self._left} bytes early.")
        self._left -= len(chunk)
        return chunk

    def close(self) -> None:
        """Let go of the file or the connection; may be called twice."""
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def disk_errors() -> Iterator[None]:
    """Turn what the file system says into the errors of the port."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise DiskFull(f"The disk is full: {error}") from error
        raise StorageUnavailable(f"The file system does not answer: {error}") from error


def open_regular(path: Path) -> BufferedReader:
    """Open a file that is neither a link nor a device: what a job leaves behind is not trusted."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def save_hashed(
    reader: ObjectReader, path: Path, *, expected_sha256: str, on_chunk: Callable[[int], object] | None
) -> None:
    """Write what is read to a new file; the file is not there unless all of it is, with this hash."""
    digest = hashlib.sha256()
    try:
        with disk_errors():
            target = path.open("wb")
        with target:
            for chunk in reader:
                digest.update(chunk)
                with disk_errors():
                    target.write(chunk)
                if on_chunk is not None:
                    on_chunk(len(chunk))
        require_hash(digest.hexdigest(), expected_sha256, "the object read")
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def copy_hashed(source: BinaryIO, target: BinaryIO) -> str:
    """Copy to the end and return the SHA-256 of what was copied, in hex."""
    digest = hashlib.sha256()
    while chunk := source.read(CHUNK_BYTES):
        digest.update(chunk)
        target.write(chunk)
    return digest.hexdigest()


def require_hash(found: str, expected: str, what: str) -> None:
    """Raise ObjectCorrupt unless both hashes are the same."""
    if found != expected:
        raise ObjectCorrupt(f"{what} has SHA-256 {found}, not {expected}")
