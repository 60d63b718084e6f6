"""The files that Octavo makes of one network, for peers.py to time: a static job that sets nothing.

    python benchmarks/octavo_files.py FOLDER

Beside model.pt2, calibration.npz and evaluation.npz come model_int8.pt, model_int8.onnx, model_int8.openvino.onnx, and
octavo.json with the kernels of the first. reference.onnx is what the other two are formed from.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import onnx_ir as ir
import torch
from quality import make_job

from shared.job import Step
from shared.quantization_spec import StaticSpec
from worker import recipes
from worker.exporting import FORMS, export_onnx, in_form, save
from worker.job_folder import JobFolder
from worker.progress import ProgressTracker
from worker.quantization import reference_graph
from worker.runtimes import RuntimeName
from worker.steps.evaluate import choose_yardstick
from worker.steps.load import load

FILES: dict[RuntimeName, str] = {
    "torch": "model_int8.pt",
    "onnxruntime": "model_int8.onnx",
    "openvino": "model_int8.openvino.onnx",
}


def quantize(folder: Path) -> None:
    """The job itself, without what explains it: model_int8.pt, reference.onnx and octavo.json."""
    job = JobFolder(make_job(folder, folder / "job"))
    inputs = job.read_inputs()
    assert isinstance(inputs.spec, StaticSpec)
    torch.set_num_threads(inputs.threads)
    torch.manual_seed(inputs.spec.seed)
    tracker = ProgressTracker(lambda _: None, dict.fromkeys(Step, 1.0))
    model, data = load(job, inputs, tracker)
    yardstick = choose_yardstick(model, data, inputs.spec, tracker)
    outcome = recipes.static(job, model, data, inputs.spec, yardstick=yardstick, tracker=tracker)
    assert outcome.int8 is not None
    assert outcome.prepared is not None
    assert isinstance(outcome.int8.module, torch.fx.GraphModule)
    reference = reference_graph(outcome.prepared, outcome.int8.module, outcome.plan)
    save(export_onnx(reference, data.example_inputs(model), model.inputs, model.outputs), folder / "reference.onnx")
    shutil.copy(outcome.int8.file, folder / FILES["torch"])
    details = {
        "qengine": outcome.int8.qengine,
        "sqnr_db": outcome.quality.fidelity[0].sqnr_db,
        "kernels": [trial.model_dump() for trial in outcome.kernels],
        "ranges": [trial.model_dump() for trial in outcome.ranges],
        "recovery": [each.model_dump() for each in outcome.recovery],
        "float_layers": outcome.plan.float_layers,
        "timings": tracker.timings,
    }
    (folder / "octavo.json").write_text(json.dumps(details, indent=1) + "\n")


def form(folder: Path) -> None:
    """The files for the other runtimes, from reference.onnx."""
    reference = ir.load(folder / "reference.onnx")
    for runtime in FORMS:
        save(in_form(reference, runtime), folder / FILES[runtime])


def main() -> None:
    """Quantize and form."""
    folder = Path(sys.argv[1])
    quantize(folder)
    form(folder)


if __name__ == "__main__":
    main()
