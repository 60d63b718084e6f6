"""Choosing the kernels of a static job, on a network really trained and on one whose sums saturate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from shared.errors import KernelsSaturate
from shared.job_report import KernelTrial
from tests.unit.worker.conftest import Digits, MakeFolder
from worker import recipes
from worker.quantization import trying
from worker.quantization.choosing_kernels import has_vnni
from worker.steps import choose_kernels

KERNELS = {"onednn", "x86", "fbgemm"}


def run(digits: Digits, make_folder: MakeFolder, **more: Any) -> tuple[str, dict[str, KernelTrial]]:
    data = {"calibration": {"x": digits.training_x[:64]}, "evaluation": {"x": digits.evaluation_x}}
    folder = make_folder(digits.program, "static", data, benchmark={"max_seconds": 0.05}, **more)
    report = recipes.run(folder, lambda _: None)
    assert report.environment.qengine == report.spec["qengine"]
    return report.spec["qengine"], {trial.qengine: trial for trial in report.kernels}


def test_only_the_kernels_that_the_spec_names_are_tried(digits: Digits, make_folder: MakeFolder) -> None:
    chosen, trials = run(digits, make_folder, qengine="onednn")
    assert chosen == "onednn"
    assert [trial.chosen for trial in trials.values()] == [True]
    assert trials["onednn"].latency_ms is None


def test_auto_measures_all_and_takes_the_fastest_right_ones(digits: Digits, make_folder: MakeFolder) -> None:
    """Each is told with its latency; none is much faster than the one chosen."""
    chosen, trials = run(digits, make_folder)
    assert set(trials) == KERNELS
    assert [name for name, trial in trials.items() if trial.chosen] == [chosen]
    right_ms = {name: trial.latency_ms for name, trial in trials.items() if not trial.saturates}
    assert all(latency_ms is not None for latency_ms in right_ms.values())
    fastest_ms = min(latency_ms for latency_ms in right_ms.values() if latency_ms is not None)
    assert (right_ms[chosen] or 0) <= choose_kernels.MIN_GAIN * fastest_ms * 1.01


class Saturating(nn.Module):
    """A depthwise convolution of equal weights on great inputs: two products exceed 16 bits, where fbgemm adds them."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.pointwise = nn.Conv2d(16, 8, 1)
        with torch.no_grad():
            self.depthwise.weight.abs_().add_(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pointwise(self.depthwise(x))


@pytest.fixture
def saturating(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "saturating.pt2"
    example = (torch.rand(2, 16, 12, 12),)
    program = torch.export.export(Saturating().eval(), example, dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    torch.export.save(program, path)
    return path


@pytest.mark.skipif(not has_vnni(), reason="without VNNI the plan keeps to 7 bits, and nothing saturates")
def test_kernels_that_saturate_are_not_taken_however_fast(saturating: Path, make_folder: MakeFolder) -> None:
    """The layer is named, and the kernels that were taken are as near to the float model as the simulation is."""
    data = {"calibration": {"x": 1 + torch.rand(64, 16, 12, 12).numpy()}}
    folder = make_folder(saturating, "static", data, benchmark={"max_seconds": 0.05})
    report = recipes.run(folder, lambda _: None)
    trials = {trial.qengine: trial for trial in report.kernels}
    assert trials["fbgemm"].saturates
    assert trials["fbgemm"].layers == ["depthwise"]
    assert trials["fbgemm"].latency_ms is None
    assert not trials[report.environment.qengine].saturates
    chosen = trials[report.environment.qengine]
    assert chosen.sqnr_db is not None
    assert chosen.sqnr_db == pytest.approx(chosen.reference_sqnr_db, abs=1.0)


@pytest.mark.skipif(not has_vnni(), reason="without VNNI the plan keeps to 7 bits, and nothing saturates")
def test_a_layer_that_saturates_on_any_input_stays_in_float_with_kernels_that_the_spec_insists_on(
    saturating: Path, make_folder: MakeFolder
) -> None:
    """The trial of the plan finds it before any data is spent."""
    data = {"calibration": {"x": 1 + torch.rand(64, 16, 12, 12).numpy()}}
    insisting = {"qengine": "fbgemm", "activation": {"reduce_range": False}, "benchmark": {"max_seconds": 0.05}}
    report = recipes.run(make_folder(saturating, "static", data, **insisting), lambda _: None)
    assert "fbgemm kernel is wrong" in report.spec["plan"]["float_layers"]["depthwise"]
    assert report.quality.fidelity[0].sqnr_db is not None
    assert report.quality.fidelity[0].sqnr_db > 40


@pytest.mark.skipif(not has_vnni(), reason="without VNNI the plan keeps to 7 bits, and nothing saturates")
def test_kernels_that_saturate_on_real_data_alone_are_refused(
    saturating: Path, make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the trial saw nothing and the spec leaves no other kernels, the job says which layer, and what to do."""
    monkeypatch.setattr(trying, "_RIGHT_KERNEL_STEPS", 255.0)
    data = {"calibration": {"x": 1 + torch.rand(64, 16, 12, 12).numpy()}}
    insisting = {"qengine": "fbgemm", "activation": {"reduce_range": False}}
    with pytest.raises(KernelsSaturate, match="fbgemm in 1 layers, first depthwise") as caught:
        recipes.run(make_folder(saturating, "static", data, **insisting), lambda _: None)
    assert "reduce_range" in (caught.value.hint or "")
    assert "do not compute what they should" in caught.value.message
    assert "saturate" not in caught.value.message, "of the cause nothing is known"


@pytest.mark.skipif(not has_vnni(), reason="without VNNI the plan keeps to 7 bits, and nothing saturates")
def test_kernels_that_lose_more_than_one_db_of_the_output_are_not_offered_either(
    saturating: Path, make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no layer shows it: none is looked at here."""
    monkeypatch.setattr(choose_kernels, "departing_layers", lambda *_: [])
    data = {"calibration": {"x": 1 + torch.rand(64, 16, 12, 12).numpy()}}
    folder = make_folder(saturating, "static", data, benchmark={"max_seconds": 0.05})
    trials = {trial.qengine: trial for trial in recipes.run(folder, lambda _: None).kernels}
    assert trials["fbgemm"].saturates
    assert trials["fbgemm"].layers == []
    assert not trials["onednn"].saturates
