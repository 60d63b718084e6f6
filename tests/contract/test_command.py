"""The `octavo` command against the real API: data on stdout, the rest on stderr, exit codes as promised."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from api.examples import PLAN, SUCCEEDED_JOB
from octavo.cli import main
from shared.database.job_repository import JobRepository
from shared.database.plan_repository import PlanRepository
from shared.database.worker_repository import WorkerRepository
from shared.errors import DatasetNotFinite, NothingToQuantize
from shared.job import Artifact
from tests.api_server import PretendedWorker, images
from tests.contract.conftest import Served
from tests.contract.test_client import ARTIFACTS, succeed, working
from tests.services.workers import described


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    return result


def run_json(*arguments: str) -> Any:
    return json.loads(run(*arguments, "--json").stdout)


@pytest.fixture
def model_id(server: Served, small_net: Path) -> str:
    return run("models", "upload", str(small_net)).stdout.strip()


@pytest.fixture
def job_id(model_id: str) -> str:
    return run("quantize", model_id, "--method", "dynamic").stdout.strip()


@pytest.fixture
def dataset_file(tmp_path: Path) -> Path:
    path = tmp_path / "images.npz"
    path.write_bytes(images(5))
    return path


LEFT_BEHIND = Artifact(name="SHA256SUMS", kind="manifest", media_type="text/plain", size_bytes=0, sha256="0" * 64)


def finish_with(**report: Any) -> Callable[[PretendedWorker], None]:
    """The end of a job whose report differs from the example's."""

    def work(worker: PretendedWorker) -> None:
        changed = {**deepcopy(SUCCEEDED_JOB["report"]), **report}
        with worker._api.database.write() as connection:
            JobRepository(connection).succeed(worker._claim, changed, [LEFT_BEHIND])

    return work


NOT_MET = finish_with(
    verdict={"word": "accuracy_not_met", "sentence": "top-1 drops by 5 points.", "accuracy": "not_met"}
)


def fail(worker: PretendedWorker) -> None:
    error = DatasetNotFinite("NaN in x.").to_job_error("load")
    with worker._api.database.write() as connection:
        JobRepository(connection).fail(worker._claim, error)


EDGE = {"isa": ["avx2", "avx512_vnni"], "cpu": "AMD EPYC*", "labels": {"pool": "edge"}}


# --- models and datasets ---------------------------------------------------------------------------------------------


def test_upload_prints_the_id_and_nothing_else_on_stdout(server: Served, small_net: Path) -> None:
    result = run("models", "upload", str(small_net), "--name", "small")
    assert re.fullmatch(r"mdl_\w+\n", result.stdout)
    assert f"octavo quantize {result.stdout.strip()}" in result.stderr


def test_models_are_listed_shown_and_deleted(model_id: str) -> None:
    assert "x: float32[?, 3, 8, 8]" in run("models", "list").stdout
    assert [model["id"] for model in run_json("models", "list")] == [model_id]
    assert run_json("models", "show", model_id)["inputs"][0]["shape"] == [None, 3, 8, 8]
    assert "parameters" in run("models", "show", model_id).stdout
    assert run("models", "delete", model_id).stdout == ""
    assert run_json("models", "list") == []
    assert run("models", "list").stdout == ""
    assert "not_found" in run("models", "show", model_id, code=1).stderr


def test_datasets_are_uploaded_listed_shown_and_deleted(server: Served, dataset_file: Path) -> None:
    dataset_id = run("datasets", "upload", str(dataset_file), "--name", "pictures").stdout.strip()
    assert "pictures" in run("datasets", "list").stdout
    assert run_json("datasets", "list")[0]["samples"] == 5
    assert run_json("datasets", "show", dataset_id)["arrays"] == {"x": {"shape": [5, 3, 8, 8], "dtype": "float32"}}
    assert "array x" in run("datasets", "show", dataset_id).stdout
    assert run_json("datasets", "delete", dataset_id) == {"id": dataset_id, "deleted": True}
    assert run_json("datasets", "list") == []


# --- plan ------------------------------------------------------------------------------------------------------------


@contextmanager
def with_a_plan(server: Served, **answer: Any) -> Iterator[dict[str, Any]]:
    """A worker lives, takes the first question that is asked, and answers it; what was asked comes with the end."""
    asked: dict[str, Any] = {}

    def answer_it() -> None:
        deadline = time.monotonic() + 20
        while not asked and time.monotonic() < deadline:
            with server.api.database.write() as connection:
                plans = PlanRepository(connection)
                if (question := plans.take(described())) is not None:
                    asked.update(question.spec)
                    plans.answer(question.id, **answer)
            time.sleep(0.02)

    with server.api.database.write() as connection:
        WorkerRepository(connection).register("wrk_1", described())
    thread = threading.Thread(target=answer_it)
    thread.start()
    yield asked
    thread.join(30)


def test_plan_uploads_files_and_prints_what_a_job_would_do(server: Served, small_net: Path, dataset_file: Path) -> None:
    with with_a_plan(server, plan=PLAN) as asked:
        result = run("plan", str(small_net), "--calibration", str(dataset_file), "--float", "conv1")
    assert "static: 2 of 3 layers would be quantized, 94.7 % of the arithmetic." in result.stdout
    assert re.search(r"2 Conv2d +int8 +94\.7 %", result.stdout)
    assert re.search(r"head +Linear +5\.3 % +overridden: layer head", result.stdout)
    assert re.search(r"will take +9 s \(5 s to 15 s\)", result.stdout)
    assert "VNNI adds up four products" in result.stdout
    assert result.stderr.count("Uploaded") == 2
    assert "octavo quantize mdl_" in result.stderr
    assert (asked["method"], asked["overrides"][0]["layer"]) == ("static", "conv1")


def test_plan_as_json_is_what_the_http_api_answers(server: Served, model_id: str) -> None:
    with with_a_plan(server, plan=PLAN) as asked:
        assert run_json("plan", model_id, "--method", "dynamic") == PLAN
    assert asked["method"] == "dynamic"


def test_what_is_wrong_with_a_plan_is_said(server: Served, model_id: str) -> None:
    refusal = NothingToQuantize("Method dynamic would leave every layer in float.", hint="Try static.")
    with with_a_plan(server, error=refusal.to_job_error()):
        error = run("plan", model_id, "--method", "dynamic", code=1).stderr
    assert "Method dynamic would leave every layer in float. [422 nothing_to_quantize]\nHint: Try static." in error
    assert "Missing argument 'MODEL'" in run("plan", code=2).stderr


# --- quantize --------------------------------------------------------------------------------------------------------


def test_quantize_uploads_files_and_sends_every_option(server: Served, small_net: Path, dataset_file: Path) -> None:
    job = run_json(
        *("quantize", str(small_net), "--method", "qat", "--training", str(dataset_file)),
        *("--calibration", str(dataset_file), "--evaluation", str(dataset_file)),
        *("--metric", "auto", "--max-accuracy-drop", "0.5", "--qengine", "x86", "--epochs", "2"),
        *("--learning-rate", "0.001", "--batch-size", "4", "--loss", "distillation", "--seed", "3"),
        *("--threads", "1", "--threads", "2", "--benchmark-batch", "8", "--runtime", "openvino"),
        *("--float", "conv*", "--float", "op=Linear", "--override", '{"layer": "fc", "precision": "int8"}'),
        *("--set", "analysis.histograms=all", "--set", "qat.learnable_scales=true", "--name", "all of it"),
        *("--metadata", "team=vision", "--metadata", "run=a=b"),
    )
    spec = job["spec"]
    assert (spec["method"], spec["max_accuracy_drop"], spec["qengine"], spec["seed"]) == ("qat", 0.5, "x86", 3)
    assert spec["training"] == spec["calibration"] == spec["evaluation"]
    assert (spec["qat"]["epochs"], spec["qat"]["learning_rate"], spec["qat"]["batch_size"]) == (2, 0.001, 4)
    assert spec["qat"]["loss"] == "distillation"
    assert (spec["benchmark"]["threads"], spec["benchmark"]["batch_sizes"]) == ([1, 2], [8])
    assert spec["runtimes"] == ["torch", "openvino"]
    overrides = [(each["layer"], each["op"], each["precision"]) for each in spec["overrides"]]
    assert overrides == [("conv*", None, "float32"), (None, "Linear", "float32"), ("fc", None, "int8")]
    assert (spec["analysis"]["histograms"], spec["qat"]["learnable_scales"]) == ("all", True)
    assert (job["name"], job["metadata"]) == ("all of it", {"team": "vision", "run": "a=b"})


def test_a_file_that_is_not_there_is_found_before_any_is_sent(small_net: Path) -> None:
    error = run("quantize", str(small_net), "--calibration", "nothing.npz", code=2).stderr
    assert "'nothing.npz' is neither a file nor an id (dst_…)" in error
    assert "Uploaded" not in error


def test_a_spec_file_is_sent_and_options_win_over_it(model_id: str, tmp_path: Path) -> None:
    """Settings are merged, overrides come behind those of the file."""
    spec = {
        "method": "dynamic",
        "model": model_id,
        "seed": 1,
        "name": "of the file",
        "max_accuracy_drop": 0.1,
        "overrides": [{"layer": "a"}],
        "benchmark": {"max_seconds": 2.0},
    }
    file = tmp_path / "spec.json"
    file.write_text(json.dumps(spec))
    options = ["--seed", "9", "--max-accuracy-drop", "none", "--precision", "float16", "--float", "b", "--threads", "2"]
    sent = run_json("quantize", "--spec", str(file), *options)["spec"]
    assert (sent["method"], sent["seed"], sent["name"]) == ("dynamic", 9, "of the file")
    assert (sent["max_accuracy_drop"], sent["precision"]) == (None, "float16")
    assert [each["layer"] for each in sent["overrides"]] == ["a", "b"]
    assert (sent["benchmark"]["max_seconds"], sent["benchmark"]["threads"]) == (2.0, [2])


def test_a_job_for_hardware_that_is_not_there_says_what_it_waits_for(server: Served, model_id: str) -> None:
    """The id alone is on stdout; `show`, `list`, `watch` and `--wait` say it too, until there is such a worker."""
    asked = ("--hardware", "isa=avx512_vnni,label.pool=edge", "--hardware", "isa=avx2,cpu=AMD EPYC*")
    with server.api.database.write() as connection:
        WorkerRepository(connection).register("wrk_1", described(hostname="node-7"))
    result = run("quantize", model_id, "--method", "dynamic", *asked)
    job_id = result.stdout.strip()
    reason = "No live worker has avx2, avx512_vnni, a CPU like 'AMD EPYC*' and pool=edge: node-7 (a CPU) lacks"
    assert f"The job waits. {reason}" in result.stderr
    job = run_json("jobs", "show", job_id)
    assert job["spec"]["hardware"] == EDGE
    assert job["waiting_for"].startswith(reason)
    shown = run("jobs", "show", job_id).stdout
    assert reason in shown
    assert re.search(r"hardware +isa=avx2,isa=avx512_vnni,cpu=AMD EPYC\*,label\.pool=edge", shown)
    assert "no worker for it" in run("jobs", "list").stdout
    assert reason in run("jobs", "events", job_id).stdout
    assert reason in run("jobs", "watch", job_id, "--timeout", "0.1", code=7).stderr
    anywhere = run_json("quantize", "--from", job_id, "--hardware", "any")
    assert (anywhere["spec"]["hardware"], anywhere["waiting_for"]) == (None, None)
    fit = {"isa": EDGE["isa"], "cpu_model": "AMD EPYC 9354", "labels": EDGE["labels"]}
    with server.api.database.write() as connection:
        WorkerRepository(connection).register("wrk_2", described(**fit))
    assert run_json("jobs", "show", job_id)["waiting_for"] is None
    assert "pool=edge" in run("meta").stdout


def test_an_unknown_instruction_set_is_refused_with_those_that_are_known(server: Served, model_id: str) -> None:
    error = run("quantize", model_id, "--method", "dynamic", "--hardware", "isa=sse5", code=1).stderr
    assert "/hardware/isa/0" in error
    assert "'avx512_vnni'" in error


def test_without_wait_the_id_is_printed_and_how_to_watch(model_id: str) -> None:
    result = run("quantize", model_id, "--method", "dynamic")
    assert re.fullmatch(r"job_\w+\n", result.stdout)
    assert f"octavo jobs watch {result.stdout.strip()}" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["quantize"],
        ["quantize", "neither-file-nor-id"],
        ["quantize", "mdl_x", "--calibration", "nowhere.npz"],
        ["quantize", "mdl_x", "--override", "Linear"],
        ["quantize", "mdl_x", "--override", "[]"],
        ["quantize", "mdl_x", "--set", "seed"],
        ["quantize", "mdl_x", "--apply", "0"],
        ["quantize", "mdl_x", "--hardware", "cores=8"],
        ["quantize", "mdl_x", "--hardware", "avx512_vnni"],
        ["quantize", "--from", "job_x", "--apply", "-1"],
        ["compare", "job_x"],
        ["quantize", "mdl_x", "--metadata", "=x"],
        ["quantize", "mdl_x", "--max-accuracy-drop", "much"],
        ["quantize", "mdl_x", "--method", "magic"],
        ["quantize", "mdl_x", "--runtime", "tensorrt"],
        ["artifacts", "download", "job_x", "model_int8.pt", "--recommended"],
        ["models", "upload", "nowhere.pt2"],
        ["jobs", "list", "--status", "lost"],
        ["nonsense"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2(server: Served, arguments: list[str]) -> None:
    assert run(*arguments, code=2).stdout == ""


# --- jobs ------------------------------------------------------------------------------------------------------------


def test_wait_prints_the_report(server: Served, job_id: str) -> None:
    with working(server, job_id, succeed):
        result = run("jobs", "watch", job_id)
    assert result.stdout.startswith("static, recommended: top1 0.9806 → 0.9778")
    assert "p50, batch 1, 1 thread" in result.stdout
    assert f"octavo artifacts download {job_id}" in result.stderr
    assert run("report", job_id).stdout == result.stdout
    assert result.stdout in run("jobs", "show", job_id).stdout
    assert run_json("report", job_id)["quality"]["metric"]["float"] == 0.9806


def test_what_a_report_says_to_type_does_what_it_advises(server: Served, job_id: str) -> None:
    """The line stands in the report; the new job's report is compared with the old one's."""
    with working(server, job_id, succeed):
        shown = run("jobs", "watch", job_id).stdout
    (line,) = re.findall(r"^    \$ octavo (.*)$", shown, re.MULTILINE)
    assert line == f"quantize --from {job_id} --apply 0 --wait"
    arguments = line.removesuffix(" --wait").split()
    again = run_json(*arguments, "--method", "dynamic", "--max-accuracy-drop", "none", "--set", "seed=4")
    assert (again["based_on"], again["spec"]["seed"], again["spec"]["max_accuracy_drop"]) == (job_id, 4, None)
    assert again["spec"]["overrides"][0]["activation"]["observer"] == "percentile"
    assert again["name"] is None
    with working(server, again["id"], succeed):
        watched = run("jobs", "watch", again["id"])
    assert f"octavo compare {job_id} {again['id']}" in watched.stderr
    assert f"based on   {job_id}" in run("jobs", "show", again["id"]).stdout


def test_a_file_given_with_from_is_uploaded(server: Served, job_id: str, dataset_file: Path) -> None:
    spec = run_json("quantize", "--from", job_id, "--method", "static", "--calibration", str(dataset_file))["spec"]
    assert spec["method"] == "static"
    assert spec["calibration"].startswith("dst_")
    problem = run("quantize", "--from", job_id, "--method", "static", code=1).stderr
    assert "This method needs a calibration dataset, and the patched spec names none." in problem


def test_advice_that_is_not_there_is_exit_code_1_with_the_reason(server: Served, job_id: str) -> None:
    assert "no_report" in run("quantize", "--from", job_id, "--apply", "0", code=1).stderr
    with working(server, job_id, succeed):
        run("jobs", "watch", job_id)
    assert "Warning 7" in run("quantize", "--from", job_id, "--apply", "7", code=1).stderr
    assert "not_found" in run("quantize", "--from", "job_0000000000000000000000", code=1).stderr


def test_jobs_are_compared_in_columns_and_as_json(server: Served, job_id: str) -> None:
    better = deepcopy(SUCCEEDED_JOB["report"])
    better["layers"][0]["error"]["sqnr_db"] = 41.0
    better["spec"] = {**better["spec"], "activation": {**better["spec"]["activation"], "observer": "percentile"}}
    other = run("quantize", "--from", job_id, "--name", "better").stdout.strip()
    for each, work in ((job_id, succeed), (other, finish_with(**better))):
        with working(server, each, work):
            run("jobs", "watch", each)
    shown = run("compare", job_id, other).stdout
    assert re.search(rf"^A  {job_id}", shown, re.MULTILINE)
    assert re.search(r"^activation.observer +auto +percentile$", shown, re.MULTILINE)
    assert re.search(r"^conv1 +29.8 dB +41.0 dB$", shown, re.MULTILINE)
    comparison = run_json("compare", job_id, other)
    assert [each["job"] for each in comparison["jobs"]] == [job_id, other]
    assert comparison["jobs"][0]["quality"]["metric"]["float"] == 0.9806
    assert comparison["layers"] == [{"layer": "conv1", "precision": ["int8", "int8"], "sqnr_db": [29.8, 41.0]}]
    assert comparison["spec"] == [{"field": "activation.observer", "values": ["auto", "percentile"]}]


def test_a_job_without_a_report_cannot_be_compared(server: Served, job_id: str) -> None:
    assert "has no report yet" in run("compare", job_id, job_id, code=1).stderr


def test_a_missed_target_is_exit_code_6_and_the_report_is_printed_all_the_same(server: Served, job_id: str) -> None:
    with working(server, job_id, NOT_MET):
        result = run("jobs", "watch", job_id, code=6)
    assert "top-1 drops by 5 points." in result.stdout
    assert "Error:" in result.stderr
    assert re.search(rf"^{job_id} +succeeded .* accuracy not met ", run("jobs", "list").stdout, re.MULTILINE)
    assert json.loads(run("jobs", "watch", job_id, "--json", code=6).stdout)["report"]["verdict"]["accuracy"] == (
        "not_met"
    )


def test_a_failed_job_is_exit_code_5_with_its_reason(server: Served, job_id: str) -> None:
    with working(server, job_id, fail):
        result = run("jobs", "watch", job_id, code=5)
    assert result.stdout == ""
    assert "NaN in x. [dataset_not_finite]" in result.stderr
    assert "Hint:" in result.stderr
    assert "dataset_not_finite" in run("jobs", "show", job_id).stdout
    assert "dataset_not_finite" in run("jobs", "list").stdout
    assert "dataset_not_finite" in run("report", job_id, code=5).stderr
    assert "dataset_not_finite" in run("artifacts", "download", job_id, code=5).stderr


def test_giving_up_is_exit_code_7(job_id: str) -> None:
    assert "it goes on" in run("jobs", "watch", job_id, "--timeout", "0.2", code=7).stderr
    assert run_json("jobs", "show", job_id)["status"] == "queued"


def test_ctrl_c_is_exit_code_130_and_the_job_goes_on(server: Served, job_id: str) -> None:
    """A real process and a real SIGINT, once it follows the job."""
    command = [sys.executable, "-c", "from octavo.cli import main; main()", "jobs", "watch", job_id]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        watch = server.api.app.state.services.watch
        deadline = time.monotonic() + 30
        while not watch._waiters:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGINT)
        assert process.stderr is not None
        stderr = process.stderr.read()
    assert process.returncode == 130
    assert f"octavo jobs watch {job_id}" in stderr
    assert "Traceback" not in stderr
    assert run_json("jobs", "show", job_id)["status"] == "queued"


def test_jobs_are_listed_shown_and_cancelled(job_id: str) -> None:
    assert "queued" in run("jobs", "list").stdout
    assert [job["id"] for job in run_json("jobs", "list", "--status", "queued")] == [job_id]
    assert "method   dynamic" in run("jobs", "show", job_id).stdout
    assert "is cancelled" in run("jobs", "cancel", job_id).stderr
    assert run_json("jobs", "list", "--status", "queued") == []
    assert "job_already_finished" in run("jobs", "cancel", job_id, code=1).stderr


def test_events_are_lines(server: Served, job_id: str) -> None:
    with working(server, job_id, succeed):
        lines = run("jobs", "events", job_id, "--follow").stdout.splitlines()
    assert len(lines) == 5
    assert "30% calibrate Observing ranges" in lines[2]
    later = run("jobs", "events", job_id, "--after", "4", "--json").stdout.splitlines()
    assert [json.loads(line)["data"]["status"] for line in later] == ["succeeded"]


# --- artifacts -------------------------------------------------------------------------------------------------------


def test_artifacts_are_listed_and_downloaded(server: Served, job_id: str, tmp_path: Path) -> None:
    assert "no artifacts" in run("artifacts", "list", job_id).stderr
    run("artifacts", "download", job_id, code=1)
    with working(server, job_id, succeed):
        run("jobs", "watch", job_id)
    assert {entry["name"] for entry in run_json("artifacts", "list", job_id)} == set(ARTIFACTS)
    assert "model_int8.pt" in run("artifacts", "list", job_id).stdout
    printed = run("artifacts", "download", job_id, "-o", str(tmp_path / "out")).stdout.splitlines()
    assert {Path(line).name: Path(line).read_bytes() for line in printed} == ARTIFACTS
    one = run_json("artifacts", "download", job_id, "empty", "-o", str(tmp_path / "one"))
    assert one == {"empty": str(tmp_path / "one" / "empty")}
    assert "there are: " in run("artifacts", "download", job_id, "nothing", code=1).stderr


def test_the_recommended_artifact_is_downloaded_alone_with_what_to_run(
    server: Served, job_id: str, tmp_path: Path
) -> None:
    with working(server, job_id, succeed):
        run("jobs", "watch", job_id)
    out = tmp_path / "out"
    result = run("artifacts", "download", job_id, "--recommended", "-o", str(out))
    assert {path.name for path in out.iterdir()} == {"model_int8.onnx", "load_example_onnxruntime.py"}
    assert f"cd {out} && python load_example_onnxruntime.py" in result.stderr


def test_where_no_artifact_is_recommended_none_is_downloaded_and_it_is_said(
    server: Served, job_id: str, tmp_path: Path
) -> None:
    with working(server, job_id, finish_with(recommended=None)):
        run("jobs", "watch", job_id)
    result = run("artifacts", "download", job_id, "--recommended", "-o", str(tmp_path / "out"), code=1)
    assert f"recommends no artifact; octavo report {job_id} says why" in result.stderr
    assert not (tmp_path / "out").exists()


# --- the server ------------------------------------------------------------------------------------------------------


def test_no_key_and_a_wrong_key_are_exit_code_4(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCTAVO_API_KEY", "wrong")
    assert "api_key_invalid" in run("jobs", "list", code=4).stderr
    assert "error" in run("doctor", code=4).stdout
    monkeypatch.delenv("OCTAVO_API_KEY")
    assert "authentication_required" in run("meta", code=4).stderr


def test_no_server_is_exit_code_1_with_advice() -> None:
    result = run("--url", "http://127.0.0.1:9", "jobs", "list", code=1)
    assert "octavo-server up" in result.stderr
    assert "octavo-server up" in run("--url", "http://127.0.0.1:9", "doctor", code=1).stdout


def test_meta_shows_limits(server: Served) -> None:
    assert "part_size_bytes: 4096" in run("meta").stdout
    assert run_json("meta")["methods"] == ["dynamic", "static", "qat", "benchmark"]


def test_doctor_finds_that_no_worker_is_alive(server: Served) -> None:
    findings = {finding["check"]: finding for finding in json.loads(run("doctor", "--json", code=1).stdout)}
    assert {check: finding["status"] for check, finding in findings.items()} == {
        "address": "ok",
        "key": "ok",
        "version": "ok",
        "workers": "error",
        "clock": "ok",
    }
    assert "octavo-server worker" in findings["workers"]["hint"]


def test_doctor_is_content_with_a_worker_in_a_sandbox(server: Served) -> None:
    with server.api.database.write() as connection:
        WorkerRepository(connection).register("wrk_1", described(runtimes={"openvino": "2026.4.0"}))
    assert "node-1, a CPU, torch 2.13.0" in run("doctor").stdout
    assert re.search(r"node-1 .* torch 2\.13\.0 openvino 2026\.4\.0 ", run("meta").stdout)
    with server.api.database.write() as connection:
        WorkerRepository(connection).register("wrk_2", described(sandbox_level="none"))
    assert "warning" in run("doctor").stdout


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_no_color_is_honoured(job_id: str, monkeypatch: pytest.MonkeyPatch, no_color: str, coloured: bool) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    error = CliRunner().invoke(main, ["jobs", "show", "job_0"], color=True)
    assert ("\x1b[" in error.stderr) == coloured


def leaves(group: click.Group) -> list[click.Command]:
    return [
        leaf
        for command in group.commands.values()
        for leaf in (leaves(command) if isinstance(command, click.Group) else [command])
    ]


def test_every_command_has_json() -> None:
    """A script may ask for it everywhere."""
    without = [
        command.name
        for command in leaves(main)
        if "--json" not in {option for parameter in command.params for option in parameter.opts}
    ]
    assert without == []


def test_help_shows_each_example_on_a_line_of_its_own() -> None:
    shown = run("quantize", "--help").stdout.splitlines()
    assert "  octavo quantize net.pt2 --method dynamic --wait" in shown
    for command in (main, *leaves(main)):
        assert "\\b" not in command.get_help(click.Context(command)), command.name
