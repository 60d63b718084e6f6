"""What training learns from, and what is held back to judge its epochs by."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from shared.errors import TrainingTooSmall
from shared.quantization_spec import QatSettings
from worker.datasets import Samples, Subset
from worker.inference import BatchRange
from worker.progress import ProgressTracker

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_HELD_BACK = 0.1
_LEAST_HELD_BACK = 16
_MOST_HELD_BACK = 2000
_LEAST_LEARNT_SHARE = 0.75  # of so few samples every one is needed to learn from


@dataclass(frozen=True)
class TrainingData:
    """The training samples, split."""

    learnt: Samples
    held_back: Samples | None
    batch_size: int

    @property
    def judge(self) -> Samples:
        """What tells whether an epoch went well: what was held back, else the first samples of those learnt from."""
        return self.held_back or Subset(self.learnt, range(min(self.batch_size, self.learnt.count)))


def split(
    training: Samples,
    batch: BatchRange,
    network: nn.Module,
    settings: QatSettings,
    *,
    seed: int,
    tracker: ProgressTracker,
) -> TrainingData:
    """Hold a tenth back, at least 16 samples, by the seed; nothing of fewer than 64 samples, or for a single epoch.

    Warns when there are fewer samples than a batch, and when a batch of one leaves batch norm without statistics.
    Raises TrainingTooSmall when the model takes only batches larger than the data.
    """
    if training.count < batch.low:
        raise TrainingTooSmall(
            f"The training data has {training.count} samples, and the model was exported for batches of "
            f"{batch.low} or more."
        )
    held = max(_LEAST_HELD_BACK, min(_MOST_HELD_BACK, round(_HELD_BACK * training.count)))
    kept = training.count - held
    wanted = batch.clamp(settings.batch_size)
    if settings.epochs == 1 or kept < max(_LEAST_LEARNT_SHARE * training.count, min(wanted, training.count), batch.low):
        learnt, held_back = training, None
    else:
        order = torch.randperm(training.count, generator=torch.Generator().manual_seed(seed)).tolist()
        # In the order of the file, which reads faster; each epoch shuffles anyway.
        learnt, held_back = Subset(training, sorted(order[held:])), Subset(training, sorted(order[:held]))
        tracker.log(f"{held} of {training.count} training samples are held back, to tell which epoch is the best.")
    if learnt.count < wanted:
        tracker.warn(
            "few_training_samples",
            f"Training has {learnt.count} samples, fewer than a batch of {wanted}: an epoch is a single step.",
            "Give more training samples, or set qat.batch_size lower.",
        )
    size = batch.clamp(min(wanted, learnt.count))
    if size == 1 and any(isinstance(module, _BATCH_NORMS) for module in network.modules()):
        tracker.warn(
            "batch_norm_frozen",
            "Batches of one sample have no statistics: batch norm keeps those of the float model throughout.",
            "Set qat.batch_size to 16 or more, if the model takes that.",
        )
    return TrainingData(learnt, held_back, size)
