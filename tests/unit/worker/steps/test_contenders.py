"""Which float models are measured."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from shared.job_report import JobReport
from tests.unit.worker.conftest import Digits, MakeFolder, export
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


class Projected(nn.Module):
    """torch writes its LSTM as one that ONNX has not: ONNX Runtime opens the file, and fails when it is run."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 16, batch_first=True, proj_size=4)
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.lstm(x)[0][:, -1])


def test_a_float_model_that_opens_and_does_not_run_is_left_out_and_told(
    make_folder: MakeFolder, tmp_path: Path
) -> None:
    x = torch.randn(64, 5, 8)
    export(Projected(), (x[:2],), tmp_path / "model.pt2")
    data = {"calibration": {"x": x.numpy()}}
    report = recipes.run(make_folder(tmp_path / "model.pt2", "static", data, runtimes=None), lambda _: None)
    assert names_of(report) == {"float_eager", "float_frozen", "int8_torch"}
    told = [warning.message for warning in report.warnings if warning.code == "float_model_refused"]
    assert any("ONNX Runtime float. ONNX Runtime raised: " in message for message in told)


def test_a_float_model_that_computes_something_else_is_left_out_and_told(
    digits: Digits, make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """int8 would be compared with it."""
    exact = contenders.in_file

    class Enlarged:
        def __init__(self, session: contenders.Session) -> None:
            self._session = session

        def run(self, inputs: list[Tensor]) -> list[Tensor]:
            return [1.5 * output for output in self._session.run(inputs)]

    def in_file(runtime: contenders.Runtime, path: Path, **options: str) -> contenders.Contender:
        made = exact(runtime, path, **options)
        if runtime != "onnxruntime":
            return made
        return contenders.Contender(lambda threads: Enlarged(made.open(threads)), made.size_bytes, runtime)  # type: ignore[arg-type, return-value]

    monkeypatch.setattr(contenders, "in_file", in_file)
    report = recipes.run(make_folder(digits.program, "dynamic", {}, runtimes=None), lambda _: None)
    assert "float_onnxruntime" not in names_of(report)
    assert "float_openvino" in names_of(report)
    (told,) = [warning.message for warning in report.warnings if warning.code == "float_model_refused"]
    assert told.endswith("ONNX Runtime float. Its outputs are not the float model's in torch: their SQNR is 6 dB.")
