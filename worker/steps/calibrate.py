"""Calibrate: forward passes on representative data, so that observers see the ranges; and what the data is worth."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from worker.calibration_check import DataCheck
from worker.calibration_ranges import RangeTracker
from worker.datasets import Samples, batches
from worker.inference import run_model
from worker.steps.load import LoadedModel

_LEAST_BATCHES = 16
"""Ranges are noted batch by batch: for eight subsets there must be some."""


@dataclass(frozen=True)
class Calibration:
    """What one pass over the calibration data found, besides the ranges in the observers."""

    data: DataCheck
    ranges: RangeTracker


def calibrate(
    model: LoadedModel,
    prepared: Sequence[nn.Module],
    samples: Samples,
    advance: Callable[[float, float], None],
    *,
    then: tuple[Samples, Callable[[], None]],
) -> Calibration:
    """Run every sample through the prepared models, in one pass, in constant memory.

    `then` are further samples, and what is to be called before the observers see them. Where they are the same samples,
    for want of any to spare, they are seen once.
    """
    held_back, settle = then
    check = DataCheck([spec.name for spec in model.inputs], [spec.dtype for spec in model.inputs])
    tracker = RangeTracker(prepared)
    total = samples.count + (0 if held_back is samples else held_back.count)
    batch_size = model.batch.clamp(min(model.batch_size, max(1, math.ceil(total / _LEAST_BATCHES))))

    def observe(part: Samples) -> None:
        for module in prepared:
            module.eval()
        with torch.no_grad(), tracker.watching():
            for batch in batches(part, batch_size):
                check.add(batch.inputs)
                for module in prepared:
                    run_model(module, batch.inputs, model.batch)
                tracker.next_batch()
                advance(check.samples, total)

    observe(samples)
    settle()
    if held_back is not samples:
        observe(held_back)
    return Calibration(check, tracker)
