"""Two static int8 models of a zoo family: the engine's by default, as the recipe makes it, and plain FX's.

Both see the same raised graph, the same calibration data and the same evaluation data.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, fx, nn
from torch.ao.quantization import get_default_qconfig_mapping  # noqa: TID251 - what ours is held against
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx  # noqa: TID251 - likewise
from torch.export import ExportedProgram

from shared.job import Step
from shared.job_report import Quality
from shared.quantization_spec import StaticSpec
from tests.zoo.models import Family
from worker.datasets import InMemorySamples, batches
from worker.inference import Model, batch_range, usual_batch_size
from worker.job_folder import JobFolder
from worker.numerics import SQNR_LIMIT_DB
from worker.progress import ProgressTracker
from worker.quantization import input_specs, output_names
from worker.recipes import static
from worker.reporting import Outcome
from worker.steps.evaluate import Yardstick, evaluate
from worker.steps.load import JobData, LoadedModel

CALIBRATION_SAMPLES, EVALUATION_SAMPLES = 192, 256
NEAR_DB, NEAR_AGREEMENT = 30.0, 0.99


@dataclass(frozen=True)
class Closeness:
    """How near an int8 model is to the float model on the evaluation data, by its worst output."""

    sqnr_db: float
    agreement: float | None
    """Of arg max; None when no output has classes."""

    def is_near(self, allowance_db: float = 0.0) -> bool:
        """Whether it reaches what every family should."""
        return self.sqnr_db >= NEAR_DB - allowance_db or (
            self.agreement is not None and self.agreement >= NEAR_AGREEMENT
        )

    def __str__(self) -> str:
        return f"{self.sqnr_db:.1f} dB" + ("" if self.agreement is None else f", {self.agreement:.1%}")


def loaded(program: ExportedProgram, raised: fx.GraphModule, family: Family) -> LoadedModel:
    """What the recipe's first step makes of the family's .pt2."""
    specs = tuple(input_specs(program))
    batch = batch_range(specs)
    sample_bytes = sum(tensor.nbytes for tensor in family.make_inputs(1, torch.Generator()))
    return LoadedModel(raised, specs, tuple(output_names(program)), batch, usual_batch_size(batch, sample_bytes))


def calibration_samples(family: Family) -> InMemorySamples:
    return InMemorySamples(family.make_inputs(CALIBRATION_SAMPLES, torch.Generator().manual_seed(5)))


def evaluation_inputs(family: Family) -> tuple[Tensor, ...]:
    return family.make_inputs(EVALUATION_SAMPLES, torch.Generator().manual_seed(3))


def by_default(model: LoadedModel, spec: StaticSpec, family: Family) -> Outcome:
    """The engine's own way: the recipe for static, on data that needs no file."""
    data = JobData(InMemorySamples(evaluation_inputs(family)), "evaluation", calibration_samples(family), None)
    yardstick = Yardstick(data.evaluation, data.source, metric=None, max_drop=None)
    progress = ProgressTracker(lambda _message: None, dict.fromkeys(Step, 1.0))
    with TemporaryDirectory() as path:
        folder = JobFolder(Path(path))
        folder.tmp.mkdir()
        return static(folder, model, data, spec, yardstick=yardstick, tracker=progress)


def by_plain_fx(
    model: LoadedModel, module: nn.Module, backend: str, samples: InMemorySamples, family: Family
) -> Closeness | None:
    """What a user reaches who follows torch's own tutorial; None where it prepares, converts or runs into an error.

    `module` is the network itself, which may not be traceable, or its raised graph, whose integer inputs plain FX takes
    for activations.
    """
    torch.backends.quantized.engine = backend
    example = samples.read(0, 2).inputs
    try:
        prepared = prepare_fx(copy.deepcopy(module).eval(), get_default_qconfig_mapping(backend), example)
        with torch.no_grad():
            for batch in batches(samples, model.batch_size):
                prepared(*batch.inputs)
        return closeness(model, convert_fx(prepared), family)
    except Exception:  # noqa: BLE001 - torch.ao raises whatever it stumbles over
        return None


def closeness(model: LoadedModel, candidate: Model, family: Family) -> Closeness:
    """How near the candidate is to the float model."""
    yardstick = Yardstick(InMemorySamples(evaluation_inputs(family)), "evaluation", metric=None, max_drop=None)
    (quality,) = evaluate(model, [candidate], yardstick, lambda _done, _total: None)
    return closeness_of(quality)


def closeness_of(quality: Quality) -> Closeness:
    """What the report says of fidelity, of the worst output."""
    return Closeness(
        min((each.sqnr_db for each in quality.fidelity if each.sqnr_db is not None), default=SQNR_LIMIT_DB),
        min((each.agreement for each in quality.fidelity if each.agreement is not None), default=None),
    )
