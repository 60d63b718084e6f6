"""What is exported, what cannot be and why, and that it costs the others nothing."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from shared.errors import RuntimeNotInstalled
from shared.job_report import ArtifactResult, JobReport
from shared.quantization_spec import Runtime
from tests.unit.worker.conftest import Digits, MakeFolder, export
from worker import recipes
from worker.outputs import MODEL_NAMES
from worker.steps import export as exporting


class WithoutOnnx(nn.Module):
    """Between two layers stands an operator that ONNX has not."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Linear(8, 16)
        self.after = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        square = self.before(x).unflatten(1, (4, 4))
        return self.after(torch.linalg.eigvals(square).abs())


class Averaged(nn.Module):
    """A mean over tokens of what was computed in int8."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(40, 32)
        self.mix = nn.Linear(32, 32)
        self.out = nn.Linear(32, 40)

    def forward(self, tokens: Tensor) -> Tensor:
        x = torch.relu(self.mix(self.embedding(tokens)))
        x = torch.relu(self.mix(x)) + x
        return self.out(x.mean(1))


def by_runtime(report: JobReport) -> dict[Runtime, ArtifactResult]:
    return {each.runtime: each for each in report.artifacts}


@pytest.mark.parametrize("method", ["static", "dynamic"])
def test_an_operator_that_onnx_has_not_is_named_with_its_layer_and_the_torch_artifact_is_made(
    make_folder: MakeFolder, tmp_path: Path, method: str
) -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 8)
    export(WithoutOnnx(), (x[:2],), tmp_path / "model.pt2")
    data = {"calibration": {"x": x.numpy()}} if method == "static" else {"evaluation": {"x": x.numpy()}}
    report = recipes.run(make_folder(tmp_path / "model.pt2", method, data, runtimes=None), lambda _: None)
    found = by_runtime(report)
    assert "missing" not in found["torch"].labels
    for runtime in ("onnxruntime", "openvino"):
        assert found[runtime].labels == ["missing"]
        assert found[runtime].note == (
            "The operator aten.linalg_eig, at or behind the layer before, cannot be written as ONNX."
        )
    assert {each.name for each in report.latency[0].candidates} == {"float_eager", "float_frozen", "int8_torch"}


def test_a_mean_of_what_is_int8_is_right_in_openvino(make_folder: MakeFolder, tmp_path: Path) -> None:
    """OpenVINO's mean of integers over an axis of open size gave garbage, another at every run."""
    torch.manual_seed(0)
    tokens = torch.randint(0, 40, (64, 12))
    export(Averaged(), (tokens[:2],), tmp_path / "model.pt2")
    folder = make_folder(
        tmp_path / "model.pt2", "static", {"calibration": {"tokens": tokens.numpy()}}, runtimes=["openvino"],
        overrides=[{"layer": "out", "precision": "float32"}],
    )  # fmt: skip
    found = by_runtime(recipes.run(folder, lambda _: None))
    assert list(found) == ["torch", "openvino"]
    assert "wrong" not in found["openvino"].labels
    assert found["openvino"].quality is not None
    assert (found["openvino"].quality.fidelity[0].sqnr_db or 0) > 30


def test_layers_kept_in_float_are_kept_so_by_onnx_runtime_too(make_folder: MakeFolder, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8))
    export(network, (torch.randn(2, 32),), tmp_path / "model.pt2")
    folder = make_folder(
        tmp_path / "model.pt2", "dynamic", {}, runtimes=["onnxruntime"],
        overrides=[{"layer": "2", "precision": "float32"}],
    )  # fmt: skip
    found = by_runtime(recipes.run(folder, lambda _: None))
    assert list(found) == ["torch", "onnxruntime"]
    for artifact in found.values():
        assert (artifact.int8_operators, artifact.float_operators) == (2, 1)


def test_float16_weights_are_for_torch_alone(digits: Digits, make_folder: MakeFolder) -> None:
    folder = make_folder(digits.program, "dynamic", {}, runtimes=["onnxruntime"], precision="float16")
    found = by_runtime(recipes.run(folder, lambda _: None))
    assert found["onnxruntime"].labels == ["missing"]
    assert "float16" in (found["onnxruntime"].note or "")


def test_a_fixed_batch_stays_fixed(make_folder: MakeFolder, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4))
    x = torch.randn(64, 3, 8, 8)
    export(network, (x[:4],), tmp_path / "model.pt2", dynamic=False)
    folder = make_folder(tmp_path / "model.pt2", "static", {"calibration": {"input": x.numpy()}}, runtimes=None)
    report = recipes.run(folder, lambda _: None)
    assert all(not {"missing", "wrong"} & set(each.labels) for each in report.artifacts)
    assert report.latency[0].batch_size == 4


def test_torch_alone_is_measured_against_torch_alone(digits: Digits, make_folder: MakeFolder) -> None:
    report = recipes.run(make_folder(digits.program, "dynamic", {}, runtimes=["torch"]), lambda _: None)
    assert [each.runtime for each in report.artifacts] == ["torch"]
    names = {each.name for each in report.latency[0].candidates}
    assert names == {"float_eager", "float_channels_last", "float_frozen", "int8_torch"}


def test_a_runtime_that_is_not_installed_is_refused_before_anything_is_done(
    digits: Digits, make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "installed_runtimes", lambda: {"torch": "2.13.0"})
    folder = make_folder(digits.program, "dynamic", {}, runtimes=["openvino"])
    told: list[object] = []
    with pytest.raises(RuntimeNotInstalled, match="has torch, and not openvino"):
        recipes.run(folder, told.append)
    assert told == []


def test_by_default_there_is_an_artifact_for_each_runtime_that_is_installed(
    digits: Digits, make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "installed_runtimes", lambda: {"torch": "2.13.0", "onnxruntime": "1.23.2"})
    report = recipes.run(make_folder(digits.program, "dynamic", {}, runtimes=None), lambda _: None)
    assert [each.runtime for each in report.artifacts] == ["torch", "onnxruntime"]


def with_silus(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 3, 1),
        nn.Conv2d(3, 8, 3),
        nn.SiLU(),
        nn.Conv2d(8, 8, 3),
        nn.SiLU(),
        nn.Flatten(),
        nn.Linear(128, 4),
    )
    export(network, (torch.randn(2, 3, 8, 8),), tmp_path / "model.pt2")
    return tmp_path / "model.pt2"


def test_where_it_is_worth_nothing_biases_are_corrected_once_alone(make_folder: MakeFolder, tmp_path: Path) -> None:
    """Nearly all of the error is in what the input is clipped to."""
    program = with_silus(tmp_path)
    x = torch.randn(64, 3, 8, 8).exp()
    asked = {"recovery": {"bias_correction": True}, "activation": {"observer": "percentile", "percentile": 95}}
    folder = make_folder(
        program, "static", {"calibration": {"input": x.numpy()}}, runtimes=["torch", "openvino"], **asked
    )
    recipes.run(folder, lambda _: None)
    assert not (folder.tmp / "shifts.pt").exists()


def test_corrected_biases_are_corrected_once_more_for_openvino_where_it_is_wanted(
    make_folder: MakeFolder, tmp_path: Path
) -> None:
    """Its file alone has others: it does not round what a SiLU is computed of."""
    program = with_silus(tmp_path)
    x = torch.randn(64, 3, 8, 8)
    clipped = {"layer": "1", "activation": {"observer": "percentile", "percentile": 60}}
    asked = {"recovery": {"bias_correction": True}, "overrides": [clipped]}

    def biases(runtime: Runtime) -> list[list[float]]:
        folder = make_folder(
            program, "static", {"calibration": {"input": x.numpy()}}, runtimes=["torch", runtime], **asked
        )
        recipes.run(folder, lambda _: None)
        assert (folder.tmp / "shifts.pt").exists() == (runtime == "openvino")
        model = onnx.load(folder.outputs / MODEL_NAMES[runtime])
        values = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
        return [values[node.input[2]].tolist() for node in model.graph.node if node.op_type == "Conv"]

    plain, shifted = biases("onnxruntime"), biases("openvino")
    assert plain[0] == pytest.approx(shifted[0], abs=1e-3), "nothing before it is another"
    assert plain[2] != pytest.approx(shifted[2], abs=1e-2), "it was corrected for what is clipped before"
