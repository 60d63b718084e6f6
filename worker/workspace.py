"""Where the folders of running jobs live: a directory a worker process, locked by it, swept when its owner is gone."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from shared.errors import DiskFull
from worker.job_folder import JobFolder


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
            shutil.rmtree(folder.path, ignore_errors=True)

    def close(self) -> None:
        """Delete the directory."""
        shutil.rmtree(self._path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)


def size_bytes(folder: Path) -> int:
    """Disk space of all files below the folder; files that vanish meanwhile count as nothing."""
    total = 0
    for directory, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(Path(directory) / name).st_blocks * 512
    return total


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
            shutil.rmtree(path, ignore_errors=True)
            os.close(lock)
