"""Package: the artifacts are written, loaded again and compared before anyone is offered them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from shared.benchmark_report import BenchmarkReport
from shared.errors import InternalError
from shared.job_report import ExampleInput, JobReport
from worker.compact_archive import deflate
from worker.datasets import Samples, dtype_name
from worker.inference import batch_of, run_model
from worker.job_folder import JobFolder
from worker.numerics import sqnr_db
from worker.outputs import MODEL_NAME, REPORT_NAME
from worker.quantization import InputSpec, collect_garbage, freeze, holds_float16
from worker.steps.convert import Quantized
from worker.steps.load import LoadedModel

_FLOAT_NAME = "model_float.pt"

_CHECKED_SAMPLES = 8
_MIN_SQNR_DB = 40.0
"""Of the loaded artifact against the module it was made from: both run the same kernels, and freezing may only reorder
float arithmetic between them."""
_MAX_DIFFERING = 0.1
"""The share of integers that may differ between the two, but one always may: an arg max may turn on a rounding."""


@dataclass(frozen=True)
class Packed:
    """What was written."""

    inputs: list[ExampleInput]
    int8_file: Path
    """The artifact."""
    float_file: Path
    """The float model in the same form, to be compared with; it goes with the folder's scratch."""


def package(
    folder: JobFolder,
    model: LoadedModel,
    quantized: Quantized,
    *,
    example: tuple[Tensor, ...],
    samples: Samples,
) -> Packed:
    """Write the int8 model; raises InternalError if it does not come back."""
    artifact, float_file = folder.outputs / MODEL_NAME, folder.tmp / _FLOAT_NAME
    shutil.move(quantized.file, artifact)
    if holds_float16(quantized.module):
        deflate(artifact, folder.tmp)
    torch.jit.save(freeze(model.raised, example), float_file)
    collect_garbage(float_file.stat().st_size)  # the frozen float model
    _check_artifact(artifact, model, quantized, samples)
    return Packed(_example_inputs(model, samples), artifact, float_file)


def write_report(folder: JobFolder, report: JobReport | BenchmarkReport) -> None:
    """Write the report; whoever reads it makes the page, the example and the manifest of it (`worker/outputs.py`)."""
    (folder.outputs / REPORT_NAME).write_text(report.model_dump_json())


def _check_artifact(artifact: Path, model: LoadedModel, quantized: Quantized, samples: Samples) -> None:
    loaded = torch.jit.load(artifact)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    for size in {model.batch.clamp(1), model.batch.clamp(_CHECKED_SAMPLES)}:
        inputs = batch_of(samples, size)
        with torch.inference_mode():
            expected = run_model(quantized.module, inputs, model.batch)
            found = run_model(loaded, inputs, model.batch)
        for name, ours, theirs in zip(model.outputs, expected, found, strict=True):
            if not _same(ours, theirs):
                raise InternalError(
                    f"The saved int8 model, loaded again, gives another output {name!r} at batch {size} than the "
                    "module it was made from: it is not offered."
                )


def _same(ours: Tensor, theirs: Tensor) -> bool:
    if ours.shape != theirs.shape:
        return False
    if not ours.is_floating_point():
        return int((ours != theirs).sum()) <= max(1, _MAX_DIFFERING * ours.numel())
    difference_db = sqnr_db(ours, theirs)
    return difference_db is None or difference_db >= _MIN_SQNR_DB


def _example_inputs(model: LoadedModel, samples: Samples) -> list[ExampleInput]:
    one = samples.read(0, 1).inputs
    return [_example_input(*each, model.batch.low) for each in zip(model.inputs, one, strict=True)]


def _example_input(spec: InputSpec, sample: Tensor, batch_size: int) -> ExampleInput:
    return ExampleInput(
        name=spec.name,
        dtype=dtype_name(spec.dtype),
        shape=[batch_size, *sample.shape[1:]],
        # Integers index something or mask it: up to the greatest of a real sample they are sure to be in range.
        greatest=None if spec.dtype.is_floating_point else int(sample.max()),
    )
