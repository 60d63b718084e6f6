"""The float model's outputs for some samples: what candidates are measured against, one after the other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worker.closeness import Closeness
from worker.datasets import Samples, batches
from worker.inference import Model, run_model
from worker.numerics import ModelFidelity
from worker.steps.load import LoadedModel


@dataclass(frozen=True)
class Measured:
    """How near a model's outputs are to the float model's, and the relative noise of each sample in each output."""

    closeness: Closeness
    noise: list[Tensor]


class FloatReference:
    """Runs the float model once, whatever the number of candidates; holds its outputs and not the samples."""

    def __init__(self, model: LoadedModel, samples: Samples) -> None:
        self.samples = samples
        self._model = model
        self._outputs = [self._run(model.raised, batch.inputs) for batch in batches(samples, model.batch_size)]

    def measure(self, candidate: Model) -> Closeness:
        """How near this model's outputs are."""
        return self.examine(candidate).closeness

    def examine(self, candidate: Model) -> Measured:
        """How near this model's outputs are, with the noise sample by sample."""
        fidelity = ModelFidelity(self._model.outputs)
        noise: list[list[Tensor]] = [[] for _ in self._model.outputs]
        for batch, outputs in zip(batches(self.samples, self._model.batch_size), self._outputs, strict=True):
            found = fidelity.update(outputs, self._run(candidate, batch.inputs))
            for each, of_batch in zip(noise, found, strict=True):
                each.append(of_batch)
        return Measured(fidelity.closeness(), [torch.cat(each) for each in noise])

    def _run(self, candidate: Model, inputs: tuple[Tensor, ...]) -> list[Tensor]:
        with torch.inference_mode():
            return run_model(candidate, inputs, self._model.batch)
