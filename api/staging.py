"""Request bodies on their way to a file: hashed and written in a thread while the next bytes arrive.

A body never sits in memory: at most two batches of it do, one being written and one being filled.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import shutil
import time
import uuid
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from fastapi import Request

from shared.errors import (
    ChecksumMismatch,
    DiskFull,
    RequestInvalid,
    UnsupportedMediaType,
    UploadError,
    UploadTooLarge,
)

_BATCH_BYTES = 1024**2
_ABANDONED_SECONDS = 24 * 3600
_WRITERS = 4  # hashing and writing; more would only contend for the disk and the cores


@dataclass(frozen=True)
class StagedFile:
    """A whole body in a file; nobody else knows its name."""

    path: Path
    size_bytes: int
    sha256: str


class StagingArea:
    """A directory of bodies that are arriving; each file lives as long as its request."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._executor = ThreadPoolExecutor(_WRITERS, thread_name_prefix="staging")

    def prepare(self) -> None:
        """Make the directory, private to this user, and remove what killed processes left a day ago."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in self._directory.iterdir():
            if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the threads."""
        self._executor.shutdown(wait=False)

    @contextmanager
    def file(self) -> Iterator[StagingWriter]:
        """A new file to write; gone on leaving, unless the object store took it."""
        path = self._directory / uuid.uuid4().hex
        with _disk_full_is_ours():
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            yield StagingWriter(path, descriptor)
        finally:
            os.close(descriptor)
            path.unlink(missing_ok=True)

    @asynccontextmanager
    async def body(
        self, request: Request, *, max_bytes: int, too_large: type[UploadError] = UploadTooLarge
    ) -> AsyncIterator[StagedFile]:
        """The request's body as a file, checked against its Content-Digest.

        Raises `too_large` (by Content-Length before a byte is read, or by counting), ChecksumMismatch, DiskFull, and
        ClientDisconnect when the client goes away.
        """
        expected = announced_sha256(request)
        _refuse_forms(request)
        announced = request.headers.get("content-length", "")
        if announced.isdigit():
            if int(announced) > max_bytes:
                raise too_large(f"The body has {announced} bytes; at most {max_bytes} are accepted here.")
            if int(announced) > shutil.disk_usage(self._directory).free:
                raise DiskFull(f"There is no room on the disk for {announced} bytes.")
        with self.file() as writer:
            if not await self._receive(request, writer, max_bytes):
                raise too_large(f"More than {max_bytes} bytes came; that many are accepted here.")
            staged = writer.finish()
            if expected is not None and expected != staged.sha256:
                raise ChecksumMismatch(f"The body has SHA-256 {staged.sha256}; its Content-Digest says {expected}.")
            yield staged

    async def _receive(self, request: Request, writer: StagingWriter, max_bytes: int) -> bool:
        """Write batches in a thread, each while the next one arrives; False when more than `max_bytes` came."""
        writing: asyncio.Future[None] | None = None
        batch: list[bytes] = []
        batched = received = 0
        loop = asyncio.get_running_loop()
        try:
            async for chunk in request.stream():
                batch.append(chunk)
                batched += len(chunk)
                received += len(chunk)
                if received > max_bytes:
                    return False
                if batched >= _BATCH_BYTES:
                    if writing is not None:
                        await asyncio.shield(writing)
                    writing = loop.run_in_executor(self._executor, writer.write, batch)
                    batch, batched = [], 0
            if writing is not None:
                await asyncio.shield(writing)
            writing = loop.run_in_executor(self._executor, writer.write, batch)
            await asyncio.shield(writing)
            return True
        finally:
            # Whatever happened, the thread must be done with the file before it is closed: hence also the shields.
            if writing is not None:
                await asyncio.wait([writing])
                writing.exception()  # seen: asyncio need not complain


class StagingWriter:
    """Appends to a staging file and hashes on the way; not for two threads at once."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self._digest = hashlib.sha256()
        self._size_bytes = 0

    def write(self, chunks: list[bytes]) -> None:
        """Append the chunks; DiskFull when they do not fit."""
        with _disk_full_is_ours():
            for chunk in chunks:
                self._digest.update(chunk)
                self._size_bytes += len(chunk)
                rest = memoryview(chunk)
                while rest:
                    rest = rest[os.write(self._descriptor, rest) :]

    def finish(self) -> StagedFile:
        """The file as it is now; the object store makes it durable."""
        return StagedFile(self._path, self._size_bytes, self._digest.hexdigest())


def announced_sha256(request: Request) -> str | None:
    """The hash in `Content-Digest: sha-256=:<base64>:` (RFC 9530), in hex; other algorithms are ignored."""
    for member in request.headers.get("content-digest", "").split(","):
        algorithm, _, value = member.strip().partition("=")
        if algorithm.lower() != "sha-256":
            continue
        try:
            digest = b64decode(value.strip(":"), validate=True)
        except (Base64Error, ValueError):
            digest = b""
        if len(digest) != 32 or not (value.startswith(":") and value.endswith(":")):
            raise RequestInvalid("Content-Digest must look like `sha-256=:<base64 of 32 bytes>:`.")
        return digest.hex()
    return None


def _refuse_forms(request: Request) -> None:
    if request.headers.get("content-type", "").startswith("multipart/"):
        raise UnsupportedMediaType(
            "This path takes the file itself as the body, not a form.",
            hint="With curl: `-T FILE -X POST` (or `--data-binary @FILE`), not `-F`.",
        )


@contextmanager
def _disk_full_is_ours() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise DiskFull from error
        raise
