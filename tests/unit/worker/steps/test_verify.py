"""An artifact that is wrong, in float or refused by its runtime is told as such and never recommended."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn

from shared.errors import InternalError, ModelFailed
from shared.job_report import ArtifactResult, OutputFidelity
from shared.quantization_spec import Runtime, spec_adapter
from tests.unit.worker.conftest import MakeFolder, export
from tests.unit.worker.test_datasets import spec as input_spec
from worker import recipes
from worker.artifacts import options_of, worth_measuring
from worker.datasets import InMemorySamples
from worker.exporting import export_onnx, in_form, save, trace
from worker.inference import BatchRange
from worker.quantization import (
    convert,
    freeze,
    input_specs,
    load_program,
    plan,
    prepare,
    raise_program,
    reference_graph,
)
from worker.runtimes import Session, SessionSettings, open_session
from worker.steps import verify as verifying
from worker.steps.evaluate import Yardstick
from worker.steps.export import MadeFile
from worker.steps.load import LoadedModel
from worker.steps.verify import verify

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(64, 3, 8, 8, generator=GENERATOR)
LABELS = torch.randint(0, 4, (64,), generator=GENERATOR)
SPEC = {"method": "static", "model": "mdl_0123456789abcdef", "calibration": "dst_0123456789abcdef"}


class Files:
    """A network in all of its forms."""

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4)).eval()
        export(network, (X[:2],), folder / "model.pt2")
        program = load_program(folder / "model.pt2")
        raised = raise_program(program)
        settled = plan(raised, spec_adapter.validate_python(SPEC))
        self.qengine = settled.qengine
        torch.backends.quantized.engine = settled.qengine
        specs = input_specs(program)

        def calibrated(values: Tensor) -> tuple[fx.GraphModule, fx.GraphModule]:
            prepared = prepare(raised, settled, (X[:2],))
            with torch.no_grad():
                prepared(values)
            return prepared, convert(prepared, settled)

        def exported(module: fx.GraphModule, name: str) -> Path:
            program = trace(module, (X[:2],), specs)
            save(in_form(export_onnx(program, specs, ["output"]), "onnxruntime"), folder / name)
            return folder / name

        prepared, converted = calibrated(X)
        self.model = LoadedModel(raised, (input_spec("x", (None, 3, 8, 8)),), ("output",), BatchRange(1, 1000), 32)
        self.torch = folder / "model_int8.pt"
        torch.jit.save(freeze(converted, (X[:2],)), self.torch)
        self.float_onnx = exported(raised, "float.onnx")
        self.onnx = exported(reference_graph(prepared, converted, settled), "model_int8.onnx")
        self.clipped = exported(reference_graph(*calibrated(0.2 * X), settled), "clipped.onnx")

    def verify(self, *others: MadeFile, labels: Tensor | None = None) -> list[ArtifactResult]:
        yardstick = Yardstick(
            InMemorySamples((X,), labels),
            "evaluation",
            None if labels is None else "top1",
            None if labels is None else 0.01,
        )
        files = [MadeFile("torch", self.torch), *others]
        return verify(
            self.model, files, yardstick,
            qengine=self.qengine, batch_size=1, threads=1, advance=lambda done, total: None,
        )  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("files"))


def test_right_artifacts_have_no_label_and_are_measured(files: Files) -> None:
    found = files.verify(MadeFile("onnxruntime", files.onnx), MadeFile("openvino", files.onnx))
    assert [each.runtime for each in found] == ["torch", "onnxruntime", "openvino"]
    assert [each.labels for each in found] == [[], [], []]
    assert all(each.int8_operators for each in found)
    assert [each.size_bytes for each in found[:2]] == [files.torch.stat().st_size, files.onnx.stat().st_size]
    assert worth_measuring(found) == found
    loads = [each.load for each in found if each.load is not None]
    assert len(loads) == 3
    assert all(load.cold_ms > 0 and load.warm_ms > 0 and load.resident_bytes >= 0 for load in loads)
    assert all(load.peak_bytes is not None and load.peak_bytes >= 0 for load in loads)


def test_one_that_computes_something_else_is_wrong_and_is_not_measured(files: Files) -> None:
    right, wrong = files.verify(MadeFile("onnxruntime", files.clipped))
    assert wrong.labels == ["wrong"]
    assert wrong.note is not None
    assert "further from float than the torch artifact" in wrong.note
    assert worth_measuring([right, wrong]) == [right]


def test_one_that_runs_in_float_is_told_by_its_kernels(files: Files) -> None:
    """Its outputs are perfect, for it is the float model."""
    _, in_float = files.verify(MadeFile("onnxruntime", files.float_onnx))
    assert in_float.labels == ["in_float"]
    assert (in_float.int8_operators, in_float.float_operators) == (0, 2)


def test_one_that_its_runtime_refuses_is_missing_with_the_reason(files: Files, tmp_path: Path) -> None:
    broken = tmp_path / "model_int8.openvino.onnx"
    broken.write_bytes(b"no model")
    _, missing = files.verify(MadeFile("openvino", broken))
    assert missing.labels == ["missing"]
    assert "OpenVINO does not take" in (missing.note or "")
    assert not broken.exists()


@pytest.fixture
def in_bf16(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A CPU on which bf16 takes this share of the time."""

    def takes(share: float) -> None:
        monkeypatch.setattr(verifying, "has_bf16", lambda: True)
        monkeypatch.setattr(verifying, "_share_of_time", lambda *_: share)

    return takes


def test_where_it_is_clearly_faster_what_is_not_int8_is_in_bf16(files: Files, in_bf16: Callable[[float], None]) -> None:
    in_bf16(0.8)
    _, found = files.verify(MadeFile("openvino", files.onnx))
    assert (found.inference_precision, found.labels) == ("bf16", [])
    assert options_of(found) == {"INFERENCE_PRECISION_HINT": "bf16"}
    assert re.fullmatch(
        r"What .* in 0\.80 of the time .* in f32, .*: \d+\.\d dB instead of \d+\.\d\.", found.note or ""
    )


def test_where_it_gains_little_it_stays_in_f32(files: Files, in_bf16: Callable[[float], None]) -> None:
    in_bf16(0.97)
    of_torch, found = files.verify(MadeFile("openvino", files.onnx))
    assert (found.inference_precision, found.note) == ("f32", None)
    assert of_torch.inference_precision is None
    assert options_of(of_torch) == {}


def test_bf16_does_not_whitewash_what_is_wrong_in_f32(files: Files, in_bf16: Callable[[float], None]) -> None:
    in_bf16(0.5)
    _, found = files.verify(MadeFile("openvino", files.clipped))
    assert (found.inference_precision, found.labels) == ("f32", ["wrong"])


def test_bf16_that_is_further_off_than_the_target_allows_is_told_and_not_taken(
    files: Files, in_bf16: Callable[[float], None]
) -> None:
    in_bf16(0.5)
    _, right = files.verify(MadeFile("openvino", files.onnx))
    in_f32 = right.model_copy(update={"inference_precision": "f32", "note": None})
    for label, why in (("wrong", "too far from float"), ("accuracy_not_met", "misses the accuracy target")):
        kept = verifying._chosen([in_f32, right.model_copy(update={"labels": [label]})], 0.5)
        assert (kept.inference_precision, kept.labels) == ("f32", [])
        assert f"takes 0.50 of the time, but it {'is ' if label == 'wrong' else ''}{why}" in (kept.note or "")


def test_a_file_that_does_not_run_in_bf16_is_there_in_f32(
    files: Files, in_bf16: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(runtime: Runtime, path: Path, settings: SessionSettings) -> Session:
        if settings.options:
            raise ModelFailed("Not in bf16.")
        return open_session(runtime, path, settings)

    in_bf16(0.5)
    monkeypatch.setattr(verifying, "open_session", refusing)
    _, found = files.verify(MadeFile("openvino", files.onnx))
    assert (found.inference_precision, found.labels, found.note) == ("f32", [], None)


def test_speed_is_tried_in_turns(files: Files) -> None:
    """Of the same file twice neither can take half of the other's time."""
    one, other = (open_session("openvino", files.onnx, SessionSettings(1)) for _ in range(2))
    assert 0.5 < verifying._share_of_time(one, other, (X,), 1) < 2


def test_one_that_was_not_made_is_missing_with_the_reason(files: Files, tmp_path: Path) -> None:
    _, missing = files.verify(MadeFile("onnxruntime", tmp_path / "model_int8.onnx", "It could not be."))
    assert (missing.labels, missing.note) == (["missing"], "It could not be.")
    assert (missing.quality, missing.load, missing.size_bytes) == (None, None, None)


def test_one_that_takes_one_batch_size_alone_is_refused(files: Files, tmp_path: Path) -> None:
    with torch.no_grad():
        program = torch.export.export(files.model.raised, (X[:1],))
        torch.onnx.export(program, dynamo=True, verbose=False).save(tmp_path / "fixed.onnx")  # type: ignore[union-attr]  # it is given
    _, missing = files.verify(MadeFile("onnxruntime", tmp_path / "fixed.onnx"))
    assert missing.labels == ["missing"]


def test_one_that_misses_the_target_is_told_so(files: Files) -> None:
    """Labels are what the float model answers: the one that clips answers otherwise."""
    with torch.no_grad():
        labels = files.model.raised(X)[0].argmax(1)
    _, wrong = files.verify(MadeFile("onnxruntime", files.clipped), labels=labels)
    assert "accuracy_not_met" in wrong.labels


def test_a_torch_artifact_that_does_not_come_back_is_our_fault(files: Files, tmp_path: Path) -> None:
    broken = tmp_path / "model_int8.pt"
    torch.jit.save(torch.jit.trace(nn.Linear(7, 2), torch.zeros(1, 7)), broken)
    yardstick = Yardstick(InMemorySamples((X,)), "evaluation", None, None)
    with pytest.raises(InternalError, match="does not run in a fresh process"):
        verify(
            files.model, [MadeFile("torch", broken)], yardstick,
            qengine=files.qengine, batch_size=1, threads=1, advance=lambda done, total: None,
        )  # fmt: skip


def test_layers_that_only_this_runtime_computes_in_float_are_named(tmp_path: Path, make_folder: MakeFolder) -> None:
    """ONNX Runtime has no int8 kernel for transposed convolutions."""
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ConvTranspose2d(8, 3, 2, stride=2))
    export(network, (X[:2],), tmp_path / "model.pt2")
    runtimes = ["torch", "onnxruntime"]
    data = {"calibration": {"input": X.numpy()}}
    report = recipes.run(make_folder(tmp_path / "model.pt2", "static", data, runtimes=runtimes), lambda _: None)
    [note] = [each.note for each in report.artifacts if each.runtime == "onnxruntime"]
    assert note is not None
    assert note.startswith("The runtime computes 1 of 2 operators with weights in float (layer 1), and torch 0.")


def test_a_file_that_is_far_from_what_torch_computes_is_wrong_whatever_its_arg_max_says() -> None:
    def fidelity(sqnr_db: float) -> list[OutputFidelity]:
        return [OutputFidelity(output="y", sqnr_db=sqnr_db, cosine=0.9, agreement=1.0)]

    assert verifying.lost_db(fidelity(6.0), fidelity(40.0)) == 34.0
    assert verifying.lost_db(fidelity(15.0), fidelity(40.0)) == 0.0
