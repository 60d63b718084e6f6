"""Calibration samples held back from the observers: what choices between int8 models are measured on.

A choice measured on what the observers have seen would favour whatever clips nothing that they saw.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from worker.datasets import Samples, Subset, batches
from worker.inference import Model, run_model
from worker.numerics import SQNR_LIMIT_DB, FidelityAccumulator
from worker.steps.load import LoadedModel

_EVERY = 8
_MOST_SAMPLES = 64
_FEWEST_SAMPLES = 16  # to hold any back
_BLOCKS = 64  # what is held back is spread over the data, whose order may mean something
_FEWEST_BLOCKS = 8


@dataclass(frozen=True)
class Closeness:
    """How near an int8 model is to the float model on the samples held back."""

    sqnr_db: float
    """Of the worst output; SQNR_LIMIT_DB when all are equal."""
    agreement: float | None
    """Of arg max, of the worst output with classes; None when none has them."""


def reportable(found: Closeness) -> float | None:
    """SQNR as the report says it: None where the outputs are equal."""
    return None if found.sqnr_db >= SQNR_LIMIT_DB else found.sqnr_db


def divide(samples: Samples, batch_size: int) -> tuple[Samples, Samples]:
    """What the observers see first, and what is held back from them: an eighth, at most 64 samples.

    Of fewer than 16 samples none can be spared: both are all of them.
    """
    if samples.count < _FEWEST_SAMPLES:
        return samples, samples
    block = max(1, min(batch_size, samples.count // _BLOCKS, _MOST_SAMPLES // _FEWEST_BLOCKS))
    # The last of every eight blocks; where that were too many, of as many more as leaves 64.
    every = max(_EVERY, math.ceil(samples.count / _MOST_SAMPLES))
    held_back = [index for index in range(samples.count) if index // block % every == every - 1]
    if not held_back:
        return samples, samples
    kept = set(held_back)
    return Subset(samples, [index for index in range(samples.count) if index not in kept]), Subset(samples, held_back)


def spread(samples: Samples, most: int) -> Samples:
    """At most this many of the samples, evenly spread over them."""
    return Subset(samples, list(range(0, samples.count, math.ceil(samples.count / most))))


class HeldBack:
    """The samples held back, with the float model's outputs for them."""

    def __init__(self, model: LoadedModel, samples: Samples) -> None:
        self.samples = samples
        self._model = model
        self._references = [self._outputs(model.raised, batch.inputs) for batch in batches(samples, model.batch_size)]

    def measure(self, candidate: Model) -> Closeness:
        """How near this model's outputs are."""
        fidelity = [FidelityAccumulator(name) for name in self._model.outputs]
        for batch, wanted in zip(batches(self.samples, self._model.batch_size), self._references, strict=True):
            for accumulator, reference, found in zip(
                fidelity, wanted, self._outputs(candidate, batch.inputs), strict=True
            ):
                accumulator.update(reference, found)
        results = [accumulator.result() for accumulator in fidelity]
        return Closeness(
            sqnr_db=min(SQNR_LIMIT_DB if result.sqnr_db is None else result.sqnr_db for result in results),
            agreement=min((result.agreement for result in results if result.agreement is not None), default=None),
        )

    def _outputs(self, candidate: Model, inputs: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
        with torch.inference_mode():
            return run_model(candidate, inputs, self._model.batch)
