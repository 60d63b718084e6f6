"""Planted faults in calibration data, each found by name in the report of a static job; a good one has none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.ao.quantization import MinMaxObserver  # noqa: TID251 - what ranges are noted of

from shared.errors import DatasetNotFinite
from shared.job import Step
from shared.job_report import CalibrationResult, JobReport, ReportWarning
from tests.unit.worker.conftest import Digits, MakeFolder, dataset_id, export
from worker import recipes
from worker.datasets import InMemorySamples
from worker.progress import ProgressTracker
from worker.steps.calibrate import calibrate
from worker.steps.check_calibration import QualitySpread, check_calibration
from worker.steps.held_back import divide
from worker.steps.load import load

CODES = (
    "few_calibration_samples", "calibration_parts_differ", "calibration_constant", "calibration_duplicates",
    "calibration_unlike_evaluation", "not_held_out",
)  # fmt: skip


@pytest.fixture
def run_static(digits: Digits, make_folder: MakeFolder) -> Any:
    """Run a static job on this calibration data."""

    def run(calibration: NDArray[np.float32], evaluation: NDArray[np.float32] | None = None) -> JobReport:
        held_out = digits.evaluation_x[:100] if evaluation is None else evaluation
        data = {"calibration": {"x": calibration}, "evaluation": {"x": held_out}}
        folder = make_folder(digits.program, "static", data, activation={"observer": "minmax"})
        return recipes.run(folder, lambda _: None)

    return run


def about_calibration(report: JobReport) -> dict[str, ReportWarning]:
    return {warning.code: warning for warning in report.warnings if warning.code in CODES}


def checked(report: JobReport) -> CalibrationResult:
    assert report.calibration is not None
    return report.calibration


def test_good_data_suffices_and_nothing_is_said(run_static: Any, digits: Digits) -> None:
    report = run_static(digits.training_x[:256])
    found = checked(report)
    assert about_calibration(report) == {}
    assert (found.samples, found.duplicates, found.subsets, found.sufficient) == (256, 0, 4, True)
    assert found.enough_samples is not None
    assert found.enough_samples <= 256
    assert found.scale_spread is not None
    assert 0 < found.scale_spread < 0.5
    assert found.quality_spread_db is not None
    assert 0 < found.quality_spread_db < 6
    assert found.coverage is not None
    assert 0.95 < found.coverage < 1
    (entry,) = found.inputs
    assert (entry.name, entry.constant, entry.min, entry.max) == ("x", False, 0, 1)
    assert entry.evaluation_outside == 0


def test_parts_that_differ_spread_scales_and_quality(run_static: Any, digits: Digits) -> None:
    """Every fourth batch is dim: a model calibrated on those alone would clip nearly everything."""
    mixed = digits.training_x[:256].copy()
    numbered = InMemorySamples((torch.arange(256),), None)
    parts = [part.read(0, part.count).inputs[0] for part in divide(numbered, 16)]
    batches_seen = torch.cat(parts).reshape(16, 16)  # what is held back comes last
    mixed[batches_seen[::4].flatten()] *= 0.1
    report = run_static(mixed)
    found = checked(report)
    assert found.scale_spread is not None
    assert found.quality_spread_db is not None
    assert found.scale_spread > 0.5
    assert found.quality_spread_db > 15
    assert not found.sufficient
    assert found.enough_samples is None or found.enough_samples > 256
    warning = about_calibration(report)["calibration_parts_differ"]
    assert "256 calibration samples are not alike" in warning.message
    assert "representative samples" in (warning.hint or "")
    assert f"differ by {100 * found.scale_spread:.0f} %" in (warning.evidence or "")
    assert "With the ranges of one quarter of them the model reaches" in (warning.evidence or "")


def test_ranges_that_grow_matter_only_where_a_quarter_of_the_data_leaves_the_model_far_from_float(
    digits: Digits, make_folder: MakeFolder
) -> None:
    """Told on data held out alone: on what was calibrated with, nothing clips."""
    data = {"calibration": {"x": digits.training_x[:64]}, "evaluation": {"x": digits.evaluation_x}}
    folder = make_folder(digits.program, "static", data)
    tracker = ProgressTracker(lambda _: None, {Step.LOAD: 1})
    model, loaded = load(folder, folder.read_inputs(), tracker)
    assert loaded.calibration is not None
    samples = loaded.calibration
    observed = torch.nn.Sequential(MinMaxObserver())
    found = calibrate(model, [observed], samples, lambda _done, _total: None, then=(samples, lambda: None))
    found.ranges.ranges[:, 0] = torch.tensor([[-(1.15**subset), 1.15**subset] for subset in range(8)])
    far, near = QualitySpread(25, 28), QualitySpread(31, 34)
    grown = [
        check_calibration(model, found, held_out, tracker, quality=quality).sufficient
        for held_out, quality in (
            (loaded.held_out, None), (loaded.held_out, far), (None, near), (loaded.held_out, near),
        )
    ]  # fmt: skip
    assert grown == [False, False, False, True]


def test_qat_measures_what_quarters_of_its_data_are_worth(digits: Digits, make_folder: MakeFolder) -> None:
    data = {
        "training": {"x": digits.training_x[:128], "labels": digits.training_y[:128]},
        "evaluation": {"x": digits.evaluation_x[:100], "labels": digits.evaluation_y[:100]},
    }
    settings = {"epochs": 1, "compare_with_float": False}
    folder = make_folder(
        digits.program, "qat", data, qat=settings, qengine="onednn", analysis={"sensitivity_seconds": 0}
    )
    found = checked(recipes.run(folder, lambda _: None))
    assert found.quality_spread_db is not None
    assert found.quality_spread_db > 0


def test_too_few_samples_say_how_many_would_do(run_static: Any, digits: Digits) -> None:
    report = run_static(digits.training_x[:6])
    warning = about_calibration(report)["few_calibration_samples"]
    found = checked(report)
    assert not found.sufficient
    assert found.enough_samples is not None
    assert 32 <= found.enough_samples <= 64 * 6
    assert warning.message == "Calibration has 6 samples: ranges found on so few clip others."
    assert "representative samples" in (warning.hint or "")
    assert "doubling" in (warning.evidence or "")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_refused_by_name_before_the_work(run_static: Any, digits: Digits, value: float) -> None:
    spoiled = digits.training_x[:128].copy()
    spoiled[37, 0, 2, 3] = value
    with pytest.raises(DatasetNotFinite, match=r"Calibration data: Array 'x' holds 1 NaN.*the first in sample 37"):
        run_static(spoiled)


@pytest.mark.parametrize("role", ["calibration", "evaluation"])
def test_a_double_that_overflows_is_refused_by_role_and_name(
    digits: Digits, make_folder: MakeFolder, role: str
) -> None:
    wide = digits.training_x[:128].astype(np.float64)
    wide[37, 0, 2, 3] = 1e300
    datasets = {
        each: {"x": wide if each == role else digits.training_x[:128]} for each in ("calibration", "evaluation")
    }
    folder = make_folder(digits.program, "static", datasets)
    with pytest.raises(DatasetNotFinite, match=rf"^{role.capitalize()} data: Input 'x' holds 1e\+300 in sample 37"):
        recipes.run(folder, lambda _: None)


def test_duplicates_do_not_count_twice(run_static: Any, digits: Digits) -> None:
    report = run_static(np.tile(digits.training_x[:16], (8, 1, 1, 1)))
    warnings = about_calibration(report)
    assert checked(report).duplicates == 7 * 16
    assert warnings["calibration_duplicates"].message.startswith("88 % of the calibration samples repeat")
    assert warnings["few_calibration_samples"].message.startswith("Calibration has 16 different samples")


def test_one_sample_over_and_over_is_constant(digits: Digits, make_folder: MakeFolder) -> None:
    """The two steps by themselves: kernels are not compared on a single sample."""
    data = {
        "calibration": {"x": np.tile(digits.training_x[:1], (64, 1, 1, 1))},
        "evaluation": {"x": digits.evaluation_x},
    }
    folder = make_folder(digits.program, "static", data)
    tracker = ProgressTracker(lambda _: None, {Step.LOAD: 1})
    model, loaded = load(folder, folder.read_inputs(), tracker)
    assert loaded.calibration is not None
    samples = loaded.calibration
    found = calibrate(model, [model.raised], samples, lambda _done, _total: None, then=(samples, lambda: None))
    result = check_calibration(model, found, loaded.held_out, tracker)
    (warning,) = [warning for warning in tracker.warnings if warning.code == "calibration_constant"]
    assert warning.evidence == "x: values 0 to 1; the evaluation data varies."
    assert result.inputs[0].constant
    assert result.duplicates == 63
    assert not result.sufficient


@pytest.mark.parametrize(("factor", "said"), [(0.3, "lie outside of its calibration range"), (16, "16 times as wide")])
def test_another_scale_than_the_evaluation_data_is_told(
    run_static: Any, digits: Digits, factor: float, said: str
) -> None:
    """Pixels of 0 to 16 where the model was trained on 0 to 1: forgotten normalisation, and its opposite."""
    report = run_static((digits.training_x[:128] * factor).astype(np.float32))
    warning = about_calibration(report)["calibration_unlike_evaluation"]
    assert said in warning.message
    assert "'x'" in warning.message
    assert warning.evidence == f"x: calibration 0 to {factor:.4g}, evaluation 0 to 1."
    outside = checked(report).inputs[0].evaluation_outside
    share = float((digits.evaluation_x[:100] > np.float32(factor)).mean())
    assert outside == pytest.approx(share, abs=1e-6)


def test_evaluating_on_the_calibration_data_is_told(digits: Digits, make_folder: MakeFolder) -> None:
    x = digits.training_x[:64]
    folder = make_folder(digits.program, "static", {"calibration": {"x": x}, "evaluation": {"x": x}})
    inputs = folder.read_inputs()
    same = inputs.spec.model_copy(update={"evaluation": dataset_id("calibration")})
    folder.create(inputs.model_copy(update={"spec": same}))
    report = recipes.run(folder, lambda _: None)
    assert "not_held_out" in about_calibration(report)


class WithPositions(torch.nn.Module):
    """A signal and where it stands."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = torch.nn.Embedding(4, 16)
        self.body = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))

    def forward(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        return self.body(x + self.embedding(positions)).mean(1)


def test_positions_that_never_change_are_no_fault_unless_they_change_later(
    make_folder: MakeFolder, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)

    def data(samples: int, first: int = 0) -> dict[str, NDArray[Any]]:
        positions = np.tile(np.arange(4), (samples, 1))
        positions[0] = (positions[0] + first) % 4
        return {"x": rng.normal(size=(samples, 4, 16)).astype(np.float32), "positions": positions}

    export(WithPositions(), tuple(torch.from_numpy(array) for array in data(3).values()), tmp_path / "model.pt2")
    for first, expected in ((0, False), (1, True)):
        folder = make_folder(
            tmp_path / "model.pt2", "static", {"calibration": data(128), "evaluation": data(64, first)}
        )
        report = recipes.run(folder, lambda _: None)
        assert [entry.constant for entry in checked(report).inputs] == [False, True]
        assert ("calibration_constant" in about_calibration(report)) == expected
