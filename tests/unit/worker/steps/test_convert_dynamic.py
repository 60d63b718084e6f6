"""Kernels of method dynamic are held against int8 computed in float, layer by layer and as a whole."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.ao.nn.quantized import dynamic as nnqd  # noqa: TID251 - whose kernels are spoilt

from shared.errors import KernelsSaturate
from tests.unit.worker.conftest import Digits, MakeFolder, export
from worker import recipes
from worker.steps import convert_dynamic


def test_the_report_says_how_near_the_kernels_are_to_int8_in_float(digits: Digits, make_folder: MakeFolder) -> None:
    folder = make_folder(digits.program, "dynamic", {"evaluation": {"x": digits.evaluation_x[:64]}})
    (trial,) = recipes.run(folder, lambda _: None).kernels
    assert (trial.chosen, trial.saturates, trial.layers, trial.latency_ms) == (True, False, [], None)
    assert trial.sqnr_db is not None
    assert trial.reference_sqnr_db == pytest.approx(trial.sqnr_db, abs=0.1)


class Wide(torch.nn.Module):
    """Two Linears; the first gives greater sums than the second."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = torch.nn.Linear(64, 32), torch.nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x.flatten(1)).tanh())


def test_a_layer_whose_sums_saturate_on_real_samples_stays_in_float_and_is_told(
    digits: Digits, make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A few of its values are cut off: it errs by far less than its output, which made-up inputs are checked for."""
    right = nnqd.Linear.forward
    limit = float(Wide().first(torch.from_numpy(digits.evaluation_x[:64]).flatten(1)).abs().quantile(0.9).detach())

    def saturating(self: nnqd.Linear, x: Tensor) -> Tensor:
        return right(self, x).clamp(-limit, limit) if self.out_features == 32 else right(self, x)

    monkeypatch.setattr(nnqd.Linear, "forward", saturating)
    program = tmp_path_factory.mktemp("wide") / "model.pt2"
    export(Wide(), (torch.from_numpy(digits.training_x[:4]),), program)
    report = recipes.run(
        make_folder(program, "dynamic", {"evaluation": {"x": digits.evaluation_x[:64]}}), lambda _: None
    )
    assert [(trial.saturates, trial.chosen, trial.layers) for trial in report.kernels] == [
        (True, False, ["first"]),
        (False, True, []),
    ]
    layers = {layer.name: layer for layer in report.layers}
    assert (layers["first"].precision, layers["last"].precision) == ("float32", "int8")
    assert "1 dB further from float" in (layers["first"].reason or "")


def test_an_output_that_loses_more_than_a_decibel_in_no_single_layer_is_refused(
    digits: Digits, make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convert_dynamic, "departing_dynamic_layers", lambda *_: [])
    right = nnqd.Linear.forward
    monkeypatch.setattr(nnqd.Linear, "forward", lambda self, x: right(self, x).clamp(-5, 5))
    folder = make_folder(digits.program, "dynamic", {"evaluation": {"x": digits.evaluation_x[:64]}})
    with pytest.raises(KernelsSaturate, match=r"lose .* dB of the whole output, in no single layer"):
        recipes.run(folder, lambda _: None)
