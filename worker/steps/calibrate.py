"""Calibrate: forward passes on representative data, so that observers see the ranges."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from worker.datasets import Samples, batches
from worker.inference import run_model
from worker.steps.load import LoadedModel


def calibrate(
    model: LoadedModel, prepared: Sequence[nn.Module], samples: Samples, advance: Callable[[float, float], None]
) -> None:
    """Run every sample through the prepared models, in one pass, in constant memory."""
    done = 0
    for module in prepared:
        module.eval()
    with torch.no_grad():
        for batch in batches(samples, model.batch_size):
            for module in prepared:
                run_model(module, batch.inputs, model.batch)
            done += batch.size
            advance(done, samples.count)
