"""Where the folders of running jobs live: a directory a worker process, locked by it, swept when its owner is gone."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from shared.errors import DiskFull
from worker.job_folder import JobFolder

# Recipes leave a handful of files.
_MAX_DEPTH = 50
_MAX_ENTRIES = 100_000
_KEPT_FREE_BYTES = 2**28


class Workspace:
    """This process's directory below the node's workspace."""

    def __init__(self, root: Path, worker_id: str) -> None:
        self._path = root / worker_id
        self._path.mkdir(parents=True, mode=0o700)
        self._lock = _lock(self._path)
        assert self._lock is not None, "a new directory cannot be locked by another process"
        _sweep(root)

    @contextlib.contextmanager
    def job_folder(self, name: str) -> Iterator[JobFolder]:
        """A new folder for one attempt, deleted with all it holds on leaving."""
        folder = JobFolder(self._path / name)
        try:
            folder.path.mkdir(mode=0o700)
            yield folder
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise DiskFull("The worker's disk is full.") from error
            raise
        finally:
            _delete(folder.path)

    def staging(self, name: str) -> Path:
        """A file beside the folders of jobs, where no job reaches it."""
        return self._path / f"{name}.staged"

    def close(self) -> None:
        """Delete the directory."""
        _delete(self._path)
        if self._lock is not None:
            os.close(self._lock)


def require_room(folder: Path, needed_bytes: int) -> None:
    """Raise DiskFull where so much would fill the disk, rather than fill it for all others too."""
    free_bytes = shutil.disk_usage(folder).free
    if needed_bytes > free_bytes - _KEPT_FREE_BYTES:
        raise DiskFull(f"The job's files take {needed_bytes / 1e9:.1f} GB, and {free_bytes / 1e9:.1f} GB are free.")


def size_bytes(folder: Path) -> int:
    """Disk space of all files below the folder; files that vanish meanwhile count as nothing.

    A tree that only hides how much is in it, by depth, number or mode, counts as endless.
    """
    total = entries = 0
    directories = [(str(folder), 0)]
    while directories:
        directory, depth = directories.pop()
        try:
            found = list(os.scandir(directory))
        except FileNotFoundError:
            continue
        except OSError:
            return sys.maxsize
        entries += len(found)
        if depth > _MAX_DEPTH or entries > _MAX_ENTRIES:
            return sys.maxsize
        for entry in found:
            if entry.is_dir(follow_symlinks=False):
                directories.append((entry.path, depth + 1))
            with contextlib.suppress(OSError):
                total += entry.stat(follow_symlinks=False).st_blocks * 512
    return total


def _delete(folder: Path) -> None:
    """Delete the folder, however deep a hostile job has nested it and whatever modes it gave."""
    numbers = itertools.count()
    directories = [folder]
    with contextlib.suppress(OSError):
        while directories:
            directory = directories.pop()
            for entry in list(os.scandir(directory)):
                if entry.is_dir(follow_symlinks=False):
                    # Moved up, because a path can be too long to be opened, and Python's own rmtree recurses.
                    moved = folder.with_name(f"{folder.name}.{next(numbers)}")
                    Path(entry.path).chmod(0o700)
                    directories.append(Path(entry.path).rename(moved))
                else:
                    Path(entry.path).unlink()
            directory.rmdir()


def _lock(path: Path) -> int | None:
    descriptor = os.open(path / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _sweep(root: Path) -> None:
    # A worker that was killed left its folders behind; the kernel has freed its lock.
    for path in root.iterdir():
        if path.is_dir() and (lock := _lock(path)) is not None:
            _delete(path)
            os.close(lock)
