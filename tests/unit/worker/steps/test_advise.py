"""What dynamic leaves in float is said before the work is done, with static where convolutions do most."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from shared.job_report import JobReport
from tests.unit.worker.conftest import Digits, MakeFolder, dataset_id, export
from worker import recipes
from worker.progress import LogMessage, ProgressMessage


def test_a_network_of_convolutions_is_sent_to_static_before_it_is_quantized(
    digits: Digits, make_folder: MakeFolder
) -> None:
    messages: list[object] = []
    folder = make_folder(digits.program, "dynamic", {"evaluation": {"x": digits.evaluation_x[:40]}})
    report = recipes.run(folder, messages.append)
    (warning,) = [warning for warning in report.warnings if warning.code == "convolutions_in_float"]
    convolutions, head = 64 * 8 * 9 + 64 * 16 * 8 * 9, 256 * 10
    share = convolutions / (convolutions + head)
    assert f"{100 * share:.0f} % of the multiply-accumulates" in warning.message
    assert warning.evidence == f"{100 * share:.1f} % of the multiply-accumulates stay in float."
    assert warning.suggestion is not None
    assert warning.suggestion.patch == {"method": "static", "calibration": dataset_id("evaluation")}
    assert report.spec["plan"]["float_macs_share"] == pytest.approx(share)
    told = next(i for i, one in enumerate(messages) if isinstance(one, LogMessage) and one.kind == "warning")
    converts = next(i for i, one in enumerate(messages) if isinstance(one, ProgressMessage) and one.step == "convert")
    assert told < converts


def test_without_data_no_patch_could_make_a_static_job(digits: Digits, make_folder: MakeFolder) -> None:
    report = recipes.run(make_folder(digits.program, "dynamic", {}), lambda _: None)
    (warning,) = [warning for warning in report.warnings if warning.code == "convolutions_in_float"]
    assert warning.suggestion is None
    assert "calibration" in (warning.hint or "")


@pytest.mark.parametrize("precision", ["int8", "float16"])
def test_a_recurrent_network_is_not_sent_anywhere(make_folder: MakeFolder, tmp_path: Path, precision: str) -> None:
    class Recurrent(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.rnn = torch.nn.GRU(8, 128, batch_first=True)
            self.fc = torch.nn.Linear(128, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.rnn(x)[0][:, -1])

    export(Recurrent(), (torch.randn(3, 5, 8),), tmp_path / "gru.pt2")
    report = recipes.run(make_folder(tmp_path / "gru.pt2", "dynamic", {}, precision=precision), lambda _: None)
    assert report.spec["plan"]["float_macs_share"] == 0
    assert not {"convolutions_in_float", "multiplications_in_float"} & codes(report)
    assert {layer.precision for layer in report.layers} == {precision}
    assert report.size.ratio > (1.5 if precision == "float16" else 2.5)  # 1.75 for the weights alone, and 4
    sqnr_db = report.quality.fidelity[0].sqnr_db
    assert sqnr_db is not None
    assert sqnr_db > (60 if precision == "float16" else 30)


def codes(report: JobReport) -> set[str]:
    return {warning.code for warning in report.warnings}
