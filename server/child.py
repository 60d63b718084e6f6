"""A child process of the embedded stack: started again when it dies, never left behind."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_LOG_LIMIT_BYTES = 16 * 1024**2
_ECHO_BYTES = 1024**2
_QUICK_DEATH_SECONDS = 10.0
_MAX_QUICK_DEATHS = 3
_MAX_BACKOFF_SECONDS = 30.0
_PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


class Child:
    """One command, its log file, and how its deaths are answered.

    Start it from the main thread only: the kernel ends a child with the *thread* that started it.
    """

    def __init__(
        self, name: str, command: Sequence[str], *, log: Path, environment: Mapping[str, str], stdin: bytes = b""
    ) -> None:
        self.name = name
        self.log = log
        self._command = list(command)
        self._environment = dict(environment)
        self._stdin = stdin
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._quick_deaths = 0
        self._restart_at: float | None = None
        self._echoed_bytes = 0

    def start(self, *, lock_fd: int) -> None:
        """Start the process in a session of its own; it inherits the data directory's lock."""
        parent = os.getpid()

        def between_fork_and_exec() -> None:
            # `kill -9` of the parent must leave nothing behind.
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:
                os._exit(1)
            signal.pthread_sigmask(signal.SIG_SETMASK, [])

        self._restart_at = None
        self._started_at = time.monotonic()
        with self.log.open("ab") as log:
            self._echoed_bytes = log.tell()
            self._process = subprocess.Popen(  # noqa: S603 - the commands are Octavo's own
                self._command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                pass_fds=(lock_fd,),
                # Ctrl-C in the terminal reaches the parent alone, which stops its children in order.
                start_new_session=True,
                preexec_fn=between_fork_and_exec,  # noqa: PLW1509 - the parent has one thread
            )
        assert self._process.stdin is not None
        # A child that dies at once reads nothing; its exit code tells.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(self._stdin)
            self._process.stdin.close()

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def exit_code(self) -> int | None:
        """The exit code, negative for a signal; None while it lives."""
        return None if self._process is None else self._process.poll()

    def supervise(self, *, lock_fd: int) -> str | None:
        """Look after the process: returns what to tell the user, once, when it died or came back.

        Raises ChildFailed when it died soon after its start too many times in a row.
        """
        if self.running:
            return None
        now = time.monotonic()
        if self._restart_at is None:
            self.kill_group()
            quick = now - self._started_at < _QUICK_DEATH_SECONDS
            self._quick_deaths = self._quick_deaths + 1 if quick else 1
            if quick and self._quick_deaths >= _MAX_QUICK_DEATHS:
                raise ChildFailed(self)
            backoff = min(0.5 * 2**self._quick_deaths, _MAX_BACKOFF_SECONDS)
            self._restart_at = now + backoff
            return f"The {self.name} {self.describe_exit()}; it is started again in {backoff:.0f} s (log: {self.log})."
        if now >= self._restart_at:
            self.start(lock_fd=lock_fd)
        return None

    def describe_exit(self) -> str:
        """How it ended, such as `was killed by SIGKILL`."""
        code = self.exit_code()
        if code is not None and code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return f"ended with exit code {code}"

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        if self._process is not None and self.running:
            self._process.send_signal(number)

    def kill_group(self) -> None:
        """End the process and whatever is left of its session, at once."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def new_log_lines(self) -> list[str]:
        """Whole lines written to the log since the last call; a megabyte of them at most."""
        with self.log.open("rb") as log:
            log.seek(self._echoed_bytes)
            chunk = log.read(_ECHO_BYTES)
        text, newline, _ = chunk.rpartition(b"\n")
        if not newline and len(chunk) == _ECHO_BYTES:  # a line without an end
            text = chunk
        self._echoed_bytes += len(text) + len(newline)
        return text.decode(errors="replace").splitlines()

    def last_log_lines(self, count: int = 15) -> str:
        """The end of the log, for the user to read."""
        with self.log.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 64 * 1024))
            return "\n".join(log.read().decode(errors="replace").splitlines()[-count:])

    def rotate_log(self) -> None:
        """Keep the log below its limit: one older part is kept beside it."""
        if self.log.stat().st_size > _LOG_LIMIT_BYTES:
            # The child holds the file open in append mode: emptied in place, it goes on writing at the start.
            with self.log.open("rb") as log, self.log.with_suffix(".log.1").open("wb") as older:
                shutil.copyfileobj(log, older)  # in chunks, however long it has become
            os.truncate(self.log, 0)
            self._echoed_bytes = 0


class ChildFailed(Exception):
    """A child dies again and again soon after its start."""

    def __init__(self, child: Child) -> None:
        self.child = child
        super().__init__(f"The {child.name} {child.describe_exit()}")
