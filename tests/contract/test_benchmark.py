"""Benchmarks by the SDK and by the command, against the real API."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

import octavo
from api.examples import BENCHMARK_JOB
from octavo.cli import main
from tests.api_server import KEY, PretendedWorker
from tests.contract.conftest import Served
from tests.contract.test_client import succeed, working
from tests.hostile.models import SmallNet
from tests.unit.worker.benchmarks import export_onnx

REPORT: dict[str, Any] = BENCHMARK_JOB["report"]
CONCLUSION = "digits in int8, model_int8.onnx in ONNX Runtime is the fastest: 2.00 times as fast as float in ONNX"


def measured(worker: PretendedWorker) -> None:
    worker.progress(0.5, "Measuring latency")
    worker.succeed({"report.json": b"{}"}, report=REPORT)


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    return result


@pytest.fixture
def onnx_file(tmp_path: Path) -> Path:
    return export_onnx(SmallNet(), (torch.randn(2, 3, 8, 8),), tmp_path / "theirs.onnx")


@pytest.fixture
def data_file(tmp_path: Path) -> Path:
    np.savez(tmp_path / "test.npz", x=np.zeros((5, 3, 8, 8), np.float32))
    return tmp_path / "test.npz"


@pytest.fixture
def done(server: Served, small_net: Path) -> str:
    """A job that has made artifacts."""
    with server.client() as client:
        job = client.jobs.quantize(client.models.upload(small_net), "dynamic", name="mine")
        with working(server, job.id, succeed):
            job.wait()
    return job.id


def test_models_files_and_jobs_are_measured_and_the_report_is_typed(
    server: Served, done: str, small_net: Path, onnx_file: Path, data_file: Path
) -> None:
    with server.client() as client:
        model = client.models.upload(small_net)
        job = client.benchmark(
            model, client.jobs.get(done), f"{done}:model_int8.pt", onnx_file, {"model": model.id, "name": "again"},
            evaluation=data_file, runtimes=["torch", "onnxruntime"], benchmark={"batch_sizes": [1, 8]}, seed=3,
            hardware={"isa": ["avx2"]}, metric="auto", name="all", metadata={"a": "b"},
        )  # fmt: skip
        assert [each["name"] for each in job.spec["candidates"]] == [
            "small", "mine, model_int8.onnx", "mine, model_int8.pt", "theirs", "again"
        ]  # fmt: skip
        assert (job.spec["benchmark"]["batch_sizes"], job.spec["seed"], job.name) == ([1, 8], 3, "all")
        assert job.spec["runtimes"] == ["torch", "onnxruntime"]
        assert client.models.get(job.spec["candidates"][3]["model"]).format == "onnx"
        with working(server, job.id, measured):
            report = job.wait().benchmark
        assert isinstance(report, octavo.Benchmark)
        assert report.conclusion.startswith(CONCLUSION)
        assert report.forms["float/eager"].labels == []
        assert report.latency[0].speedups[0].speedup == 2.0
        text = report.table(100)
        assert text.startswith("digits in int8, model_int8.onnx in ONNX Runtime is the fastest")
        assert max(map(len, text.splitlines())) < 200
        assert "float in eager torch" in text
        assert "2.00× (1.92–2.07)" in text
        assert "baseline" in text
        assert CONCLUSION[:40] in job._repr_html_()
        assert "<table>" in report._repr_html_()
        assert job.artifacts.recommended == []


def test_async_likewise(server: Served, small_net: Path, onnx_file: Path, data_file: Path) -> None:
    async def measure() -> dict[str, Any]:
        async with octavo.AsyncClient(server.url, KEY) as client:
            job = await client.benchmark(small_net, str(onnx_file), evaluation=str(data_file))
            return job.spec

    spec = anyio.run(measure)
    assert [each["name"] for each in spec["candidates"]] == ["small", "theirs"]


def test_each_kind_of_job_has_its_own_report_and_says_where_the_other_is(server: Served, done: str) -> None:
    with server.client() as client:
        job = client.benchmark(done)
        with working(server, job.id, measured):
            job.wait()
        with pytest.raises(octavo.OtherReport, match=r"of the method benchmark: what was measured is job\.benchmark"):
            _ = job.report
        with pytest.raises(octavo.OtherReport, match=r"of the method dynamic: what was measured is job\.report"):
            _ = client.jobs.get(done).benchmark
        with pytest.raises(octavo.OtherReport):
            octavo.compare([job, client.jobs.get(done)])
        assert job.raise_for_target() is job
        again = job.retry_with(seed=9)
        assert (again.spec["method"], again.spec["seed"], again.based_on) == ("benchmark", 9, job.id)
        with pytest.raises(octavo.UnprocessableError, match="no_suggestion"):
            job.retry_with(0)
        with pytest.raises(octavo.NoReport):
            _ = again.benchmark


def test_the_command_measures_files_models_and_artifacts(
    server: Served, done: str, small_net: Path, onnx_file: Path, data_file: Path
) -> None:
    result = run(
        "benchmark", str(small_net), done, f"{done}:model_int8.pt", str(onnx_file), "--evaluation", str(data_file),
        "--batch-sizes", "1,8", "--threads", "1,2", "--max-seconds", "0.5", "--runtime", "onnxruntime",
        "--runtime", "torch", "--hardware", "isa=avx2", "--seed", "4", "--name", "all", "--metadata", "a=b",
    )  # fmt: skip
    job_id = result.stdout.strip()
    assert job_id.startswith("job_")
    assert "Uploaded" in result.stderr
    spec = json.loads(run("jobs", "show", job_id, "--json").stdout)["spec"]
    assert spec["benchmark"] == {"batch_sizes": [1, 8], "threads": [1, 2], "max_seconds": 0.5}
    assert (spec["runtimes"], spec["seed"], spec["metadata"]) == (["torch", "onnxruntime"], 4, {"a": "b"})
    assert [each["artifact"] for each in spec["candidates"]] == [None, "model_int8.onnx", "model_int8.pt", None]

    with working(server, job_id, measured):
        shown = run("jobs", "watch", job_id)
    assert CONCLUSION[:60] in shown.stdout.replace("\n", " ")
    assert f"octavo artifacts download {job_id}" in shown.stderr
    assert json.loads(run("jobs", "watch", job_id, "--json").stdout)["report"] == REPORT
    assert json.loads(run("report", job_id, "--json").stdout)["conclusion"] == REPORT["conclusion"]
    shown = run("jobs", "show", job_id)
    assert "method" in shown.stdout
    assert "float in ONNX Runtime" in shown.stdout
    listed = run("jobs", "list").stdout
    assert "benchmark" in listed
    assert "what was measured is job.benchmark" in run("compare", job_id, done, code=1).stderr


def test_wrong_candidates_are_usage_errors_or_explained(server: Served, done: str, small_net: Path) -> None:
    assert "neither a file nor an id" in run("benchmark", "nothing.onnx", code=2).stderr
    for asked in ([str(small_net), "--evaluation", "nothing.npz"], [str(small_net), "nothing.onnx"]):
        error = run("benchmark", *asked, code=2).stderr
        assert "neither a file nor an id" in error
        assert "Uploaded" not in error
    assert "not like 1,8" in run("benchmark", str(small_net), "--batch-sizes", "one", code=2).stderr
    refused = run("benchmark", str(small_net), f"{done}:model.onnx", code=1).stderr
    assert "no_artifact" in refused
    assert "/candidates/1/artifact" in refused


def test_an_onnx_file_is_uploaded_and_what_to_do_next_is_a_benchmark(server: Served, onnx_file: Path) -> None:
    result = run("models", "upload", str(onnx_file))
    assert f"octavo benchmark {result.stdout.strip()} --wait" in result.stderr
    assert "model_is_onnx" in run("quantize", result.stdout.strip(), "--method", "dynamic", code=1).stderr


def test_a_job_shows_what_measures_its_artifacts_elsewhere(server: Served, small_net: Path) -> None:
    edge, lab = {"isa": [], "cpu": None, "labels": {"pool": "edge"}}, {"isa": ["avx2"], "cpu": None, "labels": {}}
    arguments = ("--measure-on", "label.pool=edge", "--measure-on", "isa=avx2")
    job_id = run("quantize", str(small_net), "--method", "dynamic", *arguments).stdout.strip()
    with server.client() as client:
        job = client.jobs.get(job_id)
        assert (job.spec["measure_on"], job.measurements) == ([edge, lab], [])
        with working(server, job_id, succeed):
            job.wait()
        assert [each.hardware for each in job.measurements] == [edge, lab]
        first = client.jobs.get(job.measurements[0].job)
        assert (first.status, first.spec["method"], first.metadata) == ("queued", "benchmark", {"measures": job_id})
        assert "No worker is alive" in str(first.waiting_for)
    shown = run("jobs", "show", job_id)
    assert f"label.pool=edge: {first.id} queued" in shown.stdout
    assert f"Measured on isa=avx2: {job.measurements[1].job} queued" in shown.stdout
    run("jobs", "cancel", first.id)
    assert f"label.pool=edge: {first.id} cancelled" in run("jobs", "show", job_id).stdout
    told = json.loads(run("jobs", "show", job_id, "--json").stdout)["measurements"]
    assert [(each["hardware"], each["status"]) for each in told] == [(edge, "cancelled"), (lab, "queued")]
