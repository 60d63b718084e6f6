"""Run a fault's job as a worker would: a folder with inputs, the whole recipe, the report."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from shared.job_report import JobReport, ReportWarning
from shared.job_spec import dataset_roles
from shared.quantization_spec import spec_adapter
from tests.planted_faults.models import CALIBRATION_ID, EVALUATION_ID, Fault
from worker.job_folder import JobFolder, JobInputs
from worker.recipes import run


def export_network(fault: Fault, folder: Path) -> Path:
    """The .pt2 that the user uploads, with a free batch."""
    path = folder / "model.pt2"
    dynamic = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(fault.network.eval(), (fault.evaluation[:2],), dynamic_shapes=dynamic)
    torch.export.save(program, path)
    return path


def first_spec(fault: Fault) -> dict[str, Any]:
    """The spec as the user sent it; nothing here is about speed or other runtimes."""
    given = {
        "method": "static",
        "model": "mdl_0123456789abcdef",
        "calibration": CALIBRATION_ID,
        "evaluation": EVALUATION_ID,
        "runtimes": ["torch"],
        "benchmark": {"max_seconds": 0.02},
        "analysis": {"sensitivity_seconds": 3.0, "histograms": 0},
    }
    return given | fault.spec


def run_job(fault: Fault, program: Path, spec: dict[str, Any], path: Path) -> JobReport:
    """The report of the job with this spec."""
    data = {CALIBRATION_ID: {"0": fault.calibration}, EVALUATION_ID: _labelled(fault)}
    checked = spec_adapter.validate_python(spec)
    roles = dataset_roles(checked)
    folder = JobFolder(path)
    folder.create(
        JobInputs(
            job_id="job_0123456789abcdef",
            spec=checked,
            datasets={role: f"{role}.safetensors" for role in roles},
            threads=1,
        )
    )
    shutil.copy(program, folder.model)
    for role, dataset in roles.items():
        save_file(
            {key: tensor.contiguous() for key, tensor in data[dataset].items()}, folder.inputs / f"{role}.safetensors"
        )
    return run(folder, lambda message: None)


def worst_sqnr_db(report: JobReport) -> float:
    """SQNR of the output that suffers most; an output that equals the float model's has no noise at all."""
    return min(200.0 if output.sqnr_db is None else output.sqnr_db for output in report.quality.fidelity)


def told(report: JobReport) -> list[ReportWarning]:
    """What the report warns of, but for layers' times: two rounds beside other tests prove nothing of those."""
    return [warning for warning in report.warnings if warning.code not in ("slower_in_int8", "boundaries_cost_more")]


def _labelled(fault: Fault) -> dict[str, Tensor]:
    """The evaluation data with what the float model says of it."""
    with torch.no_grad():
        output = fault.network.eval()(fault.evaluation)
    logits = output[0] if isinstance(output, tuple) else output
    return {"0": fault.evaluation, "labels": logits.argmax(1)}
