"""What the runner of a benchmark left behind, when the runner lies."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from api.examples import BENCHMARK_JOB
from shared.benchmark_report import SCHEMA_VERSION, BenchmarkReport
from shared.errors import InternalError
from shared.job_spec import job_spec_adapter
from worker.benchmark_checks import MAX_SAMPLES
from worker.job_folder import CandidateFile, JobInputs
from worker.latency import MAX_ROUNDS
from worker.outputs import check_outputs, complete_outputs, read_report

REPORT: dict[str, Any] = BENCHMARK_JOB["report"]
ASKED = JobInputs(
    job_id="job_1",
    spec=job_spec_adapter.validate_python(BENCHMARK_JOB["spec"]),
    datasets={},
    threads=1,
    sandbox_level="landlock",
    candidates=[
        CandidateFile(name=each["name"], source=each["source"], file="candidate.onnx", format="onnx", inputs=[])
        for each in REPORT["candidates"]
    ],
)


def read(folder: Path, report: dict[str, Any]) -> BenchmarkReport:
    (folder / "report.json").write_text(json.dumps(report))
    found = read_report(folder, ASKED)
    assert isinstance(found, BenchmarkReport)
    return found


def test_a_benchmark_leaves_a_report_and_nothing_else(tmp_path: Path) -> None:
    read(tmp_path, REPORT)
    check_outputs(tmp_path, limit_bytes=2**20, benchmark=True)
    (tmp_path / "model_int8.pt").touch()
    with pytest.raises(InternalError, match=r"model_int8\.pt"):
        check_outputs(tmp_path, limit_bytes=2**20, benchmark=True)


def test_the_report_is_completed_by_its_page_and_the_hashes(tmp_path: Path) -> None:
    report = read(tmp_path, REPORT)
    made = complete_outputs(tmp_path, report, job_id="job_1")
    assert {each.name: each.kind for each in made} == {
        "report.json": "report", "report.html": "page", "SHA256SUMS": "manifest"
    }  # fmt: skip
    assert BenchmarkReport.model_validate_json((tmp_path / "report.json").read_bytes()) == report


def test_what_the_supervisor_knows_itself_is_not_taken_from_the_report(tmp_path: Path) -> None:
    report = deepcopy(REPORT)
    report["environment"] |= {"sandbox_level": "vault", "cores": 4096}
    report["schema_version"] = "9" * 100
    report["warnings"] += [{"code": "c", "message": "m"}] * 5000
    report["conclusion"] = "a\x1b]0;b\x07\u202ec"
    found = read(tmp_path, report)
    assert (found.environment.sandbox_level, found.environment.cores < 4096) == ("landlock", True)
    assert (found.schema_version, len(found.warnings)) == (SCHEMA_VERSION, 1000)
    assert found.conclusion == "a�]0;b��c"


def test_the_spec_is_what_was_asked_but_for_what_a_benchmark_settles(tmp_path: Path) -> None:
    report = deepcopy(REPORT)
    report["spec"] |= {"x": [[]] * 1000, "name": "another title", "metric": None, "seed": 7}
    assert read(tmp_path, report).spec == REPORT["spec"] | {"metric": None}


def test_as_many_samples_may_be_told_as_rounds_are_run() -> None:
    assert MAX_SAMPLES == MAX_ROUNDS


OURS = REPORT["candidates"][1]["name"]


def form(report: dict[str, Any], candidate: int = 1) -> dict[str, Any]:
    found: dict[str, Any] = report["candidates"][candidate]["forms"][0]
    return found


@pytest.mark.parametrize(
    "lie",
    [
        lambda report: report.update(method="static"),
        lambda report: report["spec"]["candidates"].pop(),
        lambda report: report["spec"].update(evaluation=None),
        lambda report: report["candidates"].pop(),
        lambda report: report["candidates"][1].update(name="another"),
        lambda report: report["candidates"][1].update(source="mdl_0000000000000000000000"),
        lambda report: report["candidates"].reverse(),
        lambda report: report["candidates"][1].update(forms=[]),
        lambda report: form(report).update(name="float/onnxruntime"),
        lambda report: form(report).update(runtime="torch"),
        lambda report: form(report).update(kind="unheard_of"),
        lambda report: form(report).update(labels=["missing"]),
        lambda report: form(report).update(labels=["best"]),
        lambda report: form(report).update(quality=None),
        lambda report: form(report)["quality"]["metric"].update(drop=1e30),
        lambda report: report["candidates"][1]["forms"].append(form(report)),
        lambda report: report.update(reference=f"{OURS}/onnxruntime"),
        lambda report: report.update(fastest="float/eager"),
        lambda report: report.update(latency=[]),
        lambda report: report["latency"].extend(report["latency"] * 500),
        lambda report: report["latency"].extend(report["latency"][0] | {"batch_size": size} for size in (2, 3)),
        lambda report: report["latency"][0]["candidates"][0].update(samples_ms=[0.1] * 1001),
        lambda report: report["latency"][0].update(sittings=report["latency"][0]["sittings"] * 3),
        lambda report: report["latency"][0]["sittings"][0].update(cores=[0] * 5000),
        lambda report: report.update(timings={"x" * 2000: 1.0}),
        lambda report: report["spec"].update(runtimes=["mine"]),
        lambda report: report["spec"].update(metric="mine"),
        lambda report: report["latency"][0].update(baseline=f"{OURS}/onnxruntime"),
        lambda report: report["latency"][0].update(fastest="nobody/eager"),
        lambda report: report["latency"][0]["candidates"].pop(),
        lambda report: report["latency"][0]["candidates"][0].update(name="nobody/eager"),
        lambda report: report["latency"][0]["candidates"][0].update(p50_ms=-1.0),
        lambda report: report["latency"][0]["speedups"].pop(),
        lambda report: report["latency"][0]["speedups"][0].update(speedup=float("nan")),
        lambda report: report["latency"][0]["speedups"][0].update(speedup=1e30),
        lambda report: report["latency"][0]["speedups"][0].update(speedup=-1.0),
        lambda report: report["environment"].update(qengine="mine"),
        lambda report: report.update(conclusion="x" * 200_000),
        lambda report: report["warnings"].append(
            {"code": "c", "message": "m", "suggestion": {"title": "t", "patch": {"method": "static"}}}
        ),
    ],
)  # fmt: skip
def test_a_report_that_cannot_be_is_refused(tmp_path: Path, lie: Callable[[dict[str, Any]], None]) -> None:
    read(tmp_path, report := deepcopy(REPORT))
    lie(report)
    with pytest.raises(InternalError, match="not one"):
        read(tmp_path, report)
