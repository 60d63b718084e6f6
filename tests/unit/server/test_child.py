"""A child process is restarted, given up, ended, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.child import Child, ChildFailed
from tests.services.process import is_alive, wait_until


@pytest.fixture
def lock_fd(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


def python_child(tmp_path: Path, code: str, *, stdin: bytes = b"") -> Child:
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return Child("part", command, log=tmp_path / "part.log", environment=dict(os.environ), stdin=stdin)


def test_what_a_child_writes_is_in_its_log_and_follows_line_by_line(tmp_path: Path, lock_fd: int) -> None:
    child = python_child(
        tmp_path, "import sys; print(sys.stdin.read()); print('to stderr', file=sys.stderr)", stdin=b"hi"
    )
    child.start(lock_fd=lock_fd)
    wait_until(lambda: not child.running, "its end")
    assert sorted(child.new_log_lines()) == ["hi", "to stderr"]
    assert child.new_log_lines() == []
    assert sorted(child.last_log_lines().splitlines()) == ["hi", "to stderr"]


def test_a_child_that_dies_is_started_again_after_a_backoff(tmp_path: Path, lock_fd: int) -> None:
    child = python_child(tmp_path, "import time; print('started', flush=True); time.sleep(600)")
    child.start(lock_fd=lock_fd)
    try:
        wait_until(lambda: "started" in child.last_log_lines(), "the start")
        child.signal(signal.SIGKILL)
        wait_until(lambda: not child.running, "its end")
        news = child.supervise(lock_fd=lock_fd)
        assert news is not None
        assert "was killed by SIGKILL" in news
        assert child.supervise(lock_fd=lock_fd) is None, "it is said once"

        def is_back() -> bool:
            assert child.supervise(lock_fd=lock_fd) is None
            return child.running

        wait_until(is_back, "the restart")
        wait_until(lambda: child.last_log_lines().count("started") == 2, "the second start")
    finally:
        child.kill_group()


def test_a_child_that_dies_at_every_start_is_given_up(tmp_path: Path, lock_fd: int) -> None:
    child = python_child(tmp_path, "raise SystemExit('no such setting')")
    child.start(lock_fd=lock_fd)

    failures: list[ChildFailed] = []

    def gives_up() -> bool:
        try:
            child.supervise(lock_fd=lock_fd)
        except ChildFailed as error:
            failures.append(error)
        return bool(failures)

    wait_until(gives_up, "giving up")
    assert str(failures[0]) == "The part ended with exit code 1"
    assert child.last_log_lines().splitlines() == ["no such setting"] * 3


def test_kill_group_ends_grandchildren_too(tmp_path: Path, lock_fd: int) -> None:
    child = python_child(
        tmp_path,
        """
        import subprocess, sys, time
        print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid, flush=True)
        time.sleep(600)
        """,
    )
    child.start(lock_fd=lock_fd)
    wait_until(lambda: bool(child.last_log_lines()), "the first line")
    grandchild = int(child.last_log_lines())
    child.kill_group()
    wait_until(lambda: not is_alive(grandchild), "its end")


def test_a_killed_parent_takes_its_child_along(tmp_path: Path) -> None:
    parent_code = f"""
        import os, sys, time
        from pathlib import Path
        from server.child import Child
        command = [sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(600)"]
        child = Child("part", command, log=Path({str(tmp_path)!r}) / "part.log", environment=dict(os.environ))
        child.start(lock_fd=os.open(Path({str(tmp_path)!r}) / "lock", os.O_RDWR | os.O_CREAT))
        time.sleep(600)
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(parent_code)])
    log = tmp_path / "part.log"
    try:
        wait_until(lambda: log.exists() and log.read_text().endswith("\n"), "the first line")
    finally:
        parent.kill()
        parent.wait()
    pid = int(log.read_text())
    wait_until(lambda: not is_alive(pid), "its end")


def test_a_log_over_its_limit_is_emptied_and_its_last_part_kept(
    tmp_path: Path, lock_fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.child._LOG_LIMIT_BYTES", 10)
    child = python_child(tmp_path, "print('x' * 20)")
    child.start(lock_fd=lock_fd)
    wait_until(lambda: not child.running, "its end")
    child.rotate_log()
    assert (tmp_path / "part.log").read_text() == ""
    assert (tmp_path / "part.log.1").read_text() == "x" * 20 + "\n"


def test_a_log_is_echoed_a_piece_at_a_time_even_without_line_breaks(
    tmp_path: Path, lock_fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that has grown by gigabytes is not read at once."""
    monkeypatch.setattr("server.child._ECHO_BYTES", 10)
    child = python_child(tmp_path, "print('x' * 15 + '\\n' + 'y')")
    child.start(lock_fd=lock_fd)
    wait_until(lambda: not child.running, "its end")
    assert [child.new_log_lines() for _ in range(3)] == [["x" * 10], ["x" * 5, "y"], []]


def test_a_log_is_rotated_in_chunks(tmp_path: Path, lock_fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.child._LOG_LIMIT_BYTES", 10)
    child = python_child(tmp_path, f"import os; os.ftruncate(1, {2**28}); print('end')")
    child.start(lock_fd=lock_fd)
    wait_until(lambda: not child.running, "its end")
    tracemalloc.start()
    child.rotate_log()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2**24
    assert (tmp_path / "part.log.1").stat().st_size > 2**28
    (tmp_path / "part.log.1").unlink()
