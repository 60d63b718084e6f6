"""Benchmarks over HTTP: ONNX files are taken, candidates settled when the job is submitted, and wrong ones named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from shared.database.job_repository import JobRepository
from tests.api_server import Api, PretendedWorker, images, npz
from tests.unit.worker.benchmarks import export_onnx

ARTIFACTS = {"model_int8.pt": b"int8", "model_int8.onnx": b"int8 too", "report.json": b"{}"}


@pytest.fixture
def model(api: Api, small_net: Path) -> str:
    return api.add_model(small_net)


@pytest.fixture
def onnx_model(api: Api, tmp_path: Path) -> str:
    return api.add_model(exported(tmp_path / "net.onnx"))


@pytest.fixture
def done(api: Api, model: str) -> str:
    """A job that has succeeded; its report recommends model_int8.onnx."""
    job = api.submit(method="dynamic", model=model, name="mine")
    PretendedWorker(api, job["id"]).succeed(ARTIFACTS)
    return str(job["id"])


def exported(path: Path, shape: tuple[int, ...] = (2, 3, 8, 8), **options: Any) -> Path:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(shape[1], 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return export_onnx(network, (torch.randn(shape),), path, **options)


def refused(api: Api, status: int, *candidates: dict[str, Any], **spec: Any) -> tuple[str, str, str]:
    """Code, pointer and detail of the answer."""
    answer = api.client.post("/v1/jobs", json={"method": "benchmark", "candidates": list(candidates), **spec})
    assert answer.status_code == status, answer.text
    problem = answer.json()
    return problem["code"], problem["errors"][0]["pointer"], problem["errors"][0]["detail"]


def test_an_onnx_file_is_stored_and_described(api: Api, onnx_model: str) -> None:
    found = api.client.get(f"/v1/models/{onnx_model}").json()
    assert (found["kind"], found["format"], found["outputs"]) == ("model", "onnx", 1)
    assert found["inputs"] == [{"name": "input", "shape": [None, 3, 8, 8], "dtype": "float32"}]
    assert found["parameters"] >= 4 * 3 * 9 + 4  # what the exporter adds are sizes


@pytest.mark.parametrize("method", ["dynamic", "static", "qat"])
def test_an_onnx_file_is_not_quantized_and_the_answer_says_what_to_do(api: Api, onnx_model: str, method: str) -> None:
    data = api.add_dataset(npz(input=np.zeros((4, 3, 8, 8), np.float32), labels=np.zeros(4, np.int64)))
    roles = {"static": {"calibration": data}, "qat": {"training": data}}.get(method, {})
    answer = api.client.post("/v1/jobs", json={"method": method, "model": onnx_model, **roles})
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, "model_is_onnx")
    assert [each["pointer"] for each in problem["errors"]] == ["/model"]
    assert "`method: benchmark` measures the file as it is" in problem["hint"]
    assert "torch.export.save" in problem["hint"]


def test_a_damaged_onnx_file_is_refused(api: Api, tmp_path: Path) -> None:
    content = exported(tmp_path / "net.onnx").read_bytes()
    answer = api.client.post("/v1/models", content=content[: len(content) // 2])
    assert (answer.status_code, answer.json()["code"]) == (422, "model_corrupt")


def test_candidates_are_settled_and_echoed(api: Api, model: str, onnx_model: str, done: str) -> None:
    """The recommended artifact is chosen, and every candidate has a name of its own."""
    job = api.submit(
        method="benchmark",
        candidates=[{"model": model}, {"job": done}, {"job": done, "artifact": "model_int8.pt"}, {"model": onnx_model}],
    )
    names = [each["name"] for each in job["spec"]["candidates"]]
    assert names == [model, "mine, model_int8.onnx", "mine, model_int8.pt", onnx_model]
    assert [each["artifact"] for each in job["spec"]["candidates"]] == [None, "model_int8.onnx", "model_int8.pt", None]
    listed = api.client.get("/v1/jobs").json()["data"]
    assert listed[0]["spec"]["method"] == "benchmark"
    with api.database.read() as connection:
        assert JobRepository(connection).get(job["id"]).spec == job["spec"]


def test_the_same_candidate_twice_is_told_apart_and_given_names_are_kept(api: Api, model: str) -> None:
    candidates = [{"model": model}, {"model": model, "name": model}, {"model": model}]
    job = api.submit(method="benchmark", candidates=candidates)
    assert [each["name"] for each in job["spec"]["candidates"]] == [f"{model} (2)", model, f"{model} (3)"]


def test_without_a_recommendation_the_fastest_is_taken(api: Api, model: str) -> None:
    from copy import deepcopy

    from api.examples import SUCCEEDED_JOB

    report = deepcopy(SUCCEEDED_JOB["report"]) | {"recommended": None}
    report["latency"][0]["int8"] = "int8_torch"
    job = api.submit(method="dynamic", model=model)
    worker = PretendedWorker(api, job["id"])
    worker.succeed(ARTIFACTS, report=report)
    settled = api.submit(method="benchmark", candidates=[{"job": job["id"]}])
    assert settled["spec"]["candidates"][0]["artifact"] == "model_int8.pt"


MISSING = "0000000000000000000000"


def test_wrong_ids_are_named_with_a_pointer(api: Api, model: str, done: str) -> None:
    known = {"model": model}
    assert refused(api, 404, known, {"model": f"mdl_{MISSING}"})[:2] == ("not_found", "/candidates/1/model")
    assert refused(api, 404, known, {"job": f"job_{MISSING}"})[:2] == ("not_found", "/candidates/1/job")
    code, pointer, detail = refused(api, 422, known, {"job": done, "artifact": "model_int8.openvino.onnx"})
    assert (code, pointer) == ("no_artifact", "/candidates/1/artifact")
    assert "it has model_int8.pt, model_int8.onnx" in detail
    assert refused(api, 422, {"job": done, "artifact": "report.json"})[:2] == ("no_artifact", "/candidates/0/artifact")
    code, pointer, detail = refused(api, 422, {"model": done})
    assert (code, pointer) == ("wrong_kind", "/candidates/0/model")
    assert "names a job; this field takes a model" in detail
    assert refused(api, 404, known, evaluation=f"dst_{MISSING}")[:2] == ("not_found", "/evaluation")


def test_a_job_that_has_not_succeeded_has_no_artifacts(api: Api, model: str) -> None:
    job = api.submit(method="dynamic", model=model)
    code, pointer, detail = refused(api, 409, {"model": model}, {"job": job["id"]})
    assert (code, pointer) == ("job_not_succeeded", "/candidates/1/job")
    assert "is queued" in detail


def test_a_benchmark_is_no_candidate_of_another(api: Api, model: str) -> None:
    job = api.submit(method="benchmark", candidates=[{"model": model}])
    PretendedWorker(api, job["id"]).succeed({"report.json": b"{}"})
    assert refused(api, 422, {"job": job["id"]})[:2] == ("no_artifact", "/candidates/0/job")


def test_candidates_that_take_other_inputs_are_refused(api: Api, model: str, tmp_path: Path) -> None:
    for shape, told in (((2, 3, 9, 9), "float32 [any, 3, 9, 9]"), ((2, 1, 8, 8), "float32 [any, 1, 8, 8]")):
        other = api.add_model(exported(tmp_path / f"{shape}.onnx", shape))
        code, pointer, detail = refused(api, 422, {"model": model}, {"model": other})
        assert (code, pointer) == ("candidates_mismatch", "/candidates/1")
        assert told in detail
        assert "the first candidate's is float32 [any, 3, 8, 8]" in detail


def test_two_fixed_batches_exclude_each_other(api: Api, model: str, tmp_path: Path) -> None:
    fixed = [api.add_model(exported(tmp_path / f"{n}.onnx", (n, 3, 8, 8), dynamic_shapes=None)) for n in (1, 4)]
    api.submit(method="benchmark", candidates=[{"model": model}, {"model": fixed[1]}])
    code, pointer, _ = refused(api, 422, {"model": model}, {"model": fixed[0]}, {"model": fixed[1]})
    assert (code, pointer) == ("candidates_mismatch", "/candidates/2")


def test_data_must_fit_and_carry_labels_where_a_metric_is_asked_for(api: Api, model: str) -> None:
    wrong = api.add_dataset(npz(x=np.zeros((4, 1, 8, 8), np.float32)))
    assert refused(api, 422, {"model": model}, evaluation=wrong)[:2] == ("dataset_mismatch", "/evaluation")
    unlabelled = api.add_dataset(images())
    code, pointer, _ = refused(api, 422, {"model": model}, evaluation=unlabelled, metric="top1")
    assert (code, pointer) == ("labels_unusable", "/evaluation")
    api.submit(method="benchmark", candidates=[{"model": model}], evaluation=unlabelled)


def test_open_sizes_of_an_onnx_file_need_data(api: Api, tmp_path: Path) -> None:
    dynamic = torch.export.Dim.DYNAMIC
    path = exported(tmp_path / "open.onnx", dynamic_shapes=({0: dynamic, 2: dynamic, 3: dynamic},))
    opened = api.add_model(path)
    assert refused(api, 422, {"model": opened})[:2] == ("data_required", "/evaluation")
    data = api.add_dataset(npz(input=np.zeros((4, 3, 12, 12), np.float32)))
    api.submit(method="benchmark", candidates=[{"model": opened}], evaluation=data)


@pytest.mark.parametrize(
    ("candidates", "pointer", "told"),
    [
        ([], "/candidates", "at least 1 item"),
        ([{"model": f"mdl_{MISSING}"}] * 9, "/candidates", "at most 8 items"),
        ([{}], "/candidates/0", "either a `model` or a `job`"),
        ([{"model": f"mdl_{MISSING}", "job": f"job_{MISSING}"}], "/candidates/0", "either a `model` or a `job`"),
        ([{"model": f"mdl_{MISSING}", "artifact": "model_int8.pt"}], "/candidates/0", "of a `job`"),
        ([{"model": f"mdl_{MISSING}", "name": "a\nb"}], "/candidates/0/name", "one line"),
        ([{"model": f"mdl_{MISSING}", "name": "a"}] * 2, "/candidates", "called 'a'"),
    ],
)
def test_a_spec_that_cannot_be_is_refused(api: Api, candidates: list[Any], pointer: str, told: str) -> None:
    code, found, detail = refused(api, 422, *candidates)
    assert (code, found) == ("spec_invalid", pointer)
    assert told.lower() in detail.lower()


def test_an_object_cannot_be_deleted_while_a_benchmark_needs_it(api: Api, model: str, onnx_model: str) -> None:
    other = api.add_dataset(images())
    job = api.submit(method="benchmark", candidates=[{"model": model}], evaluation=other)
    for path in (f"/v1/models/{model}", f"/v1/datasets/{other}"):
        assert api.client.delete(path).json()["code"] == "object_in_use"
    assert api.client.delete(f"/v1/models/{onnx_model}").status_code == 204
    api.client.post(f"/v1/jobs/{job['id']}/cancel")
    assert api.client.delete(f"/v1/models/{model}").status_code == 204


def test_an_artifact_is_measured_though_its_model_was_deleted(api: Api, model: str, done: str) -> None:
    from api.examples import SUCCEEDED_JOB

    assert SUCCEEDED_JOB["report"]["inputs"], "the example tells what the model takes"
    assert api.client.delete(f"/v1/models/{model}").status_code == 204
    api.submit(method="benchmark", candidates=[{"job": done}])


@pytest.mark.parametrize(
    "inputs",
    [
        [{"name": "x", "dtype": "float32", "shape": [], "greatest": None}],
        [{"name": "x", "dtype": "load", "shape": [1, 3, 8, 8], "greatest": None}],
        [{"name": f"x{number}", "dtype": "float32", "shape": [1], "greatest": None} for number in range(1001)],
        [],
        None,
    ],
)
def test_an_artifact_of_which_nothing_tells_what_it_takes_is_refused(api: Api, model: str, inputs: Any) -> None:
    """Its model is deleted, and the report is one that an older version let pass."""
    from api.examples import SUCCEEDED_JOB

    job = api.submit(method="dynamic", model=model)
    report = {name: value for name, value in SUCCEEDED_JOB["report"].items() if name != "inputs"}
    PretendedWorker(api, job["id"]).succeed(ARTIFACTS, report | ({} if inputs is None else {"inputs": inputs}))
    api.submit(method="benchmark", candidates=[{"job": job["id"]}])
    assert api.client.delete(f"/v1/models/{model}").status_code == 204
    code, pointer, detail = refused(api, 422, {"job": job["id"]})
    assert (code, pointer) == ("no_artifact", "/candidates/0/job")
    assert "its report does not say what its artifacts take" in detail


def test_a_benchmark_is_made_of_another_by_changes_and_suggests_nothing(api: Api, model: str) -> None:
    first = api.submit(method="benchmark", candidates=[{"model": model}])
    changes = {"benchmark": {"batch_sizes": [1, 8]}}
    answer = api.client.post("/v1/jobs", json={"based_on": first["id"], "changes": changes})
    assert answer.status_code == 202
    assert answer.json()["spec"]["benchmark"]["batch_sizes"] == [1, 8]
    assert answer.json()["spec"]["candidates"] == first["spec"]["candidates"]
    answer = api.client.post("/v1/jobs", json={"based_on": first["id"], "apply": [0]})
    assert answer.json()["code"] == "no_report"


def test_the_service_names_the_method_and_counts_it(api: Api, model: str) -> None:
    assert "benchmark" in api.client.get("/v1/meta").json()["methods"]
    job = api.submit(method="benchmark", candidates=[{"model": model}])
    metrics = api.client.get("/metrics").text
    assert 'octavo_jobs{method="benchmark",status="queued"} 1.0' in metrics
    from api.examples import BENCHMARK_JOB

    PretendedWorker(api, job["id"]).succeed({"report.json": b"{}"}, report=BENCHMARK_JOB["report"])
    metrics = api.client.get("/metrics").text
    assert 'octavo_jobs_finished_total{method="benchmark",outcome="succeeded",reason="measured"} 1.0' in metrics
    assert 'octavo_job_speedup_ratio_bucket{le="0.5",method="benchmark"}' not in metrics
