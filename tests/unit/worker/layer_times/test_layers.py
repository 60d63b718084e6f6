"""Jobs on small networks in every runtime: each layer has its time, under the name that the user gave it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from shared.job_report import JobReport
from shared.layer_times import LayerTimes
from shared.quantization_spec import spec_adapter
from tests.unit.worker.conftest import MODEL_ID, dataset_id, export
from tests.unit.worker.layer_times.networks import Attention, Island, Recurrent, Residual
from worker import recipes
from worker.job_folder import JobFolder, JobInputs

SHAPES = "reshape", "transpose", "permute", "view", "squeeze", "unsqueeze", "select"


def image(channels: int) -> dict[str, Tensor]:
    return {"x": torch.randn(16, channels, 12, 12)}


Case = tuple[str, Callable[[], nn.Module], Callable[[], dict[str, Tensor]], dict[str, Any]]
CASES: list[Case] = [
    ("residual", Residual, lambda: image(3), {"method": "static"}),
    (
        "island",
        Island,
        lambda: image(8),
        {"method": "static", "overrides": [{"layer": "island", "precision": "float32"}]},
    ),
    (
        "attention",
        Attention,
        lambda: {"tokens": torch.randint(0, 40, (16, 12)), "features": torch.randn(16, 12, 8)},
        {"method": "static"},
    ),
    ("recurrent", Recurrent, lambda: {"x": torch.randn(16, 6, 16)}, {"method": "dynamic"}),
]


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, JobReport]:
    return {case[0]: reported(tmp_path_factory.mktemp(case[0]), *case[1:]) for case in CASES}


def reported(
    root: Path, network: Callable[[], nn.Module], make: Callable[[], dict[str, Tensor]], spec: dict[str, Any]
) -> JobReport:
    torch.manual_seed(0)
    arrays = make()
    export(network(), tuple(each[:2] for each in arrays.values()), root / "model.pt2")
    role = "calibration" if spec["method"] == "static" else "evaluation"
    wanted = {"model": MODEL_ID, "benchmark": {"max_seconds": 0.02}, role: dataset_id(role)} | spec
    folder = JobFolder(root / "job")
    folder.create(
        JobInputs(
            job_id="job_0123456789abcdef",
            spec=spec_adapter.validate_python(wanted),
            datasets={role: f"{role}.safetensors"},
            threads=1,
        )
    )
    shutil.copy(root / "model.pt2", folder.model)
    save_file(arrays, folder.inputs / f"{role}.safetensors")
    return recipes.run(folder, lambda _: None)


def times_in(report: JobReport, runtime: str) -> LayerTimes:
    [found] = [each for each in report.layer_times if each.int8_candidate == f"int8_{runtime}"]
    return found


def rows(times: LayerTimes) -> dict[str, set[str]]:
    return {each.layer: set(each.together) for each in times.layers}


ALL = [
    (name, runtime) for name in ("residual", "island", "attention") for runtime in ("torch", "onnxruntime", "openvino")
]
ALL += [("recurrent", "torch"), ("recurrent", "onnxruntime")]


@pytest.mark.parametrize(("name", "runtime"), ALL)
def test_every_layer_stands_in_one_row_under_its_own_name(
    reports: dict[str, JobReport], name: str, runtime: str
) -> None:
    report = reports[name]
    found = [layer for row, others in rows(times_in(report, runtime)).items() for layer in (row, *others)]
    assert sorted(found) == sorted(layer.name for layer in report.layers)


@pytest.mark.parametrize(("name", "runtime"), ALL)
def test_what_is_left_over_are_operators_that_compute_nothing(
    reports: dict[str, JobReport], name: str, runtime: str
) -> None:
    known = {"Split", "Concat", "Gather", "Shape", "Slice", "Cast", "Convert", "Expand", "Int", "size", "contiguous",
             "unflatten", "mul", "to"}  # fmt: skip
    others = {each.op for each in times_in(reports[name], runtime).others}
    assert {each for each in others if each not in known and each.lower() not in SHAPES} == set()


@pytest.mark.parametrize(("name", "runtime"), ALL)
def test_the_parts_make_up_the_whole(reports: dict[str, JobReport], name: str, runtime: str) -> None:
    """That each operator counts once test_attributing.py tells exactly; here openings are timed on a machine in use.

    Medians of sums are no sums of medians, but near them; OpenVINO's counters tell whole microseconds of each.
    """
    times = times_in(reports[name], runtime)
    layers, others = times.layers, times.others
    cut_off_ms = 0.001 * (len(layers) + len(others)) if runtime == "openvino" else 0
    int8_ms = sum(each.int8_ms for each in layers) + sum(each.int8_ms for each in others) + times.boundaries_ms
    assert int8_ms == pytest.approx(times.int8_ms, rel=0.5, abs=cut_off_ms)
    assert sum(each.share for each in times.layers) <= 1.5
    float_ms = sum(each.float_ms for each in layers) + sum(each.float_ms for each in others) + times.float_reorders_ms
    assert float_ms == pytest.approx(times.float_ms, rel=0.5, abs=cut_off_ms)


def test_layers_that_a_runtime_computes_as_one_stand_together(reports: dict[str, JobReport]) -> None:
    """ONNX Runtime adds within the convolution in float alone, OpenVINO in both, torch in neither."""
    report = reports["residual"]
    assert rows(times_in(report, "torch"))["block.second"] == set()
    assert rows(times_in(report, "onnxruntime"))["block.second"] == {"add"}
    assert rows(times_in(report, "openvino"))["block.second"] == {"add"}
    assert rows(times_in(report, "openvino"))["last"] == {"act"}


def test_boundaries_lie_where_the_model_passes_between_int8_and_float(reports: dict[str, JobReport]) -> None:
    found = times_in(reports["island"], "torch").boundaries
    assert [(each.kind, each.producer, each.consumer) for each in found] == [
        ("quantize", "input", "before"),
        ("dequantize", "before", "island"),
        ("quantize", "softplus", "after"),
        ("dequantize", "after", "output"),
    ]


def test_onnx_runtime_reorders_at_the_boundaries_as_well(reports: dict[str, JobReport]) -> None:
    found = {
        (each.kind, each.producer, each.consumer) for each in times_in(reports["island"], "onnxruntime").boundaries
    }
    assert {("dequantize", "before", "island"), ("quantize", "softplus", "after")} <= found
    assert "reorder" in {kind for kind, _, _ in found}


def test_a_dynamic_layer_quantizes_within_itself(reports: dict[str, JobReport]) -> None:
    times = times_in(reports["recurrent"], "torch")
    assert times.boundaries == []
    assert "nothing passes between int8 and float" in times.conclusion


def test_the_verdicts_artifact_comes_first_and_each_says_how_it_was_timed(reports: dict[str, JobReport]) -> None:
    for report in reports.values():
        assert report.layer_times[0].int8_candidate == report.latency[0].int8
        for times in report.layer_times:
            assert (times.batch_size, times.threads) == (report.latency[0].batch_size, report.latency[0].threads)
            assert "undisturbed the whole took" in times.method
            p50s = {each.name: each.p50_ms for each in report.latency[0].candidates}
            assert times.float_p50_ms == p50s[times.float_candidate]
            assert times.int8_p50_ms == p50s[times.int8_candidate]
