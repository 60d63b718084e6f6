"""Objects in a directory, as durable as the disk below it.

A new object is written to a temporary name, hashed on the way, fsynced, and hard-linked to its key: `link` fails if the
name exists, so a key is created once and never half. Then the directory is fsynced, or the name could be lost with the
power. A process killed in between leaves a file in `tmp/`, which `prepare` sweeps a day later.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from shared.errors import ObjectMissing
from shared.object_store.port import ObjectStat, checked_key, checked_prefix
from shared.object_store.transfer import ObjectReader, copy_hashed, disk_errors, open_regular, require_hash, save_hashed

_ORPHAN_AGE_SECONDS = 24 * 3600
_READ_ONLY = 0o440


class LocalStore:
    """A directory of objects; every process on the node may open it at once."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._tmp = self._root / "tmp"

    def prepare(self) -> None:
        """Make the directory, private to this user, and sweep what killed writers left.

        Nothing else makes it: where a disk is not mounted, a new and empty store would look like lost objects.
        """
        with disk_errors():
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._tmp.mkdir(exist_ok=True)
            for orphan in self._tmp.iterdir():
                if time.time() - orphan.stat().st_mtime > _ORPHAN_AGE_SECONDS:
                    orphan.unlink(missing_ok=True)

    def check(self) -> None:
        """Write a byte and remove it again."""
        with disk_errors():
            path, file = self._temporary()
            try:
                with file:
                    file.write(b"x")
            finally:
                path.unlink()

    def put_file(
        self, key: str, path: Path, sha256: str, *, move: bool = False, hashed_when_written: bool = False
    ) -> None:
        """See ObjectStore; on the same file system `move` costs one read at most, and no copy."""
        target = self._root / checked_key(key)
        with open_regular(path) as source, disk_errors():
            if move and not hashed_when_written:
                require_hash(hashlib.file_digest(source, "sha256").hexdigest(), sha256, str(path))
            if not (move and self._link_source(source, path, target, sha256)):
                self._copy_in(source, target, sha256)
            if move:
                path.unlink(missing_ok=True)

    def put_part(self, key: str, path: Path, sha256: str) -> None:  # noqa: ARG002 - the port's signature
        """See ObjectStore; a rename, so that most parts are joined and gone before the disk ever sees them."""
        target = self._root / checked_key(key)
        with disk_errors():
            self._make_directory(target.parent)
            try:
                path.replace(target)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                temporary = self._tmp / uuid.uuid4().hex
                shutil.copyfile(path, temporary)
                temporary.replace(target)
                path.unlink()

    def get_file(
        self, key: str, path: Path, *, expected_sha256: str, on_chunk: Callable[[int], object] | None = None
    ) -> None:
        """See ObjectStore; always a copy: the code of a job must not reach the object by a second name."""
        with self.open(key) as reader:
            save_hashed(reader, path, expected_sha256=expected_sha256, on_chunk=on_chunk)

    def open(self, key: str, start: int = 0, end: int | None = None) -> ObjectReader:
        """See ObjectStore."""
        with disk_errors():
            try:
                source = (self._root / checked_key(key)).open("rb")
            except (FileNotFoundError, NotADirectoryError):
                self._require_root()
                raise ObjectMissing(f"{key} is not in the object store.") from None
            size_bytes = os.fstat(source.fileno()).st_size
            source.seek(start)
        return ObjectReader(source, (size_bytes if end is None else min(end, size_bytes)) - start, disk_errors)

    def stat(self, key: str) -> ObjectStat | None:
        """See ObjectStore."""
        with disk_errors():
            try:
                return ObjectStat(key, (self._root / checked_key(key)).stat().st_size)
            except (FileNotFoundError, NotADirectoryError):
                self._require_root()
                return None

    def delete(self, key: str) -> None:
        """See ObjectStore; directories that become empty go too."""
        target = self._root / checked_key(key)
        with disk_errors():
            self._require_root()
            target.unlink(missing_ok=True)
            try:
                for parent in target.relative_to(self._root).parents[:-1]:
                    (self._root / parent).rmdir()
            except OSError as error:
                if error.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT}:
                    raise

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        """See ObjectStore."""
        top = self._root / checked_prefix(prefix)
        with disk_errors():
            self._require_root()
            for directory, _, names in os.walk(top, onerror=_raise_unless_gone):
                for name in names:
                    path = Path(directory, name)
                    try:
                        size_bytes = path.stat().st_size
                    except FileNotFoundError:  # deleted while we walked
                        continue
                    yield ObjectStat(path.relative_to(self._root).as_posix(), size_bytes)

    def presigned_url(self, key: str, *, filename: str, media_type: str, expires_seconds: int) -> str | None:  # noqa: ARG002 - the port's signature
        """None: there is no server but the API."""
        return None

    def close(self) -> None:
        """Nothing is held."""

    def _require_root(self) -> None:
        self._root.stat()

    def _temporary(self) -> tuple[Path, BinaryIO]:
        path = self._tmp / uuid.uuid4().hex
        return path, path.open("xb")

    def _link_source(self, source: BufferedReader, path: Path, target: Path, sha256: str) -> bool:
        """Give the file its key without a copy; False where the file system or its owner does not allow that."""
        try:
            os.fchmod(source.fileno(), _READ_ONLY)
            os.fsync(source.fileno())
            self._link(path, target, sha256)
        except OSError as error:
            if error.errno in {errno.EXDEV, errno.EPERM, errno.EMLINK}:
                source.seek(0)
                return False
            raise
        return True

    def _copy_in(self, source: BufferedReader, target: Path, sha256: str) -> None:
        temporary, file = self._temporary()
        try:
            with file:
                require_hash(copy_hashed(source, file), sha256, str(source.name))
                file.flush()
                os.fchmod(file.fileno(), _READ_ONLY)
                os.fsync(file.fileno())
            self._link(temporary, target, sha256)
        finally:
            temporary.unlink(missing_ok=True)

    def _link(self, path: Path, target: Path, sha256: str) -> None:
        while True:
            self._make_directory(target.parent)
            try:
                os.link(path, target, follow_symlinks=False)
            except FileNotFoundError:
                if not path.exists():
                    raise
                continue  # a delete took the empty directory away under us
            except FileExistsError:
                with target.open("rb") as existing:
                    require_hash(hashlib.file_digest(existing, "sha256").hexdigest(), sha256, f"{target} as it stands")
            break
        # Also when another writer was first: it may not have come this far yet.
        _fsync_directory(target.parent)

    def _make_directory(self, directory: Path) -> None:
        """Make the directory and those above it up to the root, each durable in its own parent."""
        if directory == self._root or directory.is_dir():
            return
        self._make_directory(directory.parent)
        directory.mkdir(exist_ok=True)
        _fsync_directory(directory.parent)


def _raise_unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _fsync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
