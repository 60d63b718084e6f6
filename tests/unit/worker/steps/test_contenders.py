"""Which float models are measured."""

from __future__ import annotations

import pytest

from shared.job_report import JobReport
from tests.unit.worker.conftest import Digits, MakeFolder
from worker import recipes
from worker.steps import contenders


def names_of(report: JobReport) -> set[str]:
    return {each.name for each in report.latency[0].candidates}


def test_where_memory_is_short_the_last_are_left_out_and_told(
    digits: Digits, make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The digits network has 3978 weights: there is room for two copies of the kind that runtimes hold."""
    weights = sum(parameter.nbytes for parameter in digits.model.parameters())
    monkeypatch.setattr(contenders, "_free_bytes", lambda: 2 * 2 * weights + 100)
    report = recipes.run(make_folder(digits.program, "dynamic", {}, runtimes=None), lambda _: None)
    assert names_of(report) == {
        "float_eager", "float_frozen", "float_onnxruntime", "int8_torch", "int8_onnxruntime"
    }  # fmt: skip
    told = [warning.message for warning in report.warnings if warning.code == "float_model_left_out"]
    assert "Not measured: OpenVINO float. Memory is short for it." in told
    assert "Not measured: channels-last torch float. Memory is short for it." in told


def test_one_float_model_beside_eager_is_always_measured(
    digits: Digits, make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contenders, "_free_bytes", lambda: 0)
    report = recipes.run(make_folder(digits.program, "dynamic", {}), lambda _: None)
    assert names_of(report) == {"float_eager", "float_frozen", "int8_torch"}
