"""Kernels that the recipe may choose from."""

from __future__ import annotations

from tests.unit.worker.conftest import Digits, MakeFolder
from worker import recipes


def test_affine_weights_are_served_by_kernels_that_take_them(digits: Digits, make_folder: MakeFolder) -> None:
    """Those of onednn are not tried: they would fail."""
    samples = {"x": digits.evaluation_x[:64]}
    folder = make_folder(
        digits.program,
        "static",
        {"calibration": samples, "evaluation": samples},
        weight={"observer": "per_channel_minmax", "qscheme": "per_channel_affine"},
        analysis={"sensitivity_seconds": 0, "histograms": 0},
    )
    report = recipes.run(folder, lambda _: None)
    assert "onednn" not in {trial.qengine for trial in report.kernels}
    weights = [qparams for layer in report.layers for qparams in layer.qparams if qparams.tensor == "weight"]
    assert {qparams.qscheme for qparams in weights} == {"per_channel_affine"}
