"""Package: the artifacts are written, loaded again and compared before anyone is offered them."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from string import Template

import torch
from torch import Tensor

from shared.errors import InternalError
from shared.job_report import JobReport, Size
from worker.compact_archive import deflate
from worker.datasets import Samples, dtype_name
from worker.inference import padded_to, run_model
from worker.job_folder import JobFolder
from worker.numerics import sqnr_db
from worker.quantization import InputSpec, collect_garbage, freeze, holds_float16
from worker.report_page import render_page
from worker.steps.convert import Quantized
from worker.steps.load import LoadedModel

MODEL_NAME = "model_int8.pt"
REPORT_NAME = "report.json"
PAGE_NAME = "report.html"
EXAMPLE_NAME = "load_example.py"
MANIFEST_NAME = "SHA256SUMS"
_FLOAT_NAME = "model_float.pt"

_CHECKED_SAMPLES = 8
_MIN_SQNR_DB = 40.0
"""Of the loaded artifact against the module it was made from: both run the same kernels, and freezing may only reorder
float arithmetic between them."""
_MAX_DIFFERING = 0.1
"""The share of integers that may differ between the two, but one always may: an arg max may turn on a rounding."""

_EXAMPLE = Template('''\
"""Load $model and run it. Needs torch $torch or a version near it, and nothing else."""

from pathlib import Path

import torch

QENGINE = "$qengine"
if QENGINE not in torch.backends.quantized.supported_engines:
    raise SystemExit(f"This build of torch has no {QENGINE} kernels: {torch.backends.quantized.supported_engines}")
torch.backends.quantized.engine = QENGINE

# oneDNN prepares its int8 kernels for the batch size of the first call: load one copy for each size that you run.
model = torch.jit.load(Path(__file__).with_name("$model"))
inputs = (
$inputs
)
with torch.inference_mode():
    outputs = model(*inputs)

for name, output in zip($outputs, outputs):
    print(name, tuple(output.shape), output.dtype)
''')


@dataclass(frozen=True)
class Packed:
    """What was written."""

    size: Size
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
    """Write the int8 model and the example that loads it; raises InternalError if the model does not come back."""
    artifact, float_file = folder.outputs / MODEL_NAME, folder.tmp / _FLOAT_NAME
    shutil.move(quantized.file, artifact)
    if holds_float16(quantized.module):
        deflate(artifact, folder.tmp)
    torch.jit.save(freeze(model.raised, example), float_file)
    collect_garbage(float_file.stat().st_size)  # the frozen float model
    _check_artifact(artifact, model, quantized, samples)
    (folder.outputs / EXAMPLE_NAME).write_text(_example(model, samples, quantized.qengine))
    float_bytes, int8_bytes = float_file.stat().st_size, artifact.stat().st_size
    return Packed(
        Size(float_bytes=float_bytes, int8_bytes=int8_bytes, ratio=float_bytes / int8_bytes), artifact, float_file
    )


def write_report(folder: JobFolder, report: JobReport) -> None:
    """Write the report and its page, then the SHA-256 of every artifact in the form that `sha256sum -c` reads."""
    (folder.outputs / REPORT_NAME).write_text(report.model_dump_json(indent=2) + "\n")
    page = render_page(report, job_id=folder.read_inputs().job_id)
    (folder.outputs / PAGE_NAME).write_text(page, encoding="utf-8")
    names = sorted(path.name for path in folder.outputs.iterdir() if path.name != MANIFEST_NAME)
    lines = [f"{_sha256(folder.outputs / name)}  {name}\n" for name in names]
    (folder.outputs / MANIFEST_NAME).write_text("".join(lines))


def _check_artifact(artifact: Path, model: LoadedModel, quantized: Quantized, samples: Samples) -> None:
    loaded = torch.jit.load(artifact)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    for size in {model.batch.clamp(1), model.batch.clamp(_CHECKED_SAMPLES)}:
        inputs = padded_to(samples.read(0, min(size, samples.count)).inputs, size)
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


def _example(model: LoadedModel, samples: Samples, qengine: str) -> str:
    one = samples.read(0, 1).inputs
    return _EXAMPLE.substitute(
        model=MODEL_NAME,
        torch=torch.__version__.partition("+")[0],
        qengine=qengine,
        inputs="\n".join(
            f"    {_random_input(spec, tensor, model.batch.low)},  # {spec.name}"
            for spec, tensor in zip(model.inputs, one, strict=True)
        ),
        outputs=repr(tuple(model.outputs)),
    )


def _random_input(spec: InputSpec, sample: Tensor, batch_size: int) -> str:
    shape = (batch_size, *sample.shape[1:])
    if spec.dtype.is_floating_point:
        return f"torch.randn({shape}, dtype=torch.{dtype_name(spec.dtype)})"
    # Integers index something or mask it: up to the greatest of a real sample they are sure to be in range.
    greatest = int(sample.max())
    values = f"torch.full({shape}, {greatest})" if greatest <= 1 else f"torch.randint(0, {greatest + 1}, {shape})"
    return f"{values}.to(torch.{dtype_name(spec.dtype)})"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
