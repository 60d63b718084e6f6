"""The float model's outputs for some samples: what candidates are measured against, one after the other."""

from __future__ import annotations

import torch

from worker.closeness import Closeness
from worker.datasets import Samples, batches
from worker.inference import Model, run_model
from worker.numerics import ModelFidelity
from worker.steps.load import LoadedModel


class FloatReference:
    """Runs the float model once, whatever the number of candidates; holds its outputs and not the samples."""

    def __init__(self, model: LoadedModel, samples: Samples) -> None:
        self.samples = samples
        self._model = model
        self._outputs = [self._run(model.raised, batch.inputs) for batch in batches(samples, model.batch_size)]

    def measure(self, candidate: Model) -> Closeness:
        """How near this model's outputs are."""
        fidelity = ModelFidelity(self._model.outputs)
        for batch, outputs in zip(batches(self.samples, self._model.batch_size), self._outputs, strict=True):
            fidelity.update(outputs, self._run(candidate, batch.inputs))
        return fidelity.closeness()

    def _run(self, candidate: Model, inputs: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
        with torch.inference_mode():
            return run_model(candidate, inputs, self._model.batch)
