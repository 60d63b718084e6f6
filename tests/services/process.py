"""One server process of a test: started, waited for, and gone at the end whatever happened."""

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

START_SECONDS = 60.0
STOP_SECONDS = 15.0

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


class ServiceMissing(Exception):
    """A server program is not installed; `python tests/services/install.py` brings it."""


class ServiceFailed(Exception):
    """A server did not start; the message ends with its log."""


@contextlib.contextmanager
def running(
    command: Sequence[str | Path],
    *,
    ready: Callable[[], bool],
    log: Path,
    environment: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    stop_signal: signal.Signals = signal.SIGTERM,
    user_id: int | None = None,
    group_id: int | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command from before `ready` answers True until the block ends.

    The process leads a session of its own, so all that it starts goes with it, and it dies with the test process.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
            user=user_id,
            group=group_id,
            extra_groups=None if user_id is None else [],
            preexec_fn=lambda: _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL),  # noqa: PLW1509 - one C call
        )
    try:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(stdin)
            process.stdin.close()
        wait_until(lambda: ready() or process.poll() is not None, f"{Path(command[0]).name} to be ready", log=log)
        if process.poll() is not None:
            raise ServiceFailed(f"{command[0]} ended with code {process.returncode}.\n{log_tail(log)}")
        yield process
    finally:
        process.send_signal(stop_signal)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_until(
    condition: Callable[[], object], what: str, *, timeout_seconds: float = START_SECONDS, log: Path | None = None
) -> None:
    """Poll until the condition holds; raises ServiceFailed after the deadline, with the end of the log."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() > deadline:
            tail = "" if log is None else f"\n{log_tail(log)}"
            raise ServiceFailed(f"waited {timeout_seconds:.0f} s in vain for {what}{tail}")
        time.sleep(0.02)


def is_alive(process_id: int) -> bool:
    """Whether the process runs; a zombie does not: its parent has only not looked yet."""
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def log_tail(log: Path, lines: int = 40) -> str:
    """The end of a log file."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
