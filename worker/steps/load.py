"""Load: the model is read, raised to modules and compared with the original; datasets are opened and bound to it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, fx
from torch.export import ExportedProgram

from shared.errors import DatasetError
from shared.job import Step
from shared.job_report import DataSource
from shared.job_spec import dataset_roles
from worker.datasets import Dataset, Samples, open_dataset
from worker.inference import (
    TRACED_SAMPLES,
    BatchRange,
    Reference,
    batch_of,
    batch_range,
    padded_to,
    sample_bytes,
    usual_batch_size,
)
from worker.job_folder import JobFolder, JobInputs
from worker.progress import ProgressTracker, StepProgress
from worker.quantization import InputSpec, input_specs, load_program, output_names, raise_program, verify_raised
from worker.synthetic import SYNTHETIC_SAMPLES, synthesise

_VERIFIED_SAMPLES = 4


@dataclass(frozen=True)
class LoadedModel:
    """The float model as FX graph of modules, and what it takes and gives."""

    raised: fx.GraphModule
    inputs: tuple[InputSpec, ...]
    outputs: tuple[str, ...]
    batch: BatchRange
    """The batch sizes that it takes."""
    batch_size: int
    """What passes over data use."""

    @property
    def reference(self) -> Reference:
        """The float model as what int8 candidates are held against."""
        return Reference(self.raised, self.outputs, self.batch, self.batch_size)


@dataclass(frozen=True)
class JobData:
    """The job's samples by role; every role falls back on what there is."""

    evaluation: Samples
    source: DataSource
    """Where the evaluation samples come from."""
    calibration: Dataset | None
    training: Dataset | None

    @property
    def held_out(self) -> Samples | None:
        """The evaluation samples when they are a dataset of their own."""
        return self.evaluation if self.source == "evaluation" else None


def example_inputs(model: LoadedModel, samples: Samples) -> tuple[Tensor, ...]:
    """A small batch to trace with."""
    return batch_of(samples, model.batch.clamp(TRACED_SAMPLES))


def load(folder: JobFolder, inputs: JobInputs, tracker: ProgressTracker) -> tuple[LoadedModel, JobData]:
    """Read model and datasets, and check that they are right and fit each other.

    Raises ModelError, DatasetError, RaiseMismatch.
    """
    with tracker.step(Step.LOAD, "Loading the model") as advance:
        program = load_program(folder.model)
        specs = tuple(input_specs(program))
        batch = batch_range(specs)
        advance(1, 4, "Reading the data")
        datasets = open_datasets(folder, inputs, specs, tracker, advance)
        advance(2, 4, "Raising the model to modules")
        raised = raise_program(program)
        data = _assign(datasets, raised, specs, inputs.spec.seed)
        advance(3, 4, "Comparing the raised model with the original")
        verified = data.evaluation.read(0, min(batch.clamp(_VERIFIED_SAMPLES), data.evaluation.count))
        verify_raised(program, raised, padded_to(verified.inputs, batch.low))
        roles = dataset_roles(inputs.spec)
        seen = roles.get("evaluation") in (roles.get("calibration"), roles.get("training"))
        _warn_about(data, batch, tracker, evaluation_is_seen=seen)
        model = _loaded(program, raised, specs, data.evaluation)
    return model, data


def load_again(folder: JobFolder, samples: Samples) -> LoadedModel:
    """The model that an earlier stage loaded, checked and measured on these samples."""
    program = load_program(folder.model)
    return _loaded(program, raise_program(program), tuple(input_specs(program)), samples)


def _loaded(
    program: ExportedProgram, raised: fx.GraphModule, specs: tuple[InputSpec, ...], samples: Samples
) -> LoadedModel:
    batch = batch_range(specs)
    size = usual_batch_size(batch, sample_bytes(samples.read(0, 1).inputs))
    return LoadedModel(raised, specs, tuple(output_names(program)), batch, size)


def open_datasets(
    folder: JobFolder,
    inputs: JobInputs,
    specs: tuple[InputSpec, ...],
    tracker: ProgressTracker,
    advance: StepProgress,
) -> dict[str, Dataset]:
    """The job's datasets by role, bound to these inputs; raises DatasetError."""
    paths = {role: folder.inputs / name for role, name in inputs.datasets.items()}
    total_bytes = sum(path.stat().st_size for path in paths.values())
    read_bytes = 0

    def on_bytes_read(count: int) -> None:
        nonlocal read_bytes
        read_bytes += count
        advance(1 + min(1.0, read_bytes / total_bytes), 4, "Reading the data")

    datasets = {}
    for role, path in paths.items():
        try:
            datasets[role] = open_dataset(path, specs, folder.tmp, on_bytes_read)
        except DatasetError as error:
            raise type(error)(f"{role.capitalize()} data: {error.message}", hint=error.hint) from error
        if datasets[role].casts:
            tracker.warn("dataset_cast", f"{role.capitalize()} data is converted: {', '.join(datasets[role].casts)}.")
    return datasets


def _assign(datasets: dict[str, Dataset], raised: fx.GraphModule, specs: tuple[InputSpec, ...], seed: int) -> JobData:
    calibration, training = datasets.get("calibration"), datasets.get("training")
    roles: tuple[DataSource, ...] = ("evaluation", "calibration", "training")
    for role in roles:
        if role in datasets:
            return JobData(datasets[role], role, calibration, training)
    synthetic = synthesise(raised, specs, SYNTHETIC_SAMPLES, seed)
    return JobData(synthetic, "synthetic", calibration, training)


def _warn_about(data: JobData, batch: BatchRange, tracker: ProgressTracker, *, evaluation_is_seen: bool) -> None:
    if batch.fixed is not None:
        tracker.warn(
            "fixed_batch",
            f"The model was exported with a fixed batch size of {batch.fixed}: the int8 model takes only that.",
            "Export it with dynamic_shapes=({0: torch.export.Dim.DYNAMIC},) for batches of any size.",
        )
    if data.source == "synthetic":
        tracker.warn(
            "synthetic_data",
            "No dataset was given: quality is measured on random inputs, which say little about real ones.",
            "Give held-out samples as `evaluation`; labels are not needed for fidelity.",
        )
    elif data.source != "evaluation":
        tracker.warn(
            "not_held_out",
            f"Quality is measured on the {data.source} data, which the int8 model has already seen.",
            "Give held-out samples as `evaluation`.",
        )
    if data.source == "evaluation" and evaluation_is_seen:
        tracker.warn(
            "not_held_out",
            "The evaluation data is the calibration or training data: quality is measured on what was seen.",
            "Give held-out samples as `evaluation`.",
        )
    if data.source == "evaluation" and not data.evaluation.has_labels:
        tracker.warn(
            "no_labels",
            "The evaluation data has no labels: fidelity to the float model is measured, accuracy is not.",
            "Add an array `labels` to the evaluation data.",
        )
