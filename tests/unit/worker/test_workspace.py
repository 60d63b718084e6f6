"""Job folders: what a hostile job builds in one is measured as too much, and deleted."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from shared.errors import DiskFull
from worker.job_folder import JobFolder
from worker.workspace import Workspace, require_room, size_bytes


def nest(folder: Path, depth: int) -> None:
    """Directories in directories, by descriptors: their path is longer than the kernel takes."""
    here = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("directory", dir_fd=here)
        below = os.open("directory", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path, "wrk_1")


def test_the_size_is_that_of_the_files_at_any_reasonable_depth(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_bytes(bytes(2**20))
    assert 2**20 <= size_bytes(tmp_path) < 2**20 + 2**16
    assert size_bytes(tmp_path / "nothing") == 0


@pytest.mark.parametrize("depth", [60, 1100])
def test_a_tree_as_deep_as_no_recipe_makes_counts_as_endless(tmp_path: Path, workspace: Workspace, depth: int) -> None:
    with workspace.job_folder("job_1") as folder:
        nest(folder.path, depth)
        assert size_bytes(folder.path) > 2**60
    assert [path.name for path in (tmp_path / "wrk_1").iterdir()] == [".lock"]


def test_a_folder_is_deleted_with_links_unreadable_and_deep_directories(tmp_path: Path, workspace: Workspace) -> None:
    kept = tmp_path / "kept"
    kept.write_text("mine")
    with workspace.job_folder("job_1") as folder:
        nest(folder.path, 1100)
        (folder.path / "closed").mkdir()
        (folder.path / "closed" / "file").touch()
        (folder.path / "closed").chmod(0)
        (folder.path / "link").symlink_to(tmp_path)
        os.mkfifo(folder.path / "pipe")
    assert [path.name for path in (tmp_path / "wrk_1").iterdir()] == [".lock"]
    assert kept.read_text() == "mine"


def test_what_a_killed_worker_left_is_swept_however_deep_it_is(tmp_path: Path) -> None:
    left = JobFolder(tmp_path / "wrk_0" / "job_1").path
    left.mkdir(parents=True)
    nest(left, 1100)
    Workspace(tmp_path, "wrk_1").close()
    assert list(tmp_path.iterdir()) == []


def test_a_job_whose_files_would_fill_the_disk_is_refused_before_they_do(tmp_path: Path) -> None:
    free_bytes = shutil.disk_usage(tmp_path).free
    require_room(tmp_path, free_bytes // 2)
    with pytest.raises(DiskFull, match=r"The job's files take .* GB, and .* GB are free"):
        require_room(tmp_path, free_bytes)
