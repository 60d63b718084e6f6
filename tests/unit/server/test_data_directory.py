"""One data directory serves one stack, and keeps one API key."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from server.data_directory import DataDirectory


def test_the_key_is_made_once_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path / "data")
    directory.open()
    key = directory.api_key()
    assert key.startswith("oct_")
    assert directory.api_key() == key
    assert directory.api_key_file.read_text().strip() == key
    assert directory.api_key_file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in directory.path.glob("api-key*")] == ["api-key"]


def test_an_empty_key_file_is_refused_rather_than_replaced(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    directory.open()
    directory.api_key_file.write_text("\n")
    with pytest.raises(click.ClickException, match="Delete it"):
        directory.api_key()


def test_a_second_stack_on_the_directory_is_told_who_uses_it(tmp_path: Path) -> None:
    DataDirectory(tmp_path).open()
    with pytest.raises(click.ClickException, match=f"process {os.getpid()}"):
        DataDirectory(tmp_path).open()


def test_it_waits_for_what_a_killed_stack_left_running(tmp_path: Path) -> None:
    """The lock's owner is gone, and its child ends while the new stack waits: no error."""
    holder = (
        "import fcntl, os, subprocess, sys\n"
        "lock = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)\n"
        "fcntl.flock(lock, fcntl.LOCK_EX)\n"
        "os.write(lock, str(os.getpid()).encode())\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(0.5)'], pass_fds=[lock])\n"
    )
    subprocess.run([sys.executable, "-c", holder, str(tmp_path / "lock")], check=True)
    DataDirectory(tmp_path).open()
    assert (tmp_path / "lock").read_text() == str(os.getpid())


def test_a_directory_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(click.ClickException, match="--data-dir"):
        DataDirectory(tmp_path / "file" / "data").open()
