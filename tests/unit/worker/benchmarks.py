"""Folders of benchmarks on real files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import nn

from shared.benchmark_report import BenchmarkReport, FormResult
from shared.job_spec import job_spec_adapter
from shared.model_file import inspect_model
from worker import recipes
from worker.job_folder import CandidateFile, JobFolder, JobInputs

MODEL_ID = "mdl_0123456789abcdef"
EVALUATION_ID = "dst_evaluation000000"
QUICK = {"max_seconds": 0.3}


def uploaded(path: Path, name: str) -> tuple[Path, CandidateFile]:
    """A .pt2 or .onnx as a candidate."""
    described = inspect_model(path)
    told = CandidateFile(name=name, source=MODEL_ID, file="", format=described.format, inputs=described.inputs)
    return path, told


def made(path: Path, runtime: str, like: CandidateFile, **known: Any) -> tuple[Path, CandidateFile]:
    """A job's artifact for a runtime as a candidate; it takes what the model does that it was made of."""
    told = CandidateFile.model_validate(
        {
            "name": path.name, "source": f"job_0123456789abcdef/{path.name}", "file": "", "runtime": runtime,
            "format": "torchscript" if runtime == "torch" else "onnx", "inputs": like.inputs,
            "qengine": "x86" if runtime == "torch" else None, **known,
        }
    )  # fmt: skip
    return path, told


def benchmark_folder(
    path: Path, *candidates: tuple[Path, CandidateFile], data: dict[str, Any] | None = None, **spec: Any
) -> JobFolder:
    """The folder of a job that measures these, as the supervisor would make it."""
    folder = JobFolder(path)
    files = [
        told.model_copy(update={"file": f"{'candidate' if told.runtime is None else 'artifact'}-{at}{file.suffix}"})
        for at, (file, told) in enumerate(candidates)
    ]
    asked = {
        "method": "benchmark", "benchmark": QUICK,
        "candidates": [{"model": MODEL_ID, "name": each.name} for each in files],
        "evaluation": None if data is None else EVALUATION_ID, **spec,
    }  # fmt: skip
    folder.create(
        JobInputs(
            job_id="job_0123456789abcdef",
            spec=job_spec_adapter.validate_python(asked),
            datasets={} if data is None else {"evaluation": "evaluation.safetensors"},
            candidates=files,
            threads=1,
        )
    )
    for (file, _), told in zip(candidates, files, strict=True):
        shutil.copy(file, folder.inputs / told.file)
    if data is not None:
        plain = {key: np.ascontiguousarray(array) for key, array in data.items()}
        save_file(plain, folder.inputs / "evaluation.safetensors")
    return folder


def run(folder: JobFolder) -> BenchmarkReport:
    """All stages, in this process."""
    report = recipes.run_any(folder, lambda _: None)
    assert isinstance(report, BenchmarkReport)
    return report


def forms(report: BenchmarkReport) -> dict[str, FormResult]:
    """Every form by its name."""
    return {form.name: form for candidate in report.candidates for form in candidate.forms}


def export_onnx(model: nn.Module, inputs: tuple[torch.Tensor, ...], path: Path, **options: Any) -> Path:
    """What a user makes of a module with torch.onnx.export."""
    open_batch = {"dynamic_shapes": tuple({0: torch.export.Dim.DYNAMIC} for _ in inputs)}
    program = torch.onnx.export(model.eval(), inputs, dynamo=True, verbose=False, **(open_batch | options))
    assert program is not None
    program.save(path, external_data=False)
    return path
