"""The three recipes on a network really trained; the report is checked against what the artifacts themselves do."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shared.job_report import JobReport
from tests.unit.worker.conftest import Digits, MakeFolder, export
from worker import recipes
from worker.job_folder import JobFolder
from worker.outputs import complete_outputs
from worker.progress import LogMessage, MetricMessage, ProgressMessage, runner_message_adapter

Message = ProgressMessage | MetricMessage | LogMessage
IN_TORCH_AND_ONNX_RUNTIME = {"torch": "model_int8.pt", "onnxruntime": "model_int8.onnx"}
IN_ALL = {**IN_TORCH_AND_ONNX_RUNTIME, "openvino": "model_int8.openvino.onnx"}
MODELS = {"dynamic": IN_TORCH_AND_ONNX_RUNTIME, "static": IN_ALL, "qat": IN_ALL}
EXAMPLES = {
    "torch": "load_example.py", "onnxruntime": "load_example_onnxruntime.py", "openvino": "load_example_openvino.py",
}  # fmt: skip
LEFT_FOR_TORCH = {"handover.pickle", "model_float.pt"}
LEFT_BY_DYNAMIC = {*LEFT_FOR_TORCH, "model_float.onnx", "model_float.onnx.data"}
LEFT_BY_STATIC = {*LEFT_BY_DYNAMIC, "reference.pt2"}
LEFT_IN_SCRATCH = {"dynamic": LEFT_BY_DYNAMIC, "static": LEFT_BY_STATIC, "qat": LEFT_BY_STATIC}


def run(folder: JobFolder) -> tuple[JobReport, list[Message]]:
    messages: list[Message] = []
    return recipes.run(folder, messages.append), messages


def codes(report: JobReport) -> set[str]:
    return {warning.code for warning in report.warnings}


def evaluation(digits: Digits) -> dict[str, Any]:
    return {"x": digits.evaluation_x, "labels": digits.evaluation_y}


def static_data(digits: Digits) -> dict[str, dict[str, Any]]:
    return {"calibration": {"x": digits.training_x[:128]}, "evaluation": evaluation(digits)}


def qat_data(digits: Digits, samples: int = 320) -> dict[str, dict[str, Any]]:
    training = {"x": digits.training_x[:samples], "labels": digits.training_y[:samples]}
    return {"training": training, "evaluation": evaluation(digits)}


@pytest.fixture(params=["dynamic", "static", "qat"])
def finished(
    request: pytest.FixtureRequest, digits: Digits, make_folder: MakeFolder
) -> tuple[JobFolder, JobReport, list[Message]]:
    """Each method run on the digits network."""
    data = {"dynamic": {"evaluation": evaluation(digits)}, "static": static_data(digits), "qat": qat_data(digits)}
    more = {"qat": {"epochs": 2}} if request.param == "qat" else {}
    folder = make_folder(digits.program, request.param, data[request.param], runtimes=None, **more)
    report, messages = run(folder)
    assert {path.name for path in folder.outputs.iterdir()} == {*MODELS[request.param].values(), "report.json"}
    written = json.loads((folder.outputs / "report.json").read_bytes())
    assert report.spec == written["spec"], "what a recipe settles is believed, and nothing else of it"
    complete_outputs(folder.outputs, report, job_id="job_1")
    return folder, report, messages


def test_a_recipe_leaves_a_true_report_and_artifacts_that_run(
    finished: tuple[JobFolder, JobReport, list[Message]], digits: Digits
) -> None:
    """One run a method, then everything about it: a run is what costs time here."""
    folder, report, messages = finished
    assert JobReport.model_validate_json((folder.outputs / "report.json").read_bytes()) == report
    check_quality(folder, report, digits)
    check_artifacts(report)
    check_sizes_and_manifest(folder, report)
    check_examples(folder)
    check_latency(report)
    check_progress(messages, report)
    assert report.environment.qengine in torch.backends.quantized.supported_engines
    assert report.spec["model"] == "mdl_0123456789abcdef"
    assert report.spec["metric"] == "top1"
    assert {path.name for path in folder.tmp.iterdir()} == LEFT_IN_SCRATCH[report.method]


def check_quality(folder: JobFolder, report: JobReport, digits: Digits) -> None:
    """Top-1, SQNR and agreement are what the artifact gives when it is loaded and run on the data here."""
    x, y = torch.from_numpy(digits.evaluation_x), torch.from_numpy(digits.evaluation_y)
    int8 = torch.jit.load(folder.outputs / "model_int8.pt")
    with torch.inference_mode():
        reference = digits.model(x)
        # Dynamic quantization finds the range of each batch: the same batches give the same figures.
        output = torch.cat([int8(part)[0] for part in x.split(32)])
    quality = report.artifacts[0].quality
    assert quality is not None
    assert (quality.data, quality.samples) == ("evaluation", len(x))
    assert quality.metric is not None
    assert quality.metric.int8_value == int((output.argmax(1) == y).sum()) / len(y)
    assert quality.metric.float_value == int((reference.argmax(1) == y).sum()) / len(y)
    assert quality.metric.drop == quality.metric.float_value - quality.metric.int8_value
    assert quality.metric.met == (quality.metric.drop <= 0.01)
    (fidelity,) = quality.fidelity
    assert fidelity.agreement == int((output.argmax(1) == reference.argmax(1)).sum()) / len(y)
    noise = (reference.double() - output.double()).norm()
    assert fidelity.sqnr_db == pytest.approx(20 * float(torch.log10(reference.double().norm() / noise)), abs=0.01)
    assert fidelity.sqnr_db > 20
    assert quality.metric.int8_value > 0.9


def check_artifacts(report: JobReport) -> None:
    """Each computes in int8, as near to float as the torch artifact; the headline is of the fastest of them."""
    made = {each.runtime: each for each in report.artifacts if "missing" not in each.labels}
    assert {runtime: each.name for runtime, each in made.items()} == MODELS[report.method]
    agreements = [each.quality.fidelity[0].agreement for each in made.values() if each.quality is not None]
    assert len(agreements) == len(made)
    assert min(agreements) > 0.97
    assert all(each.int8_operators for each in made.values())
    assert all(set(each.labels) <= {"slower"} for each in made.values())
    if report.method == "dynamic":
        (missing,) = (each for each in report.artifacts if each.labels == ["missing"])
        assert "OpenVINO has no kernels" in (missing.note or "")
    best = made[report.latency[0].int8.removeprefix("int8_")]
    assert report.quality == best.quality
    assert report.recommended == (best.name if report.verdict.word == "recommended" else None)


def check_sizes_and_manifest(folder: JobFolder, report: JobReport) -> None:
    names = {path.name for path in folder.outputs.iterdir()}
    made = {each.runtime: each for each in report.artifacts if "missing" not in each.labels}
    examples = {EXAMPLES[runtime] for runtime in made}
    assert names == {*(each.name for each in made.values()), *examples, "report.json", "report.html", "SHA256SUMS"}
    lines = (folder.outputs / "SHA256SUMS").read_text().splitlines()
    assert {line.split("  ")[1] for line in lines} == names - {"SHA256SUMS"}
    for line in lines:
        digest, name = line.split("  ")
        assert hashlib.sha256((folder.outputs / name).read_bytes()).hexdigest() == digest
    assert all(each.size_bytes == (folder.outputs / each.name).stat().st_size for each in made.values())
    assert report.size.int8_bytes == made[report.latency[0].int8.removeprefix("int8_")].size_bytes
    assert report.size.ratio == report.size.float_bytes / report.size.int8_bytes


def check_examples(folder: JobFolder) -> None:
    """Each runs as it is, from another directory, in an interpreter that imports nothing of ours."""
    for example in folder.outputs.glob("load_example*.py"):
        done = subprocess.run(
            [sys.executable, "-I", "-W", "ignore", example],
            capture_output=True, text=True, check=True, cwd="/", env={"PATH": os.environ["PATH"]},
        )  # fmt: skip
        kind = "torch.float32" if example.name == EXAMPLES["torch"] else "float32"
        assert done.stdout.split(maxsplit=1)[1].strip() == f"(1, 10) {kind}"


def check_latency(report: JobReport) -> None:
    (result,) = report.latency
    assert (result.batch_size, result.threads) == (1, 1)
    names = {candidate.name for candidate in result.candidates}
    others = ["onnxruntime", "openvino"]
    floats = {"float_eager", "float_frozen", "float_channels_last", *(f"float_{name}" for name in others)}
    assert names - {"float_openvino_bf16"} == floats | {f"int8_{runtime}" for runtime in MODELS[report.method]}
    assert ("float_openvino_bf16" in names) == bool({"avx512_bf16", "amx_bf16"} & set(report.environment.isa))
    low, high = result.speedup_ci95
    assert low <= result.speedup <= high


def check_progress(messages: list[Message], report: JobReport) -> None:
    progress = [message for message in messages if isinstance(message, ProgressMessage)]
    fractions = [message.fraction for message in progress]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0, pytest.approx(1))
    steps = list(dict.fromkeys(message.step.value for message in progress))
    assert steps == list(report.timings)
    expected = {
        "dynamic": ["load", "convert", "evaluate"],
        "static": ["load", "prepare", "calibrate", "convert", "evaluate"],
        "qat": ["load", "prepare", "calibrate", "train", "convert", "evaluate"],
    }
    assert steps == [*expected[report.method], "analyse", "package", "export", "verify", "benchmark"]


# --- data that is missing or scarce ----------------------------------------------------------------------------------


def test_without_data_dynamic_measures_on_random_inputs_and_says_so(digits: Digits, make_folder: MakeFolder) -> None:
    report, messages = run(make_folder(digits.program, "dynamic", {}))
    assert report.quality.data == "synthetic"
    assert report.quality.metric is None
    assert report.verdict.accuracy == "not_evaluated"
    assert "synthetic_data" in codes(report)
    told = [message.message for message in messages if isinstance(message, LogMessage)]
    assert any("random inputs" in text for text in told)


def test_random_tokens_stay_within_the_embedding(make_folder: MakeFolder, tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Embedding(3, 4), torch.nn.Flatten(), torch.nn.Linear(12, 2))
    export(model, (torch.zeros(2, 3, dtype=torch.int64),), tmp_path / "tokens.pt2")
    report, _ = run(make_folder(tmp_path / "tokens.pt2", "dynamic", {}))
    assert report.quality.data == "synthetic"


def test_without_evaluation_the_calibration_data_is_used_and_told(digits: Digits, make_folder: MakeFolder) -> None:
    report, _ = run(make_folder(digits.program, "static", {"calibration": {"x": digits.training_x[:20]}}))
    assert (report.quality.data, report.quality.samples) == ("calibration", 20)
    assert {"not_held_out", "few_calibration_samples"} <= codes(report)


def test_evaluation_without_labels_gives_fidelity_alone(digits: Digits, make_folder: MakeFolder) -> None:
    report, _ = run(make_folder(digits.program, "dynamic", {"evaluation": {"x": digits.evaluation_x[:50]}}))
    assert report.quality.metric is None
    assert report.quality.fidelity[0].agreement is not None
    assert "no_labels" in codes(report)


def test_labels_that_fit_no_metric_are_left_out_and_told(digits: Digits, make_folder: MakeFolder) -> None:
    data = {"evaluation": {"x": digits.evaluation_x[:8], "labels": np.zeros((8, 3), np.float32)}}
    report, _ = run(make_folder(digits.program, "dynamic", data))
    assert report.quality.metric is None
    assert "labels_unused" in codes(report)


def test_doubles_are_converted_and_told(digits: Digits, make_folder: MakeFolder) -> None:
    data = {"evaluation": {"x": digits.evaluation_x[:50].astype(np.float64)}}
    report, _ = run(make_folder(digits.program, "dynamic", data))
    (cast,) = [warning for warning in report.warnings if warning.code == "dataset_cast"]
    assert cast.message == "Evaluation data is converted: x from float64 to float32."


def test_a_compressed_npz_gives_the_same_quality(digits: Digits, make_folder: MakeFolder) -> None:
    folder = make_folder(digits.program, "static", static_data(digits))
    expected, _ = run(folder)
    again = make_folder(digits.program, "static", static_data(digits))
    for role, arrays in static_data(digits).items():
        np.savez_compressed((again.inputs / f"{role}.safetensors").open("wb"), **arrays)
    found, _ = run(again)
    assert found.quality == expected.quality


# --- batch sizes -----------------------------------------------------------------------------------------------------


def test_a_fixed_batch_is_filled_up_and_measured_at_what_it_takes(
    digits: Digits, make_folder: MakeFolder, tmp_path: Path
) -> None:
    """50 samples through a model exported at batch 4: the figures are those of the model with a free batch."""
    export(digits.model, (torch.from_numpy(digits.training_x[:4]),), tmp_path / "fixed.pt2", dynamic=False)
    data = {
        "calibration": {"x": digits.training_x[:64]},
        "evaluation": {"x": digits.evaluation_x[:50], "labels": digits.evaluation_y[:50]},
    }
    free, _ = run(make_folder(digits.program, "static", data))
    fixed, _ = run(make_folder(tmp_path / "fixed.pt2", "static", data, benchmark={"batch_sizes": [1, 4]}))
    assert fixed.quality.samples == 50
    assert fixed.quality.metric is not None
    assert free.quality.metric is not None
    assert fixed.quality.metric.float_value == free.quality.metric.float_value
    (result,) = fixed.latency
    assert result.batch_size == 4
    assert "fixed_batch" in codes(fixed)
    assert any("A batch of 1 is not taken" in warning.message for warning in fixed.warnings)


def test_every_batch_size_is_measured_with_every_thread_count(digits: Digits, make_folder: MakeFolder) -> None:
    report, _ = run(make_folder(digits.program, "dynamic", {}, benchmark={"batch_sizes": [1, 3], "threads": [1, 2]}))
    assert [(result.batch_size, result.threads) for result in report.latency] == [(1, 1), (1, 2), (3, 1), (3, 2)]


# --- training --------------------------------------------------------------------------------------------------------


def test_training_tells_loss_and_metric_of_each_epoch(digits: Digits, make_folder: MakeFolder) -> None:
    report, messages = run(make_folder(digits.program, "qat", qat_data(digits), qat={"epochs": 3}))
    assert report.training is not None
    assert report.training.loss == "cross_entropy"
    assert report.spec["qat"]["loss"] == "cross_entropy"
    assert [epoch.epoch for epoch in report.training.epochs] == [1, 2, 3]
    told = [message.data for message in messages if isinstance(message, MetricMessage)]
    assert [data["name"] for data in told] == ["loss", "top1", "sqnr_db"] * 3 + ["float_loss", "float_top1"] * 3
    assert [data["value"] for data in told if data["name"] == "loss"] == [
        epoch.loss for epoch in report.training.epochs
    ]
    assert report.training.epochs[-1].loss < report.training.epochs[0].loss


def test_the_static_model_beside_qat_is_what_a_static_job_gives(digits: Digits, make_folder: MakeFolder) -> None:
    """Same calibration, same evaluation: the comparison in the QAT report is the static job's own result."""
    calibration = {"calibration": {"x": digits.training_x[:128]}}
    trained, _ = run(make_folder(digits.program, "qat", qat_data(digits) | calibration, qat={"epochs": 1}))
    static, _ = run(make_folder(digits.program, "static", static_data(digits)))
    assert trained.training is not None
    assert trained.training.static_metric == static.quality.metric
    assert trained.training.static_fidelity == static.quality.fidelity


def test_the_static_model_beside_qat_has_the_rule_that_the_spec_names(digits: Digits, make_folder: MakeFolder) -> None:
    """It may be the model on offer, as it is where training is too slow to change anything."""
    settings = {"epochs": 1, "learning_rate": 1e-9, "compare_with_float": False}
    activation = {"observer": "percentile", "percentile": 99.9}
    report, _ = run(make_folder(digits.program, "qat", qat_data(digits), qat=settings, activation=activation))
    assert report.training is not None
    assert report.training.offered == "static"
    assert report.ranges == []
    assert report.spec["activation"]["observer"] == "percentile"


def test_distillation_needs_no_labels(digits: Digits, make_folder: MakeFolder) -> None:
    data = {"training": {"x": digits.training_x[:320]}, "evaluation": {"x": digits.evaluation_x}}
    report, _ = run(make_folder(digits.program, "qat", data, qat={"epochs": 2, "learning_rate": 1e-3}))
    assert report.training is not None
    assert report.training.loss == "distillation"
    assert report.training.epochs[-1].loss < report.training.epochs[0].loss
    assert all(epoch.metric is None for epoch in report.training.epochs)


def test_the_same_seed_trains_the_same_model(digits: Digits, make_folder: MakeFolder) -> None:
    """Told by what each epoch came to: the model on offer may be the static one, which no seed changes."""

    def trained(seed: int) -> tuple[JobReport, list[tuple[float, float | None]]]:
        report, _ = run(make_folder(digits.program, "qat", qat_data(digits), qat={"epochs": 1}, seed=seed))
        assert report.training is not None
        return report, [(epoch.loss, epoch.sqnr_db) for epoch in report.training.epochs]

    (first, first_epochs), (again, again_epochs), (_, other_epochs) = trained(5), trained(5), trained(6)
    assert first.quality == again.quality
    assert first_epochs == again_epochs != other_epochs


def test_regression_trains_and_evaluates_by_mse(make_folder: MakeFolder, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
    x = torch.randn(96, 4)
    export(model, (x[:2],), tmp_path / "regression.pt2")
    with torch.inference_mode():
        y = model(x)[:, 0]
    data = {"training": {"input": x.numpy(), "labels": y.numpy()}}
    report, _ = run(make_folder(tmp_path / "regression.pt2", "qat", data, qat={"epochs": 2}))
    assert report.training is not None
    assert report.training.loss == "mse"
    assert report.quality.metric is not None
    assert (report.quality.metric.name, report.quality.metric.float_value) == ("mse", pytest.approx(0, abs=1e-9))
    assert 0 < report.quality.metric.int8_value == report.quality.metric.drop < 0.01


@pytest.mark.parametrize("calibrated", [False, True])
def test_a_training_that_diverges_leaves_the_static_model(
    make_folder: MakeFolder, tmp_path: Path, calibrated: bool
) -> None:
    """Labels of 1e18 and a rate of 10: no epoch is finished; the artifact is the static model, and a patch is given."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
    x = torch.randn(96, 4)
    export(model, (x[:2],), tmp_path / "regression.pt2")
    data = {"training": {"input": x.numpy(), "labels": 1e18 * x[:, 0].numpy()}}
    if calibrated:
        data["calibration"] = {"input": x[:64].numpy()}
    folder = make_folder(
        tmp_path / "regression.pt2", "qat", data, qat={"epochs": 50, "learning_rate": 10, "optimizer": "sgd"}
    )
    report, _ = run(folder)
    assert report.training is not None
    assert (report.training.stopped, report.training.offered) == ("diverged", "static")
    assert report.training.best_epoch is None
    assert report.quality.metric == report.training.static_metric
    (warning,) = [warning for warning in report.warnings if warning.code == "training_diverged"]
    assert warning.suggestion is not None
    assert warning.suggestion.patch == {"qat": {"learning_rate": 1e-3}}
    assert {path.name for path in folder.tmp.iterdir()} == LEFT_FOR_TORCH


# --- by hand ---------------------------------------------------------------------------------------------------------


def test_a_recipe_runs_by_hand_and_prints_its_progress(digits: Digits, make_folder: MakeFolder) -> None:
    folder = make_folder(digits.program, "dynamic", {"evaluation": evaluation(digits)})
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "worker.recipes", folder.path],
        capture_output=True, text=True, check=True, env={"PATH": os.environ["PATH"]}, cwd=folder.path,
    )  # fmt: skip
    *lines, sentence = done.stdout.splitlines()
    assert runner_message_adapter.validate_json(lines[0]).step == "load"
    report = JobReport.model_validate_json((folder.outputs / "report.json").read_bytes())
    assert sentence == report.verdict.sentence
    check_sizes_and_manifest(folder, report)
