"""The supervisor's side of a runner: start it, hand it a folder, hear it, watch it, kill it. Imports no torch.

Everything that a runner says after its start line may have been written by a hostile model, so each line is bounded
and validated, and nothing it sends makes the supervisor wait or grow.
"""

from __future__ import annotations

import contextlib
import functools
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from worker.progress import STAGES, StageMessage, runner_message_adapter
from worker.runner_log import RunnerLog
from worker.runner_messages import MAX_LINE_BYTES, THREADS_WAIT, ReadyMessage, StartMessage
from worker.sandbox import SandboxLevel

# One thread while torch is imported: a thread that ran before the lockdown would stay outside of it.
_ENVIRONMENT = {
    "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", **THREADS_WAIT
}  # fmt: skip
_READ_BYTES = 64 * 1024
_STOP_SECONDS = 1.0
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class RunnerLost(Exception):
    """The runner ended, or fell silent, before it said that the job is finished or failed."""


class RunnerGarbled(Exception):
    """The runner wrote something that is not a message."""


def default_command() -> list[str]:
    """The command of the real runner, to be completed with the supervisor's process id."""
    return [sys.executable, "-I", "-W", "ignore", "-m", "worker.runner"]


class RunnerProcess:
    """One runner: one interpreter, one job.

    start → wait_ready → run → messages until `finished` or `failed`, with `go_on` after each `stage` → kill. One thread
    uses it at a time, except that any thread may call `kill` at any time.
    """

    def __init__(self, command: Sequence[str] | None = None) -> None:
        self._command = list(command or default_command())
        self._process: subprocess.Popen[bytes] | None = None
        self._log: RunnerLog | None = None
        self._buffer = b""
        self._awaited = iter(STAGES[1:])
        self._ended = False
        self._reading = threading.Lock()
        self._reaping = threading.Lock()

    def start(self) -> None:
        """Start the interpreter, which takes some seconds to be ready; returns at once."""
        # The kernel kills the runner when the *thread* that started it ends, hence one that ends with the process.
        self._process = _spawner(os.getpid()).submit(_spawn, [*self._command, str(os.getpid())]).result()
        os.set_blocking(self._stdout.fileno(), False)
        assert self._process.stderr is not None
        self._log = RunnerLog(os.dup(self._process.stderr.fileno()))
        self._process.stderr.close()

    def wait_ready(self, timeout_seconds: float) -> SandboxLevel | None:
        """Wait until it has imported everything; the level that it can reach, or None while it is not ready yet.

        Raises RunnerLost when it has ended.
        """
        deadline = time.monotonic() + timeout_seconds
        while (line := self._next_line()) is None:
            if self._ended:
                raise RunnerLost("the runner ended before it was ready")
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            self._read(left)
        try:
            return ReadyMessage.model_validate_json(line).level
        except ValidationError as error:
            raise RunnerGarbled("the runner did not say ready") from error

    def run(self, start: StartMessage) -> None:
        """Give it its job; once. Raises RunnerLost when it is gone."""
        assert self._log is not None
        self._log.name = start.folder.name
        self._tell(start.model_dump_json().encode())

    def go_on(self) -> None:
        """Let the stage begin that it has asked for. Raises RunnerLost when it is gone."""
        self._tell(b"")

    def _tell(self, line: bytes) -> None:
        stdin = self._running.stdin
        assert stdin is not None
        try:
            stdin.write(line + b"\n")
            stdin.flush()
        except (BrokenPipeError, ValueError) as error:  # ValueError: closed, by `kill`
            raise RunnerLost("the runner ended before it was told to go on") from error

    def messages(self, timeout_seconds: float) -> list[Any]:
        """What it has said, waiting for a first message at most so long; an empty list when there was none.

        Each is one of `worker.progress.RunnerMessage`. Raises RunnerGarbled on anything else, and RunnerLost once it
        has ended and everything it said was returned.
        """
        messages = self._parse_lines()
        deadline = time.monotonic() + timeout_seconds
        while not messages:
            if self._ended:
                raise RunnerLost("the runner ended without a last word")
            left = deadline - time.monotonic()
            if left < 0:
                break
            self._read(left)
            messages = self._parse_lines()
        return messages

    @property
    def pid(self) -> int:
        """Its process id, which is also its process group and session."""
        return self._running.pid

    def alive(self) -> bool:
        """Whether it still runs; does not reap it, so that its id stays its own until `kill`."""
        process = self._process
        if process is None or process.returncode is not None:
            return False
        try:
            return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        except ChildProcessError:
            return False

    def rss_bytes(self) -> int:
        """Resident memory of its stage, what it shares with the runner included; 0 when it is gone."""
        if self._running.returncode is not None:
            return 0
        return max(map(_rss_bytes, [self.pid, *_children(self.pid)]))

    def pause(self) -> None:
        """Let it stand still until `resume`; returns when it does. Nothing happens to one that is gone."""
        self._signal(signal.SIGSTOP)
        deadline = time.monotonic() + _STOP_SECONDS
        while any(map(_is_running, [self.pid, *_children(self.pid)])) and time.monotonic() < deadline:
            time.sleep(0.001)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals, *, reap: bool = False) -> None:
        """To all of its processes. Unreaped, so the id cannot belong to anyone else; it is its group's id too."""
        with self._reaping:
            if self._running.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.pid, number)
                if reap:
                    self._running.wait()

    def kill(self) -> None:
        """Kill it and whatever it started, and reap it; may be called again, and on one that was never started."""
        process = self._process
        if process is None:
            return
        self._signal(signal.SIGKILL, reap=True)
        # A reader wakes at once, for the pipe has ended; unless an escaped child holds it open, which a garbage
        # collection will have to close.
        if self._reading.acquire(timeout=1):
            try:
                self._ended = True
                for stream in (process.stdin, process.stdout):
                    if stream is not None:
                        stream.close()
            finally:
                self._reading.release()
        if self._log is not None:
            self._log.close()

    @property
    def exit_signal(self) -> signal.Signals | None:
        """The signal that ended it, once it was killed or ended by itself and `kill` has reaped it."""
        code = self._running.returncode
        return signal.Signals(-code) if code is not None and code < 0 else None

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the runner was not started")
        return self._process

    @property
    def _stdout(self) -> Any:
        return self._running.stdout

    def _read(self, timeout_seconds: float) -> None:
        """Wait for bytes and take at most one pipe's worth of them."""
        with self._reading, selectors.DefaultSelector() as selector:
            if self._ended:
                return
            selector.register(self._stdout, selectors.EVENT_READ)
            if selector.select(timeout_seconds):
                chunk = os.read(self._stdout.fileno(), _READ_BYTES)
                self._ended = not chunk
                self._buffer += chunk

    def _next_line(self) -> bytes | None:
        line, newline, rest = self._buffer.partition(b"\n")
        if len(line) > MAX_LINE_BYTES:
            raise RunnerGarbled(f"the runner wrote a line of more than {MAX_LINE_BYTES} bytes")
        if not newline:
            return None
        self._buffer = rest
        return line

    def _parse_lines(self) -> list[Any]:
        messages = []
        while (line := self._next_line()) is not None:
            try:
                message = runner_message_adapter.validate_json(line)
            except ValidationError as error:
                raise RunnerGarbled(f"the runner wrote a line that is no message: {line[:200]!r}") from error
            if isinstance(message, StageMessage) and message.stage != next(self._awaited, None):
                raise RunnerGarbled(f"the runner asked for the stage {message.stage} out of turn")
            messages.append(message)
        return messages


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:  # it has just ended
        return []


def _is_running(pid: int) -> bool:
    """Whether a process is neither stopped nor dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "TtZX"
    except (OSError, IndexError):
        return False


def _rss_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError, ValueError):
        return 0


def _spawn(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - our own interpreter
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_ENVIRONMENT,
        cwd="/",
        start_new_session=True,
    )


@functools.cache
def _spawner(_pid: int) -> ThreadPoolExecutor:
    """A thread that lives as long as this process; by process id, because a fork does not take threads along."""
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="runner-spawner")
