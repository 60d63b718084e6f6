"""Benchmarks on a real worker, broker and store: from what was uploaded and what a job made to the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from shared.benchmark_report import BenchmarkReport
from shared.job import JobStatus
from shared.object_store import artifact_key
from tests.services.node import Node
from tests.services.small_inputs import write_dataset, write_model
from tests.unit.worker.benchmarks import export_onnx, forms

QUICK: dict[str, Any] = {"benchmark": {"max_seconds": 0.3}}


@pytest.fixture
def model(node: Node, tmp_path: Path) -> str:
    return node.add("model", write_model(tmp_path / "net.pt2"))


@pytest.fixture
def data(node: Node, tmp_path: Path) -> str:
    return node.add("dataset", write_dataset(tmp_path / "data.npz"))


def report_of(node: Node, job_id: str) -> BenchmarkReport:
    job = node.wait_finished(job_id)
    assert job.status is JobStatus.SUCCEEDED, (job.error, node.logs())
    return BenchmarkReport.model_validate(job.report)


def test_yours_ours_and_an_uploaded_file_are_measured_in_the_sandbox(
    node: Node, model: str, data: str, tmp_path: Path
) -> None:
    class Other(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rest = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.rest(x)
            return out

    other = node.add("model", export_onnx(Other(), (torch.randn(2, 1, 8, 8),), tmp_path / "other.onnx"))
    with node.worker():
        made = node.submit(
            method="static", model=model, calibration=data, evaluation=data, runtimes=None, **QUICK
        )  # fmt: skip
        assert node.wait_finished(made).status is JobStatus.SUCCEEDED, node.logs()
        artifacts = ["model_int8.pt", "model_int8.onnx", "model_int8.openvino.onnx"]
        candidates = [
            {"model": model, "name": "yours"},
            *({"job": made, "artifact": name, "name": name} for name in artifacts),
            {"model": other, "name": "other"},
        ]
        job_id = node.submit(method="benchmark", candidates=candidates, evaluation=data, runtimes=None, **QUICK)
        report = report_of(node, job_id)
    assert [each.name for each in report.candidates] == ["yours", *artifacts, "other"]
    assert [each.source for each in report.candidates] == [model, *(f"{made}/{name}" for name in artifacts), other]
    found = forms(report)
    assert all("missing" not in form.labels for form in found.values())
    assert all("wrong" not in form.labels for form in found.values()), "they compute what they did a moment ago"
    assert {name for name, form in found.items() if "differs" in form.labels} == {
        name for name in found if name.startswith("other/")
    }
    job = node.job(job_id)
    assert [each.name for each in job.artifacts] == ["report.html", "report.json", "SHA256SUMS"]
    stored = node.store.open(artifact_key(job_id, job.fence, "report.json"))
    assert json.loads(b"".join(stored)) == job.report
    page = b"".join(node.store.open(artifact_key(job_id, job.fence, "report.html"))).decode()
    assert "Benchmark" in page
    assert "other" in page


def test_the_artifact_of_the_attempt_that_was_accepted_is_measured(node: Node, model: str) -> None:
    """A job that was handed back and begun again has a fence above its attempts'."""
    with node.worker() as first:
        made = node.submit(method="dynamic", model=model, benchmark={"max_seconds": 20})
        node.wait_for(made, lambda job: job.step == "benchmark")
        first.terminate()
        first.wait(30)
    with node.worker("worker2"):
        job = node.wait_finished(made)
        assert (job.status, job.fence) == (JobStatus.SUCCEEDED, 2), node.logs()
        candidates = [{"job": made, "artifact": "model_int8.pt", "name": "ours"}]
        report = report_of(node, node.submit(method="benchmark", candidates=candidates, **QUICK))
    assert list(forms(report)) == ["ours/torch"]
