"""Benchmarks from folder to report, in every runtime that is installed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from shared.errors import DataRequired, ModelFailed, ModelUnsupported, RuntimeNotInstalled
from tests.unit.worker.benchmarks import (
    benchmark_folder,
    export_onnx,
    forms,
    made,
    run,
    uploaded,
)
from tests.unit.worker.conftest import Digits, export
from worker import recipes
from worker.benchmarking import export_forms, make_forms, verify_forms
from worker.job_folder import JobFolder
from worker.outputs import MODEL_NAMES, complete_outputs
from worker.runtimes import Session
from worker.steps import contenders, slow_models
from worker.steps import export as exporting
from worker.steps.candidates import Form, Opener
from worker.steps.contenders import has_bf16

IN_TORCH = {"eager", "channels_last", "frozen"}
IN_ALL = IN_TORCH | {"onnxruntime", "openvino"} | ({"openvino_bf16"} if has_bf16() else set())


@pytest.fixture(scope="session")
def quantized(digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> JobFolder:
    """The folder of a static job of the digits network, done for every runtime."""
    from shutil import copy

    from safetensors.numpy import save_file

    from shared.quantization_spec import spec_adapter
    from tests.unit.worker.conftest import MODEL_ID, dataset_id
    from worker.job_folder import JobInputs

    folder = JobFolder(tmp_path_factory.mktemp("quantized"))
    spec = {
        "method": "static",
        "model": MODEL_ID,
        "calibration": dataset_id("calibration"),
        "benchmark": {"max_seconds": 0.02},
    }
    folder.create(
        JobInputs(
            job_id="job_0123456789abcdef", spec=spec_adapter.validate_python(spec),
            datasets={"calibration": "calibration.safetensors"}, threads=1,
        )
    )  # fmt: skip
    copy(digits.program, folder.model)
    save_file({"x": digits.training_x[:200]}, folder.inputs / "calibration.safetensors")
    recipes.run(folder, lambda _: None)
    return folder


def of_artifacts() -> set[str]:
    found = {f"{name}/{runtime}" for runtime, name in MODEL_NAMES.items()}
    return found | ({f"{MODEL_NAMES['openvino']}/openvino_bf16"} if has_bf16() else set())


def test_yours_ours_and_an_uploaded_file_are_measured_at_once(
    digits: Digits, quantized: JobFolder, tmp_path: Path
) -> None:
    path = export_onnx(digits.model, (torch.from_numpy(digits.evaluation_x[:2]),), tmp_path / "other.onnx")
    yours = uploaded(digits.program, "yours")
    ours = [made(quantized.outputs / name, runtime, yours[1]) for runtime, name in MODEL_NAMES.items()]
    data = {"x": digits.evaluation_x, "labels": digits.evaluation_y}
    folder = benchmark_folder(tmp_path / "job", yours, *ours, uploaded(path, "file"), data=data)
    report = run(folder)

    found = forms(report)
    assert set(found) == {
        *(f"yours/{kind}" for kind in IN_ALL),
        *of_artifacts(),
        *(f"file/{kind}" for kind in IN_ALL - IN_TORCH),
    }  # fmt: skip
    assert {name: form.labels for name, form in found.items() if form.labels} == {}
    assert (report.reference, report.data, report.samples) == ("yours/eager", "evaluation", 500)
    for name, form in found.items():
        assert form.quality is not None
        assert form.quality.metric is not None
        assert form.quality.metric.name == "top1"
        assert (form.load is None) == (name in {"yours/eager", "yours/channels_last"})
    reference = found["yours/eager"].quality
    assert reference is not None
    assert reference.metric is not None
    assert reference.metric.value == reference.metric.reference > 0.9
    assert reference.fidelity[0].sqnr_db is None, "it equals itself"
    int8 = found["model_int8.pt/torch"].quality
    assert int8 is not None
    assert 20 < (int8.fidelity[0].sqnr_db or 0) < 60, "int8 is near the float model, and not it"
    assert found["model_int8.pt/torch"].int8_operators > 0

    [result] = report.latency
    assert {each.name for each in result.candidates} == set(found)
    assert result.baseline.startswith("yours/")
    p50 = {each.name: each.p50_ms for each in result.candidates}
    assert result.fastest == report.fastest == min(p50, key=lambda name: p50[name])
    assert {each.name for each in result.speedups} == set(found) - {result.baseline}
    for each in result.speedups:
        assert each.speedup == pytest.approx(p50[result.baseline] / p50[each.name])
        low, high = each.speedup_ci95
        assert low < each.speedup < high
        assert each.significant == (low > 1 or high < 1)
    assert [sorted(path.name for path in folder.outputs.iterdir())] == [["report.json"]]
    assert report.spec["runtimes"] == ["torch", "onnxruntime", "openvino"]
    assert report.spec["metric"] == "top1"
    assert report.spec == json.loads((folder.outputs / "report.json").read_bytes())["spec"]

    artifacts = complete_outputs(folder.outputs, report, job_id="job_0123456789abcdef")
    assert [each.name for each in artifacts] == ["report.html", "report.json", "SHA256SUMS"]


def test_one_candidate_alone_is_measured_in_all_its_forms(digits: Digits, tmp_path: Path) -> None:
    report = run(benchmark_folder(tmp_path / "job", uploaded(digits.program, "yours")))
    assert {form.kind for form in report.candidates[0].forms} == IN_ALL
    assert report.latency[0].baseline == report.fastest
    assert (report.data, {each.code for each in report.warnings}) == ("synthetic", {"synthetic_data"})


def test_one_form_alone_is_measured_against_nothing(digits: Digits, tmp_path: Path) -> None:
    path = export_onnx(digits.model, (torch.from_numpy(digits.evaluation_x[:2]),), tmp_path / "net.onnx")
    report = run(benchmark_folder(tmp_path / "job", uploaded(path, "file"), runtimes=["onnxruntime"]))
    assert list(forms(report)) == ["file/onnxruntime"]
    assert report.latency[0].speedups == []
    assert report.conclusion.startswith("file in ONNX Runtime was measured alone: ")


def test_an_artifact_alone_is_measured_in_the_runtime_that_it_was_made_for(
    digits: Digits, quantized: JobFolder, tmp_path: Path
) -> None:
    like = uploaded(digits.program, "yours")[1]
    for runtime, name in MODEL_NAMES.items():
        report = run(benchmark_folder(tmp_path / runtime, made(quantized.outputs / name, runtime, like)))
        assert set(forms(report)) == {form for form in of_artifacts() if form.startswith(f"{name}/")}
        assert forms(report)[report.fastest].int8_operators > 0


def test_what_a_runtime_refuses_is_missing_with_the_reason_and_the_others_are_measured(
    digits: Digits, tmp_path: Path
) -> None:
    """An operator that no runtime has, in a file that is sound; and a .pt2 that ONNX has no words for."""
    import onnx

    path = export_onnx(digits.model, (torch.from_numpy(digits.evaluation_x[:2]),), tmp_path / "net.onnx")
    strange = onnx.load(path)
    strange.graph.node[0].op_type = "Konv"
    onnx.save(strange, tmp_path / "strange.onnx")

    class WithoutOnnx(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.eigvals(x[:, 0]).abs().repeat(1, 2)[:, :10]

    export(WithoutOnnx(), (torch.from_numpy(digits.evaluation_x[:2]),), tmp_path / "without.pt2")
    report = run(
        benchmark_folder(
            tmp_path / "job",
            uploaded(digits.program, "yours"),
            uploaded(tmp_path / "strange.onnx", "strange"),
            uploaded(tmp_path / "without.pt2", "without"),
        )
    )
    found = forms(report)
    for kind in IN_ALL - IN_TORCH:
        assert found[f"strange/{kind}"].labels == ["missing"]
        assert "does not take strange: " in str(found[f"strange/{kind}"].note)
        assert str(tmp_path) not in str(found[f"strange/{kind}"].note), "where it lies on the node is nobody's business"
        assert found[f"without/{kind}"].labels == ["missing"]
        assert "aten.linalg_eig" in str(found[f"without/{kind}"].note)
    assert found["without/eager"].labels == ["differs"]
    assert {each.name for each in report.latency[0].candidates} == {
        *(f"yours/{kind}" for kind in IN_ALL), "without/eager", "without/frozen",
    }  # fmt: skip


def test_a_first_candidate_that_runs_nowhere_fails_the_job(digits: Digits, tmp_path: Path) -> None:
    import onnx

    path = export_onnx(digits.model, (torch.from_numpy(digits.evaluation_x[:2]),), tmp_path / "net.onnx")
    strange = onnx.load(path)
    strange.graph.node[0].op_type = "Konv"
    onnx.save(strange, tmp_path / "strange.onnx")
    with pytest.raises(ModelFailed, match=r"does not run: .*Konv") as raised:
        run(benchmark_folder(tmp_path / "job", uploaded(tmp_path / "strange.onnx", "strange")))
    assert str(tmp_path) not in raised.value.message


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 8)
        self.rest = nn.Linear(12, 5)

    def forward(self, tokens: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        return self.rest(torch.cat([self.embedding(tokens).mean(1), numbers], 1))


class Swapped(nn.Module):
    def __init__(self, inner: TwoInputs) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, numbers: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        return self.inner(tokens.long(), numbers)


@pytest.fixture
def two_inputs() -> TwoInputs:
    torch.manual_seed(0)
    return TwoInputs().eval()


TOKENS, NUMBERS = torch.arange(12).reshape(2, 6), torch.randn(2, 4)


def test_inputs_in_another_order_and_of_another_width_are_fed_by_name(two_inputs: TwoInputs, tmp_path: Path) -> None:
    export(two_inputs, (TOKENS, NUMBERS), tmp_path / "yours.pt2")
    path = export_onnx(Swapped(two_inputs), (NUMBERS, TOKENS.int()), tmp_path / "swapped.onnx")
    report = run(
        benchmark_folder(tmp_path / "job", uploaded(tmp_path / "yours.pt2", "yours"), uploaded(path, "swapped"))
    )
    for kind in IN_ALL - IN_TORCH - {"openvino_bf16"}:
        form = forms(report)[f"swapped/{kind}"]
        assert form.labels == [], form.note
        assert form.quality is not None
        assert (form.quality.fidelity[0].sqnr_db or 999) > 60


def test_inputs_of_other_names_are_fed_by_position(two_inputs: TwoInputs, tmp_path: Path) -> None:
    export(two_inputs, (TOKENS, NUMBERS), tmp_path / "yours.pt2")
    path = export_onnx(two_inputs, (TOKENS, NUMBERS), tmp_path / "named.onnx", input_names=["a", "b"])
    data = {"tokens": TOKENS.repeat(8, 1).numpy(), "numbers": NUMBERS.repeat(8, 1).numpy()}
    report = run(
        benchmark_folder(
            tmp_path / "job", uploaded(tmp_path / "yours.pt2", "yours"), uploaded(path, "named"), data=data
        )
    )
    assert {name for name, form in forms(report).items() if form.labels} == set()


def test_a_form_that_fails_on_a_later_sample_is_missing_and_costs_the_others_nothing(
    two_inputs: TwoInputs, tmp_path: Path
) -> None:
    """Its table is smaller: the first samples are looked up, the last are not."""
    smaller = TwoInputs()
    smaller.embedding = nn.Embedding(20, 8)
    export(two_inputs, (TOKENS, NUMBERS), tmp_path / "yours.pt2")
    export(smaller, (TOKENS, NUMBERS), tmp_path / "smaller.pt2")
    tokens = TOKENS.repeat(20, 1)
    tokens[-1] = 40
    data = {"tokens": tokens.numpy(), "numbers": NUMBERS.repeat(20, 1).numpy()}
    both = [uploaded(tmp_path / f"{name}.pt2", name) for name in ("yours", "smaller")]
    report = run(benchmark_folder(tmp_path / "job", *both, data=data, runtimes=["torch", "onnxruntime"]))
    found = forms(report)
    for kind in ("eager", "frozen", "onnxruntime"):
        assert found[f"smaller/{kind}"].labels == ["missing"]
        assert found[f"yours/{kind}"].labels == []
    assert "index" in str(found["smaller/eager"].note)


def test_a_reference_that_fails_on_the_data_fails_the_job_and_says_so(two_inputs: TwoInputs, tmp_path: Path) -> None:
    export(two_inputs, (TOKENS, NUMBERS), tmp_path / "yours.pt2")
    tokens = TOKENS.repeat(20, 1)
    tokens[-1] = 99
    data = {"tokens": tokens.numpy(), "numbers": NUMBERS.repeat(20, 1).numpy()}
    with pytest.raises(ModelFailed, match=r"yours/eager, which all are held against: The model raised on inputs"):
        run(benchmark_folder(tmp_path / "job", uploaded(tmp_path / "yours.pt2", "yours"), data=data))


def test_where_memory_is_short_one_form_of_each_candidate_is_measured(
    digits: Digits, quantized: JobFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contenders, "_free_bytes", lambda: 0)
    yours = uploaded(digits.program, "yours")
    ours = made(quantized.outputs / "model_int8.pt", "torch", yours[1])
    report = run(benchmark_folder(tmp_path / "job", yours, ours, runtimes=["torch"]))
    assert {each.name for each in report.latency[0].candidates} == {"yours/eager", "model_int8.pt/torch"}
    left_out = [each.message for each in report.warnings if each.code == "form_left_out"]
    assert left_out == [
        f"yours/{kind} is not measured: memory is short for it." for kind in ("frozen", "channels_last")
    ]
    assert forms(report)["yours/frozen"].labels == [], "it is verified all the same"


def test_what_was_uploaded_is_inspected_again_and_what_a_job_made_is_not(
    digits: Digits, quantized: JobFolder, tmp_path: Path
) -> None:
    yours = uploaded(digits.program, "yours")
    folder = benchmark_folder(tmp_path / "job", yours, made(quantized.outputs / "model_int8.pt", "torch", yours[1]))
    assert folder.uploads == [folder.inputs / "candidate-0.pt2"]
    assert quantized.uploads == [quantized.model]


def test_a_fixed_batch_of_one_candidate_is_what_all_are_measured_at(digits: Digits, tmp_path: Path) -> None:
    path = export_onnx(
        digits.model, (torch.from_numpy(digits.evaluation_x[:4]),), tmp_path / "four.onnx", dynamic_shapes=None
    )
    assert uploaded(path, "four")[1].inputs[0].shape[0] == 4
    data = {"x": digits.evaluation_x[:50], "labels": digits.evaluation_y[:50]}
    report = run(
        benchmark_folder(tmp_path / "job", uploaded(digits.program, "yours"), uploaded(path, "four"), data=data)
    )
    assert [result.batch_size for result in report.latency] == [4]
    assert {"fixed_batch", "batch_size_not_taken"} <= {each.code for each in report.warnings}
    assert {name for name, form in forms(report).items() if form.labels} == set()


def test_an_artifact_that_computes_something_else_than_where_it_was_made_is_wrong(
    digits: Digits, quantized: JobFolder, tmp_path: Path
) -> None:
    """Its weights were scaled since, as kernels that saturate would: what it was worth is known from its report."""
    import onnx
    from onnx import numpy_helper

    from shared.job_report import OutputFidelity

    whole = onnx.load(quantized.outputs / "model_int8.onnx")
    of_channels = [each for each in whole.graph.initializer if list(each.dims) == [16] and each.data_type == 1]
    for each in of_channels:  # scales and biases of the second convolution
        each.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(each)[::-1] * 3, each.name))
    onnx.save(whole, tmp_path / "model_int8.onnx")
    yours = uploaded(digits.program, "yours")
    expected = [OutputFidelity(output="output", sqnr_db=31.0, cosine=0.999, agreement=0.998)]
    right = made(quantized.outputs / "model_int8.onnx", "onnxruntime", yours[1], name="right", expected=expected)
    wrong = made(tmp_path / "model_int8.onnx", "onnxruntime", yours[1], name="wrong", expected=expected)
    data = {"x": digits.evaluation_x}
    report = run(benchmark_folder(tmp_path / "job", yours, right, wrong, data=data, runtimes=["torch", "onnxruntime"]))
    assert forms(report)["right/onnxruntime"].labels == []
    assert forms(report)["wrong/onnxruntime"].labels == ["wrong"]
    assert "further from yours/eager than it should be" in str(forms(report)["wrong/onnxruntime"].note)
    assert not report.fastest.startswith("wrong/")


def test_runtimes_narrow_what_is_measured(digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = run(benchmark_folder(tmp_path / "torch", uploaded(digits.program, "yours"), runtimes=["torch"]))
    assert {form.kind for form in report.candidates[0].forms} == IN_TORCH
    path = export_onnx(digits.model, (torch.from_numpy(digits.evaluation_x[:2]),), tmp_path / "net.onnx")
    with pytest.raises(ModelUnsupported, match="file runs in none of the runtimes"):
        run(benchmark_folder(tmp_path / "none", uploaded(path, "file"), runtimes=["torch"]))
    monkeypatch.setattr(exporting, "installed_runtimes", lambda: {"torch": "2.13.0"})
    with pytest.raises(RuntimeNotInstalled, match="has torch, and not openvino"):
        run(benchmark_folder(tmp_path / "absent", uploaded(digits.program, "yours"), runtimes=["openvino"]))


def test_an_artifact_whose_runtime_is_not_there_costs_the_others_nothing(
    digits: Digits, quantized: JobFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a node of `measure_on` that has fewer runtimes than the one that quantized."""
    yours = uploaded(digits.program, "yours")
    given = [yours, *(made(quantized.outputs / MODEL_NAMES[name], name, yours[1]) for name in ("torch", "openvino"))]
    monkeypatch.setattr(exporting, "installed_runtimes", lambda: {"torch": "2.13.0"})
    report = run(benchmark_folder(tmp_path / "job", *given))
    absent = forms(report)["model_int8.openvino.onnx/openvino"]
    assert (absent.labels, absent.note) == (["missing"], "This worker does not have OpenVINO.")
    assert {"yours/eager", "model_int8.pt/torch"} <= {each.name for each in report.latency[0].candidates}
    with pytest.raises(ModelUnsupported, match="runs in none of the runtimes"):
        run(benchmark_folder(tmp_path / "asked", *given, runtimes=["torch"]))


def test_of_a_slow_model_each_candidate_is_measured_in_its_fastest_form(
    digits: Digits, quantized: JobFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slow_models, "_SLOW_SECONDS", 0.0)
    yours = uploaded(digits.program, "yours")
    ours = made(quantized.outputs / "model_int8.pt", "torch", yours[1])
    report = run(benchmark_folder(tmp_path / "job", yours, ours))
    [first, second] = report.latency[0].candidates
    assert first.name.startswith("yours/")
    assert second.name == "model_int8.pt/torch"
    assert {form.kind for form in report.candidates[0].forms} == IN_ALL, "all are verified"
    assert "slow_model" in {each.code for each in report.warnings}


def test_the_cold_start_of_the_reference_is_cold(
    digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opened once before, it would find its runtime imported."""
    opened: list[str] = []

    def note(opener: Opener, form: Form, threads: int) -> Session:
        opened.append(form.name)
        return really(opener, form, threads)

    really = Opener.open
    monkeypatch.setattr(Opener, "open", note)
    path = export_onnx(digits.model, (torch.from_numpy(digits.evaluation_x[:2]),), tmp_path / "net.onnx")
    folder = benchmark_folder(tmp_path / "job", uploaded(path, "file"), runtimes=["onnxruntime"])
    for stage in (make_forms, export_forms, verify_forms):
        stage(folder, lambda _: None)
    assert opened == ["file/onnxruntime"] * 3, "cold, warm, and once more for its peak"


def test_open_sizes_need_data(two_inputs: TwoInputs, tmp_path: Path) -> None:
    dynamic = torch.export.Dim.DYNAMIC
    path = export_onnx(
        two_inputs, (TOKENS, NUMBERS), tmp_path / "open.onnx", dynamic_shapes=({0: dynamic, 1: dynamic}, {0: dynamic})
    )  # fmt: skip
    with pytest.raises(DataRequired, match="'tokens', int64"):
        run(benchmark_folder(tmp_path / "without", uploaded(path, "file")))
    data = {"tokens": TOKENS.repeat(4, 1).numpy(), "numbers": NUMBERS.repeat(4, 1).numpy()}
    assert run(benchmark_folder(tmp_path / "with", uploaded(path, "file"), data=data)).samples == 8
