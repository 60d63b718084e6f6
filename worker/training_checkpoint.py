"""What is left of a training after each epoch, so that another attempt can go on where a lost worker stopped.

A checkpoint was written by a process that ran an upload, so reading one trusts it no more than the upload: tensors and
plain values only (`weights_only`), of the names and shapes that this attempt's own network has. One that does not fit
is no fault: training begins anew.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from shared.job_report import EpochResult

_FORMAT = 1

Phase = Literal["qat", "float"]
State = dict[str, Tensor]


class CheckpointUnusable(Exception):
    """A checkpoint that this training cannot go on from."""


class Curve(BaseModel):
    """How one network's training went so far."""

    epochs: list[EpochResult] = []
    best_epoch: int | None = None  #: the one that is kept
    best_score: tuple[float, float] | None = None  #: the greatest so far; the epoch that is kept may be as good
    stalled: int = 0  #: epochs since the greatest score
    first_loss: float | None = None  #: of the first step
    stopped: Literal["completed", "early", "diverged"] = "completed"


@dataclass(frozen=True)
class Checkpoint:
    """The state at the end of an epoch."""

    phase: Phase
    curves: dict[Phase, Curve]
    network: State
    optimizer: dict[str, Any]
    best: State | None
    """The best epoch's network, unless it is this one."""
    trained: State | None
    """The quantized network that was kept, once the float one trains."""

    def save(self, path: Path, fingerprint: str) -> None:
        """Write it whole or not at all."""
        document = {
            "format": _FORMAT,
            "fingerprint": fingerprint,
            "phase": self.phase,
            "curves": {phase: curve.model_dump_json() for phase, curve in self.curves.items()},
            "network": self.network,
            "optimizer": self.optimizer,
            "best": self.best,
            "trained": self.trained,
        }
        partial = path.with_suffix(".partial")
        torch.save(document, partial)
        partial.replace(path)


def read_checkpoint(path: Path, fingerprint: str) -> Checkpoint | None:
    """The checkpoint in this file; None when there is no file.

    Raises CheckpointUnusable when it is corrupt, or belongs to another model, spec or version.
    """
    if not path.exists():
        return None
    try:
        document = torch.load(path, map_location="cpu", weights_only=True)
        ours = document["format"] == _FORMAT and document["fingerprint"] == fingerprint
        phase: Phase = "float" if document["phase"] == "float" else "qat"
        phases: tuple[Phase, ...] = ("qat", "float") if phase == "float" else ("qat",)
        curves = {each: Curve.model_validate_json(document["curves"][each]) for each in phases}
        read = Checkpoint(
            phase, curves, document["network"], document["optimizer"], document["best"], document["trained"]
        )
    except Exception as error:
        raise CheckpointUnusable("it cannot be read") from error
    if not ours:
        raise CheckpointUnusable("it belongs to another model, spec or version")
    return read


def fits(network: nn.Module, state: object) -> bool:
    """Whether the state has the names, shapes and types of this network's own, so that it can be loaded whole."""
    own = network.state_dict()
    return (
        isinstance(state, dict)
        and state.keys() == own.keys()
        and all(
            isinstance(state[name], Tensor) and state[name].shape == value.shape and state[name].dtype == value.dtype
            for name, value in own.items()
        )
    )


def restore_optimizer(optimizer: torch.optim.Optimizer, state: Any) -> bool:
    """Load an optimizer's state if it is one for the same parameters; whether it was."""
    try:
        own = optimizer.state_dict()["param_groups"]
        groups = state["param_groups"]
        if [group["params"] for group in groups] != [group["params"] for group in own]:
            return False
        if [_kinds(group) for group in groups] != [_kinds(group) for group in own]:
            return False
        optimizer.load_state_dict(state)
    except (ValueError, KeyError, TypeError, AttributeError):
        return False
    return all(
        value.ndim == 0 or value.shape == parameter.shape
        for parameter, values in optimizer.state.items()
        for value in values.values()
        if isinstance(value, Tensor)
    )


def _kinds(value: Any) -> Any:
    """The names and types in a group of an optimizer's parameters, such as its two betas; numbers must be finite."""
    if isinstance(value, dict):
        return {name: _kinds(each) for name, each in value.items()}
    if isinstance(value, tuple):
        return [_kinds(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("no number")
    return type(value)


def fingerprint_of(model: Path, *described: str) -> str:
    """A hash of all that a training follows from: the model file, and the rest as text."""
    digest = hashlib.sha256()
    with model.open("rb") as file:
        digest.update(hashlib.file_digest(file, "sha256").digest())
    for each in (torch.__version__, *described):
        digest.update(hashlib.sha256(each.encode()).digest())
    return digest.hexdigest()
