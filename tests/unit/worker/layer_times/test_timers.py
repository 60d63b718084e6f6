"""Each runtime's way to time operators, on small files: it computes what it did, and times every operator."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from worker.exporting import export_onnx, save, trace
from worker.layer_times import WARM_UP_RUNS, CannotTime, TimedFile, open_timed
from worker.layer_times.operators import typical
from worker.layer_times.torch_script import TorchScriptTimer
from worker.quantization import freeze, input_specs, output_names, raise_program

X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if bool(x.sum() > 0):
            x = x + 1
        return x


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.Flatten(), nn.Linear(2304, 4))
    program = torch.export.export(network.eval(), (X,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    raised, specs = raise_program(program), input_specs(program)
    root = tmp_path_factory.mktemp("float")
    save(export_onnx(trace(raised, (X,), specs), specs, output_names(program)), root / "model.onnx")
    torch.jit.save(freeze(raised, (X,)), root / "model.pt")
    return root


@pytest.mark.parametrize(("runtime", "name"), [("onnxruntime", "model.onnx"), ("openvino", "model.onnx")])
def test_every_layer_of_an_onnx_file_has_an_operator(folder: Path, runtime: str, name: str) -> None:
    timer = open_timed(runtime, TimedFile(folder / name, []), [X], 1)  # type: ignore[arg-type]  # of a parameter
    for _ in range(WARM_UP_RUNS + 5):
        timer.run()
    found = timer.operators()
    layers = {layer for each in found for layer in each.layers}
    assert {"0", "2", "4"} <= layers
    assert all(each.ms >= 0 for each in found)
    names = {each.name for each in found}
    assert any(set(each.reads) & names for each in found)


def test_moments_stand_between_all_operators_of_a_torchscript_graph(folder: Path) -> None:
    timer = TorchScriptTimer(TimedFile(folder / "model.pt", []), [X], 1)
    for _ in range(WARM_UP_RUNS + 5):
        timer.run()
    kinds = [each.kind for each in timer.operators()]
    assert kinds == ["aten::_convolution", "aten::relu", "aten::_convolution", "aten::flatten", "aten::linear"]
    for moments in timer._moments:
        assert len(moments) == len(kinds) + 2
        assert [*moments] == sorted(moments)


def test_a_module_that_still_holds_weights_is_not_timed(tmp_path: Path) -> None:
    """As of an LSTM with projections: its graph would have to be given the module as well."""
    torch.jit.save(torch.jit.trace(nn.Linear(8, 4).eval(), torch.zeros(2, 8)), tmp_path / "model.pt")
    with pytest.raises(CannotTime, match="left weights in the module"):
        open_timed("torch", TimedFile(tmp_path / "model.pt", []), [torch.zeros(2, 8)], 1)


def test_a_graph_with_branches_is_not_timed(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(Branching()), tmp_path / "model.pt")
    with pytest.raises(CannotTime, match="branches"):
        TorchScriptTimer(TimedFile(tmp_path / "model.pt", []), [X], 1)


def test_what_is_typical_minds_no_outlier_and_is_finer_than_the_clock() -> None:
    assert typical([1, 2, 1, 2, 1, 2, 1000, 0]) == 1.5
