"""The one visible directory of the embedded stack: who uses it, and the API key kept in it.

<data-dir>/
  api-key           the key made on first start, mode 0600
  octavo.sqlite3    job state
  objects/          models, datasets, artifacts
  workspace/        folders of the jobs that run now
  node/             locks by which jobs make way for each other's measurements
  broker/           the append-only file of hints that wait
  logs/             api.log, worker.log, broker.log, migrate.log
  lock              held while `octavo-server up` or anything it started runs
"""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from pathlib import Path

import click

_LEFTOVERS_SECONDS = 30.0


class DataDirectory:
    """A data directory held by this process; every child inherits the lock, so it is free when the last one is gone."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.lock_fd = -1

    @property
    def logs(self) -> Path:
        """Where the children's output goes."""
        return self.path / "logs"

    @property
    def broker(self) -> Path:
        """Where the broker keeps its append-only file."""
        return self.path / "broker"

    @property
    def api_key_file(self) -> Path:
        """Where the key made on first start is kept."""
        return self.path / "api-key"

    def open(self) -> None:
        """Make the directory and take its lock.

        Raises click.ClickException when it cannot be written or another `octavo-server up` uses it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            for folder in (self.logs, self.broker):
                folder.mkdir(exist_ok=True, mode=0o700)
            self.lock_fd = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise click.ClickException(
                f"The data directory {self.path} cannot be used: {error.strerror}. Choose another with --data-dir."
            ) from error
        self._lock()

    def _lock(self) -> None:
        deadline = time.monotonic() + _LEFTOVERS_SECONDS
        while True:
            try:
                fcntl.flock(self.lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                owner = os.pread(self.lock_fd, 20, 0).decode().strip()
                if (owner.isdigit() and _is_alive(int(owner))) or time.monotonic() > deadline:
                    raise click.ClickException(
                        f"Another octavo-server (process {owner or 'unknown'}) uses {self.path}. "
                        "Stop it, or choose another directory with --data-dir and another --port."
                    ) from None
                # Its `up` was killed; what it had started still stops.
                time.sleep(0.1)
        os.ftruncate(self.lock_fd, 0)
        os.pwrite(self.lock_fd, str(os.getpid()).encode(), 0)

    def api_key(self) -> str:
        """The key in the key file, made on first call."""
        try:
            key = self.api_key_file.read_text().strip()
        except FileNotFoundError:
            key = f"oct_{secrets.token_hex(24)}"
            # Linked into place whole: whoever reads the file, however this process ends, reads a key or finds no file.
            temporary = self.path / f"api-key.{os.getpid()}"
            temporary.unlink(missing_ok=True)
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(f"{key}\n")
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(self.api_key_file)
        if len(key) < 16:
            raise click.ClickException(
                f"{self.api_key_file} holds no key of 16 characters or more. Delete it; the next start makes a new one."
            )
        return key


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
