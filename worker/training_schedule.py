"""When what happens in training: the learning rate, and what is frozen from which step on.

Freezing batch norm raises the gradients five- to tenfold at once, because batch statistics take out of a gradient
whatever shifts or scales a whole channel, and fixed ones do not. At a high rate that throws the weights out within a
few steps; so from the freeze on the rate is at most a fifth of the first one (docs/decisions/0013, measured).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from shared.quantization_spec import QatSettings

_MOST_AFTER_FREEZE = 0.2


@dataclass(frozen=True)
class TrainingSchedule:
    """Steps are counted from 0 over all epochs."""

    epochs: int
    steps_per_epoch: int
    form: Literal["cosine", "linear", "constant"]
    observers_freeze_at: int
    batch_norm_freezes_at: int

    @property
    def steps(self) -> int:
        """How many there are."""
        return self.epochs * self.steps_per_epoch

    def rate(self, step: int) -> float:
        """The learning rate of a step as a share of the one that was asked for."""
        gone = step / self.steps
        share = {"cosine": 0.5 * (1 + math.cos(math.pi * gone)), "linear": 1 - gone, "constant": 1.0}[self.form]
        # Frozen from the start there is no jump: the rate that was asked for is the rate for that.
        return min(share, _MOST_AFTER_FREEZE) if 0 < self.batch_norm_freezes_at <= step else share


def schedule(settings: QatSettings, *, samples: int, batch_size: int) -> TrainingSchedule:
    """The schedule of a training on this many samples."""
    # A smaller last batch is left out: batch norm on a handful of samples does harm; shuffling brings them next time.
    steps_per_epoch = max(1, samples // batch_size)
    steps = settings.epochs * steps_per_epoch
    return TrainingSchedule(
        epochs=settings.epochs,
        steps_per_epoch=steps_per_epoch,
        form=settings.schedule,
        observers_freeze_at=math.ceil(settings.freeze_observers_after * steps),
        # The statistics of a single sample are no statistics.
        batch_norm_freezes_at=math.ceil(settings.freeze_batch_norm_after * steps) if batch_size > 1 else 0,
    )
