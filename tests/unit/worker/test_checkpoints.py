"""Checkpoints on their way to the store and back: by fence, whole, and never more trusted than other outputs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shared.database.records import Claim
from shared.object_store import LocalStore, checkpoint_prefix
from worker.checkpoints import CheckpointKeeper

JOB = "job_0123456789"


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    store = LocalStore(tmp_path / "store")
    store.prepare()
    return store


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """Where the job writes."""
    path = tmp_path / "job" / "checkpoint.pt"
    path.parent.mkdir()
    return path


def keeper(store: LocalStore, tmp_path: Path, fence: int, limit_bytes: int = 1000) -> CheckpointKeeper:
    claim = Claim(job_id=JOB, fence=fence, attempt=fence, spec={})
    return CheckpointKeeper(store, claim, tmp_path / "staged", limit_bytes=limit_bytes)


def fetched(store: LocalStore, tmp_path: Path, fence: int) -> bytes | None:
    path = tmp_path / f"fetched-{fence}"
    keeper(store, tmp_path, fence).fetch(path, lambda _: None)
    return path.read_bytes() if path.exists() else None


def keys(store: LocalStore) -> list[str]:
    return sorted(each.key for each in store.list(checkpoint_prefix(JOB)))


def test_the_next_attempt_is_given_the_last_one_kept(store: LocalStore, tmp_path: Path, written: Path) -> None:
    first = keeper(store, tmp_path, 1)
    for epoch in (1, 2):
        written.write_bytes(b"epoch %d" % epoch)
        first._not_before = 0  # as if the time between two had passed
        first.keep(written, epoch)
    assert len(keys(store)) == 1
    assert fetched(store, tmp_path, 2) == b"epoch 2"
    assert not (tmp_path / "staged").exists()


def test_epochs_faster_than_storing_are_not_all_kept(store: LocalStore, tmp_path: Path, written: Path) -> None:
    first = keeper(store, tmp_path, 1)
    for epoch in (1, 2, 3):
        written.write_bytes(b"epoch %d" % epoch)
        first.keep(written, epoch)
    assert fetched(store, tmp_path, 2) == b"epoch 1"


def test_a_late_attempt_replaces_no_newer_ones(store: LocalStore, tmp_path: Path, written: Path) -> None:
    written.write_bytes(b"newer")
    keeper(store, tmp_path, 2).keep(written, 5)
    written.write_bytes(b"late")
    keeper(store, tmp_path, 1).keep(written, 9)
    assert fetched(store, tmp_path, 3) == b"newer"


def test_one_that_the_store_has_lost_bytes_of_is_passed_over(store: LocalStore, tmp_path: Path, written: Path) -> None:
    written.write_bytes(b"whole")
    keeper(store, tmp_path, 1).keep(written, 1)
    (key,) = keys(store)
    stored = tmp_path / "store" / key
    stored.chmod(0o600)
    stored.write_bytes(b"spoilt")
    assert fetched(store, tmp_path, 2) is None


def test_links_pipes_and_what_is_too_large_are_not_kept(store: LocalStore, tmp_path: Path, written: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"of somebody else")
    one = keeper(store, tmp_path, 1, limit_bytes=100)
    for make in (
        lambda: written.symlink_to(secret),
        lambda: os.link(secret, written),
        lambda: os.mkfifo(written),
        written.mkdir,
        lambda: written.write_bytes(bytes(101)),
        lambda: None,
    ):
        make()
        one._not_before = 0
        one.keep(written, 1)
        assert keys(store) == []
        written.rmdir() if written.is_dir() else written.unlink(missing_ok=True)
    written.write_bytes(bytes(100))
    one._not_before = 0
    one.keep(written, 1)
    assert len(keys(store)) == 1


def test_when_the_job_has_ended_nothing_is_left(store: LocalStore, tmp_path: Path, written: Path) -> None:
    written.write_bytes(b"some")
    keeper(store, tmp_path, 1).keep(written, 1)
    keeper(store, tmp_path, 2).forget()
    assert keys(store) == []
