"""The port that both object stores implement, and the keys that Octavo uses."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from shared.object_store.transfer import ObjectReader

# Every key there can be. A segment never starts with a dot, so no key climbs out of a directory.
_SEGMENT = r"[A-Za-z0-9_][A-Za-z0-9._+=@-]{0,199}"
_KEY = re.compile(rf"(?:blobs|uploads|results|checkpoints)(?:/{_SEGMENT}){{1,8}}")
_PREFIX = re.compile(rf"(?:blobs|uploads|results|checkpoints)(?:/{_SEGMENT}){{0,8}}/")


def blob_key(sha256: str) -> str:
    """Key of an uploaded file, named by its content."""
    return checked_key(f"blobs/sha256/{sha256}")


def part_key(upload_id: str, number: int) -> str:
    """Key of one part of an upload that is not complete."""
    return checked_key(f"uploads/{upload_id}/parts/{number}")


def upload_prefix(upload_id: str) -> str:
    """What every part of an upload is stored below."""
    return checked_prefix(f"uploads/{upload_id}/")


def artifact_key(job_id: str, fence: int, name: str) -> str:
    """Key of an artifact; the claim's fence keeps a late attempt from touching another's results."""
    return checked_key(f"{attempt_prefix(job_id, fence)}{name}")


def job_prefix(job_id: str) -> str:
    """What every artifact of a job is stored below, whichever attempt made it."""
    return checked_prefix(f"results/{job_id}/")


def attempt_prefix(job_id: str, fence: int) -> str:
    """What every artifact of one attempt is stored below."""
    return checked_prefix(f"results/{job_id}/{fence}/")


def checkpoint_key(job_id: str, fence: int, number: int, sha256: str) -> str:
    """Key of a training's checkpoint, numbered within its attempt and named by its content."""
    return checked_key(f"checkpoints/{job_id}/{fence}/{number}-{sha256}")


def checkpoint_prefix(job_id: str | None = None) -> str:
    """What every checkpoint of a job is stored below, or of all jobs."""
    return checked_prefix("checkpoints/" if job_id is None else f"checkpoints/{job_id}/")


def checked_key(key: str) -> str:
    """The key itself, or ValueError: a key comes from Octavo's code, so a wrong one is a bug or an attack."""
    if not _KEY.fullmatch(key):
        raise ValueError(f"not an object key: {key!r}")
    return key


def checked_prefix(prefix: str) -> str:
    """The prefix itself, such as `results/job_1/`, or ValueError."""
    if not _PREFIX.fullmatch(prefix):
        raise ValueError(f"not an object prefix: {prefix!r}")
    return prefix


@dataclass(frozen=True, slots=True)
class ObjectStat:
    """What the store knows of an object."""

    key: str
    size_bytes: int


class ObjectStore(Protocol):
    """A flat space of immutable objects. All methods may be called from any thread.

    Raises, of `shared.errors`: StorageUnavailable (unreachable, refused, timed out, failing), DiskFull, ObjectMissing
    and ObjectCorrupt; ValueError for a key that Octavo never makes; the usual OSError when the caller's own source file
    cannot be opened. Nothing else.
    """

    def prepare(self) -> None:
        """Make the directory or the bucket if it is missing; needed once before anything is stored."""
        ...

    def check(self) -> None:
        """Return if objects can be kept here right now: cheap enough for a readiness probe."""
        ...

    def put_file(
        self, key: str, path: Path, sha256: str, *, move: bool = False, hashed_when_written: bool = False
    ) -> None:
        """Store a regular file under a new key; on return it is durable.

        The bytes are hashed on the way, and the key appears whole or not at all. With `move` the file may be taken
        away instead of copied, and is gone on return. If the key already holds the same bytes nothing happens. Writers
        of other bytes at the same moment leave one of them whole; not every S3 store tells the others.

        A caller that wrote the file itself, hashed what it wrote and let nobody else near it says
        `hashed_when_written`: then it need not be read once more (0.7 s/GiB).

        Raises:
            ObjectCorrupt: the file does not have this hash, or the key already holds other bytes.
        """
        ...

    def put_part(self, key: str, path: Path, sha256: str) -> None:
        """Take a file away and keep it under a key of its own until the upload that it is a part of is complete.

        It replaces what is there. It need not survive a loss of power, and its hash is taken on trust: the whole is
        hashed when the parts are joined, and a part that is then lost or damaged is sent again.
        """
        ...

    def get_file(
        self, key: str, path: Path, *, expected_sha256: str, on_chunk: Callable[[int], object] | None = None
    ) -> None:
        """Copy an object to a file of the caller's own, hashed on the way; on any error the file is not there.

        `on_chunk` is told the size of each chunk; what it raises ends the copy and reaches the caller.

        Raises:
            ObjectCorrupt: the object does not have this hash.
        """
        ...

    def open(self, key: str, start: int = 0, end: int | None = None) -> ObjectReader:
        """Read bytes `start` to `end` (not included; to the last when None) as a stream."""
        ...

    def stat(self, key: str) -> ObjectStat | None:
        """What is stored under the key, or None."""
        ...

    def delete(self, key: str) -> None:
        """Forget the object; it need not exist."""
        ...

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        """Every object below a prefix that ends in `/`, in no order to rely on."""
        ...

    def presigned_url(self, key: str, *, filename: str, media_type: str, expires_seconds: int) -> str | None:
        """A URL that serves the object without credentials for a while; None if downloads go through the API."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...
