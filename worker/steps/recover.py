"""Recover accuracy before the observers are inserted: transforms that leave the float model as it is, and int8 nearer.

Each is tried on a small part of the calibration data and measured on what is held back; bias correction, which needs
the ranges, is refine.py's.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor, fx

from shared.job_report import RecoveryResult
from shared.quantization_spec import StaticSpec, Toggle, asked
from worker.closeness import Closeness
from worker.datasets import Samples, batches
from worker.inference import padded_to, run_model
from worker.quantization import (
    Plan,
    channel_maxima,
    collect_garbage,
    equalize,
    parked,
    prepare,
    settle_rule,
    simulate,
    smooth,
)
from worker.steps.float_reference import FloatReference
from worker.steps.load import LoadedModel

_TRIED_BATCHES = 2
#: Less is noise: the ranges are those of two batches.
_MIN_GAIN_DB = 0.5


class Recovery:
    """Tries transforms one after the other, each on top of those that were kept."""

    def __init__(
        self, model: LoadedModel, plan: Plan, *, observed: Samples, held_back: Samples, example: tuple[Tensor, ...]
    ) -> None:
        self.module = model.raised
        """The float model with the transforms that were kept: its layers have their names."""
        self.results: list[RecoveryResult] = []
        self._model = model
        self._plan = plan
        self._observed = observed
        self._reference = FloatReference(model, held_back)
        self._example = example
        self._so_far: Closeness | None = None

    def equalize(self, toggle: Toggle) -> None:
        """Cross-layer equalization."""
        if toggle is False:
            return
        found = equalize(self.module)
        self._try(
            "cross_layer_equalization", toggle, found.module, len({name for pair in found.pairs for name in pair})
        )

    def smooth(self, toggle: Toggle, alpha: float) -> None:
        """SmoothQuant-style scaling."""
        if toggle is False:
            return
        found = smooth(self.module, channel_maxima(self.module, self._some()), alpha)
        self._try("smooth_quant", toggle, found.module, len(found.layers))

    def _try(self, name: str, toggle: Toggle, module: fx.GraphModule, layers: int) -> None:
        if layers == 0:
            self._note(name, toggle, note="no layer of this model allows it")
            return
        without = self._so_far
        if without is None:
            with parked(module, beside=[self.module]):
                without = self._measure(self.module)
        found = self._measure(module)
        applied = toggle is True or found.sqnr_db >= without.sqnr_db + _MIN_GAIN_DB
        self._note(name, toggle, applied=applied, without=without, found=found, layers=layers)
        if applied:
            self.module = module
        self._so_far = found if applied else without

    def _measure(self, module: fx.GraphModule) -> Closeness:
        with parked(self._model.raised, beside=[module]):
            prepared = prepare(module, self._plan, self._example)
            with parked(module, beside=[prepared]), torch.no_grad():
                for inputs in self._some():
                    run_model(prepared, inputs, self._model.batch)
                settle_rule(prepared, "minmax")
                found = self._reference.measure(simulate(prepared, self._plan).run)
        del prepared
        collect_garbage()
        return found

    def _some(self) -> Iterator[tuple[Tensor, ...]]:
        for batch in itertools.islice(batches(self._observed, self._model.batch_size), _TRIED_BATCHES):
            yield padded_to(batch.inputs, self._model.batch.low)

    def _note(
        self,
        name: str,
        toggle: Toggle,
        *,
        applied: bool = False,
        without: Closeness | None = None,
        found: Closeness | None = None,
        layers: int = 0,
        note: str | None = None,
    ) -> None:
        self.results.append(
            RecoveryResult.model_validate(
                {
                    "name": name,
                    "asked": asked(toggle),
                    "applied": applied,
                    "without_sqnr_db": None if without is None else without.reported_db,
                    "with_sqnr_db": None if found is None else found.reported_db,
                    "layers": layers,
                    "note": note,
                }
            )
        )


def recover(
    model: LoadedModel,
    plan: Plan,
    spec: StaticSpec,
    *,
    observed: Samples,
    held_back: Samples,
    example: tuple[Tensor, ...],
) -> Recovery:
    """The float model as it is to be quantized, and what each transform was worth."""
    recovery = Recovery(model, plan, observed=observed, held_back=held_back, example=example)
    recovery.equalize(spec.recovery.cross_layer_equalization)
    recovery.smooth(spec.recovery.smooth_quant, spec.recovery.smooth_quant_alpha)
    return recovery
