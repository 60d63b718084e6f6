"""Where checkpoints of running trainings are kept, so that any node can go on from the last epoch of a lost worker.

The process that trains writes them to its own folder; the supervisor, which alone can reach the object store, takes
them from there as it takes every other output: a regular file of one name, within the limits, hashed while it is copied
out of the folder. Each lies below the fence of the claim that it was written under, so a late attempt never replaces a
newer one's. They are deleted when the job ends; what a lost worker leaves is swept by the reconciler.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

from shared.database.records import Claim
from shared.errors import ObjectCorrupt, ObjectMissing, ServiceError
from shared.object_store import ObjectStore, checkpoint_key, checkpoint_prefix

_LOG = logging.getLogger(__name__)
_CHUNK_BYTES = 1024**2
_LEAST_INTERVAL_SECONDS = 1.0
_SHARE_OF_TIME = 0.1


class Refused(Exception):
    """What the job left is no checkpoint that could be kept."""


class CheckpointKeeper:
    """Keeps the checkpoints of one attempt, and hands it those of earlier ones.

    Storing takes at most about a tenth of the time: of epochs that are shorter only every so many is kept.
    """

    def __init__(self, store: ObjectStore, claim: Claim, staging: Path, *, limit_bytes: int) -> None:
        self._store = store
        self._claim = claim
        self._staging = staging
        self._limit_bytes = limit_bytes
        self._stored = 0
        self._not_before = 0.0

    def fetch(self, path: Path, on_chunk: Callable[[int], object]) -> None:
        """Copy the newest checkpoint of earlier attempts to `path`; nothing when there is none that is whole."""
        if self._claim.fence == 1:  # nobody was here before
            return
        for key in reversed(self._keys()):
            try:
                self._store.get_file(key, path, expected_sha256=key.rpartition("-")[2], on_chunk=on_chunk)
            except (ObjectMissing, ObjectCorrupt) as error:
                _LOG.warning("The checkpoint %s is passed over: %s", key, error)
            else:
                return

    def keep(self, written: Path, epoch: int) -> None:
        """Store what the job has written, and forget what was stored before it.

        A checkpoint only saves time, so that one cannot be stored is logged and no more.
        """
        began_at = time.monotonic()
        if began_at < self._not_before:
            return
        try:
            sha256 = self._take(written)
            key = checkpoint_key(self._claim.job_id, self._claim.fence, self._stored + 1, sha256)
            self._store.put_file(key, self._staging, sha256, move=True, hashed_when_written=True)
            self._stored += 1
            for older in self._keys():
                if older != key:
                    self._store.delete(older)
        except (Refused, ServiceError, OSError) as error:
            _LOG.warning("The checkpoint of %s after epoch %d is not kept: %s", self._claim.job_id, epoch, error)
        finally:
            self._staging.unlink(missing_ok=True)
        ended_at = time.monotonic()
        self._not_before = ended_at + max(_LEAST_INTERVAL_SECONDS, (ended_at - began_at) / _SHARE_OF_TIME)

    def forget(self) -> None:
        """Delete every checkpoint of the job: it has ended."""
        if self._stored or self._claim.fence > 1:
            delete_checkpoints(self._store, self._claim.job_id)

    def _keys(self) -> list[str]:
        """Of this attempt and earlier ones, the newest last."""
        found = []
        for each in self._store.list(checkpoint_prefix(self._claim.job_id)):
            _, _, fence, name = each.key.split("/")
            if int(fence) <= self._claim.fence:
                found.append((int(fence), int(name.partition("-")[0]), each.key))
        return [key for *_, key in sorted(found)]

    def _take(self, written: Path) -> str:
        """Copy the file to where the job cannot reach it; its SHA-256."""
        # O_NONBLOCK, for a named pipe would hold this up for good.
        descriptor = os.open(written, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as source, self._staging.open("wb") as copy:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
                raise Refused("it is no regular file of its own")
            digest, size_bytes = hashlib.sha256(), 0
            while chunk := source.read(_CHUNK_BYTES):
                size_bytes += len(chunk)
                if size_bytes > self._limit_bytes:
                    raise Refused(f"it is larger than {self._limit_bytes} bytes")
                digest.update(chunk)
                copy.write(chunk)
            copy.flush()
            os.fsync(copy.fileno())
        return digest.hexdigest()


def delete_checkpoints(store: ObjectStore, job_id: str) -> None:
    """Delete every checkpoint of a job; what stays, because the store does not answer, is swept later."""
    try:
        for each in list(store.list(checkpoint_prefix(job_id))):
            store.delete(each.key)
    except ServiceError as error:
        _LOG.warning("The checkpoints of %s are not deleted yet: %s", job_id, error)
