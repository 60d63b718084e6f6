"""The same model, data, spec and seed give the same int8 model, to the bit, in another process too."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from shared.job_report import JobReport
from tests.unit.worker.conftest import Digits, MakeFolder
from worker import recipes
from worker.job_folder import JobFolder
from worker.steps import choose_kernels

#: Kernels that are named give equal outputs as well; where the spec says `auto`, timings choose among those that are
#: right.
SPECS: dict[str, dict[str, Any]] = {
    "dynamic": {},
    "static": {"qengine": "onednn"},
    "qat": {
        "qengine": "onednn",
        "qat": {"epochs": 1, "compare_with_float": False, "learning_rate": 5e-3, "batch_size": 8},
    },
}
SEEN = 160
NO_ANALYSIS = {"layers": False, "sensitivity_seconds": 0, "histograms": 0}


def folder_for(digits: Digits, make_folder: MakeFolder, method: str, **more: Any) -> JobFolder:
    seen = {"x": digits.training_x[:SEEN]}
    datasets: dict[str, dict[str, Any]] = {"evaluation": {"x": digits.evaluation_x[:64]}}
    if method == "static":
        datasets["calibration"] = seen
    elif method == "qat":
        # Other labels than the network knows: what was trained is better than what was not, and so is on offer.
        datasets["training"] = seen | {"labels": 9 - digits.training_y[:SEEN]}
        datasets["evaluation"]["labels"] = 9 - digits.evaluation_y[:64]
    return make_folder(digits.program, method, datasets, analysis=NO_ANALYSIS, **(SPECS[method] | more))


def run_all(folders: list[JobFolder]) -> list[JobReport]:
    """Each in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-m", "worker.recipes"]
    running = [
        subprocess.Popen(
            [*command, folder.path], stdout=subprocess.DEVNULL, cwd=folder.path, env={"PATH": os.environ["PATH"]}
        )
        for folder in folders
    ]
    assert [process.wait(300) for process in running] == [0] * len(folders)
    return [JobReport.model_validate_json((folder.outputs / "report.json").read_bytes()) for folder in folders]


def int8_output(folder: JobFolder, report: JobReport, digits: Digits) -> torch.Tensor:
    torch.backends.quantized.engine = report.environment.qengine
    with torch.no_grad():
        (output,) = torch.jit.load(folder.outputs / "model_int8.pt")(torch.from_numpy(digits.evaluation_x))
    assert isinstance(output, torch.Tensor)
    return output


def check_two_runs(digits: Digits, folders: list[JobFolder], reports: list[JobReport]) -> None:
    first, second = reports
    assert first.weights_sha256 == second.weights_sha256
    assert first.quality == second.quality
    outputs = [int8_output(folder, report, digits) for folder, report in zip(folders, reports, strict=True)]
    assert torch.equal(*outputs)


def test_two_dynamic_jobs_give_the_same_model(digits: Digits, make_folder: MakeFolder) -> None:
    folders = [folder_for(digits, make_folder, "dynamic") for _ in range(2)]
    check_two_runs(digits, folders, run_all(folders))


def test_two_static_jobs_give_the_same_model(digits: Digits, make_folder: MakeFolder) -> None:
    folders = [folder_for(digits, make_folder, "static") for _ in range(2)]
    check_two_runs(digits, folders, run_all(folders))


def test_two_trainings_give_the_same_model_and_another_seed_another(digits: Digits, make_folder: MakeFolder) -> None:
    """The model on offer must be the trained one: the static one knows no seed."""
    folders = [folder_for(digits, make_folder, "qat", seed=seed) for seed in (0, 0, 1)]
    reports = run_all(folders)
    check_two_runs(digits, folders[:2], reports[:2])
    assert [report.training is not None and report.training.offered for report in reports] == ["qat"] * 3
    assert reports[2].weights_sha256 != reports[0].weights_sha256


@pytest.mark.parametrize("method", ["static", "qat"])
def test_by_default_the_weights_are_the_same_whichever_kernels_are_the_fastest(
    digits: Digits, make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """What a clock says chooses kernels and nothing else: not the model on offer, and no weight, scale or bias."""
    reports = []
    for favourite in ("onednn", "fbgemm"):
        monkeypatch.setattr(
            choose_kernels,
            "_medians_ms",
            lambda right, *_, favourite=favourite: {name: 1.0 if name == favourite else 2.0 for name in right},
        )
        folder = folder_for(digits, make_folder, method, qengine="auto")
        reports.append(recipes.run(folder, lambda _: None))
    first, second = reports
    assert [report.environment.qengine for report in reports] == ["onednn", "fbgemm"]
    assert first.weights_sha256 == second.weights_sha256
    if first.training is not None and second.training is not None:
        assert first.training.offered == second.training.offered == "qat"
