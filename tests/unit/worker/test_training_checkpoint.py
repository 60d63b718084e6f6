"""Checkpoints in their file: they come back as they were, and what is not ours is refused."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from shared.job_report import EpochResult
from worker.training_checkpoint import (
    Checkpoint,
    CheckpointUnusable,
    Curve,
    fingerprint_of,
    fits,
    read_checkpoint,
    restore_optimizer,
)


def checkpoint() -> Checkpoint:
    network = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    curve = Curve(epochs=[EpochResult(epoch=1, loss=0.1 + 0.2, metric=None, sqnr_db=None, seconds=1)], best_epoch=1)
    return Checkpoint("qat", {"qat": curve}, network.state_dict(), optimizer.state_dict(), None, None)


def test_it_comes_back_as_it_was(tmp_path: Path) -> None:
    written = checkpoint()
    written.save(tmp_path / "checkpoint.pt", "ours")
    read = read_checkpoint(tmp_path / "checkpoint.pt", "ours")
    assert read is not None
    assert read.curves == written.curves
    assert all(torch.equal(read.network[name], value) for name, value in written.network.items())
    network = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(network.parameters())
    assert restore_optimizer(optimizer, read.optimizer)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_no_file_is_no_checkpoint(tmp_path: Path) -> None:
    assert read_checkpoint(tmp_path / "checkpoint.pt", "ours") is None


def test_one_of_another_spec_or_model_is_refused(tmp_path: Path) -> None:
    checkpoint().save(tmp_path / "checkpoint.pt", "theirs")
    with pytest.raises(CheckpointUnusable, match="another model"):
        read_checkpoint(tmp_path / "checkpoint.pt", "ours")


@pytest.mark.parametrize("cut", [0, 100, -100])
def test_a_truncated_one_is_refused(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "checkpoint.pt"
    checkpoint().save(path, "ours")
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(CheckpointUnusable, match="cannot be read"):
        read_checkpoint(path, "ours")


class Hostile:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.path,)


def test_code_in_one_is_not_run(tmp_path: Path) -> None:
    torch.save({"format": 1, "fingerprint": Hostile(tmp_path / "ran")}, tmp_path / "checkpoint.pt")
    with pytest.raises(CheckpointUnusable):
        read_checkpoint(tmp_path / "checkpoint.pt", "ours")
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(Hostile(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"weight": torch.zeros(2, 3)},
        {"weight": torch.zeros(3, 2), "bias": torch.zeros(2)},
        {"weight": torch.zeros(2, 3, dtype=torch.float64), "bias": torch.zeros(2)},
        {"weight": 1, "bias": 2},
        None,
    ],
)
def test_only_a_state_of_the_same_names_shapes_and_types_fits(state: Any) -> None:
    assert fits(nn.Linear(3, 2), nn.Linear(3, 2).state_dict())
    assert not fits(nn.Linear(3, 2), state)


def test_an_optimizer_takes_no_state_of_other_parameters() -> None:
    network, other = nn.Linear(3, 2), nn.Linear(4, 2)
    ours, theirs = torch.optim.Adam(network.parameters()), torch.optim.Adam(other.parameters())
    other(torch.ones(1, 4)).sum().backward()
    theirs.step()
    assert not restore_optimizer(ours, theirs.state_dict())
    assert not restore_optimizer(torch.optim.Adam([network.weight]), checkpoint().optimizer)
    assert not restore_optimizer(torch.optim.Adam(network.parameters()), {"state": 1})


@pytest.mark.parametrize(
    "change",
    [
        {"betas": None}, {"betas": (0.9,)}, {"betas": (0.9, "x")}, {"lr": "x"}, {"lr": float("nan")}, {"more": 1},
    ],
)  # fmt: skip
def test_an_optimizer_takes_no_state_of_other_settings(change: dict[str, Any]) -> None:
    optimizer = torch.optim.Adam(nn.Linear(3, 2).parameters())
    state = optimizer.state_dict()
    assert restore_optimizer(optimizer, state)
    state["param_groups"][0] |= change
    assert not restore_optimizer(optimizer, state)
    del state["param_groups"][0]["betas"]
    assert not restore_optimizer(optimizer, state)


def test_the_fingerprint_follows_the_model_and_the_spec(tmp_path: Path) -> None:
    model = tmp_path / "model.pt2"
    model.write_bytes(b"one")
    first = fingerprint_of(model, "spec", "plan")
    assert first == fingerprint_of(model, "spec", "plan")
    assert first != fingerprint_of(model, "spe", "cplan")
    model.write_bytes(b"two")
    assert first != fingerprint_of(model, "spec", "plan")
