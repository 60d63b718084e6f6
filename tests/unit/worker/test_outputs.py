"""What a runner left behind, when the runner lies."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shared.errors import InternalError, OutputTooLarge
from shared.job_report import SCHEMA_VERSION, ExampleInput, JobReport, OutputFidelity, ReportWarning, Suggestion
from shared.quantization_spec import BenchmarkSettings, StaticSpec
from tests.unit.worker.report_page.samples import every_runtime, none_recommended, residual_cnn
from worker.job_folder import JobInputs
from worker.outputs import check_outputs, complete_outputs, read_report


def left_in(folder: Path, *names: str) -> Path:
    for name in names or ("model_int8.pt", "report.json"):
        (folder / name).write_text(name)
    return folder


def test_what_a_recipe_writes_is_let_pass(tmp_path: Path) -> None:
    check_outputs(left_in(tmp_path), limit_bytes=2**20)


def test_thousands_of_hostile_names_are_refused_in_one_sentence(tmp_path: Path) -> None:
    for index in range(2000):
        (tmp_path / f"{index}\x1b[31m{'n' * 200}").touch()
    with pytest.raises(InternalError) as caught:
        check_outputs(tmp_path, limit_bytes=2**20)
    assert len(caught.value.message) < 1000
    assert "\x1b" not in caught.value.message


@pytest.mark.parametrize("name", ["report.html", "load_example.py", "SHA256SUMS"])
def test_what_is_made_out_here_is_not_taken_from_a_runner(tmp_path: Path, name: str) -> None:
    with pytest.raises(InternalError, match=name):
        check_outputs(left_in(tmp_path, "model_int8.pt", "report.json", name), limit_bytes=2**20)


def test_links_and_missing_and_large_files_are_refused(tmp_path: Path) -> None:
    (linked := tmp_path / "linked").mkdir()
    (left_in(linked) / "report.json").unlink()
    with pytest.raises(InternalError, match="left 1 files"):
        check_outputs(linked, limit_bytes=2**20)
    (linked / "report.json").symlink_to("/etc/hostname")
    with pytest.raises(InternalError, match="not regular"):
        check_outputs(linked, limit_bytes=2**20)
    (large := tmp_path / "large").mkdir()
    with pytest.raises(OutputTooLarge):
        check_outputs(left_in(large), limit_bytes=10)


def test_the_report_is_completed_by_its_page_an_example_and_the_hashes_of_all(tmp_path: Path) -> None:
    (tmp_path / "model_int8.pt").write_bytes(b"int8")
    artifacts = complete_outputs(tmp_path, residual_cnn(3), job_id="job_1")
    assert {each.name: (each.kind, each.media_type) for each in artifacts} == {
        "model_int8.pt": ("model", "application/octet-stream"),
        "report.json": ("report", "application/json"),
        "report.html": ("page", "text/html; charset=utf-8"),
        "load_example.py": ("example", "text/x-python; charset=utf-8"),
        "SHA256SUMS": ("manifest", "text/plain; charset=utf-8"),
    }
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for each in artifacts:
        assert each.sha256 == hashlib.sha256(files[each.name]).hexdigest()
        assert each.size_bytes == len(files[each.name])
    listed = dict(line.split("  ")[::-1] for line in files["SHA256SUMS"].decode().splitlines())
    assert listed == {each.name: each.sha256 for each in artifacts if each.name != "SHA256SUMS"}
    assert JobReport.model_validate_json(files["report.json"]) == residual_cnn(3)


def test_every_artifact_has_its_example_and_a_missing_one_has_none(tmp_path: Path) -> None:
    for report, expected in (
        (every_runtime(), {"load_example.py", "load_example_onnxruntime.py", "load_example_openvino.py"}),
        (none_recommended(), {"load_example.py", "load_example_onnxruntime.py"}),
    ):
        (outputs := tmp_path / report.verdict.word).mkdir()
        models = {each.name for each in report.artifacts if "missing" not in each.labels}
        for name in models:
            (outputs / name).touch()
        made = complete_outputs(outputs, report, job_id="job_1")
        assert {each.name for each in made if each.kind == "example"} == expected
        assert {each.name for each in made if each.kind == "model"} == models
        assert "onnxruntime 1.2.3 or a version" in (outputs / "load_example_onnxruntime.py").read_text()
        for name in expected:
            compile((outputs / name).read_text(), name, "exec")


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (outside := tmp_path / "outside").write_text("precious")
    (outputs := tmp_path / "outputs").mkdir()
    (outputs / "model_int8.pt").touch()
    (outputs / "report.html").symlink_to(outside)
    complete_outputs(outputs, residual_cnn(3), job_id="job_1")
    assert outside.read_text() == "precious"


def test_no_name_in_a_report_becomes_code_in_the_example(tmp_path: Path) -> None:
    """The example is Python that users run."""
    (tmp_path / "model_int8.pt").touch()
    report = residual_cnn(3)
    evil = "\")\n__import__('os').abort()\n'\\"
    report.quality.fidelity = [OutputFidelity(output=evil, sqnr_db=1, cosine=1, agreement=None)]
    report.inputs = [ExampleInput(name="ids", dtype="int64", shape=[2, 5], greatest=7)]
    complete_outputs(tmp_path, report, job_id="job_1")
    example = (tmp_path / "load_example.py").read_text()
    assert f'QENGINE = "{report.environment.qengine}"' in example
    assert f"zip({(evil,)!r}, outputs)" in example
    assert "    torch.randint(0, 8, (2, 5)).to(torch.int64),  # ids\n" in example
    for field, value in {"name": evil, "dtype": evil, "shape": [evil], "greatest": evil}.items():
        with pytest.raises(ValueError, match=field):
            ExampleInput.model_validate({"name": "x", "dtype": "int64", "shape": [1], "greatest": 1, field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [("shape", []), ("shape", [0]), ("shape", [1, -1]), ("shape", [2**63]), ("dtype", "load"), ("dtype", "complex64")],
)
def test_an_example_is_one_that_a_model_can_be_fed_with(field: str, value: object) -> None:
    given = {"name": "x", "dtype": "bfloat16", "shape": [1, 2**40], "greatest": None}
    ExampleInput.model_validate(given)
    with pytest.raises(ValueError, match=f"^1 validation error for ExampleInput\n{field}\n"):
        ExampleInput.model_validate(given | {field: value})


# --- what a report says ----------------------------------------------------------------------------------------------

SPEC = StaticSpec(
    method="static",
    model="mdl_019abc5d1f0e7a33c49d20",
    calibration="dst_019abc5d20c17a3391be04",
    benchmark=BenchmarkSettings(batch_sizes=[1, 8]),
)
ASKED = JobInputs(job_id="job_1", spec=SPEC, datasets={}, threads=1, sandbox_level="landlock")


def honest() -> dict[str, Any]:
    report = residual_cnn(3).model_dump(mode="json")
    return report | {"spec": SPEC.model_dump(mode="json")}


def read(folder: Path, report: dict[str, Any]) -> JobReport:
    (folder / "model_int8.pt").touch()
    (folder / "report.json").write_text(json.dumps(report))
    found = read_report(folder, ASKED)
    assert isinstance(found, JobReport)
    return found


def test_what_the_supervisor_knows_itself_is_not_taken_from_the_report(tmp_path: Path) -> None:
    report = honest()
    report["environment"] |= {"sandbox_level": "vault", "cores": 4096}
    report["schema_version"] = "9" * 100
    report["warnings"] += [{"code": "c", "message": "m"}] * 5000
    assert report["before"] is not None
    found = read(tmp_path, report)
    assert (found.environment.sandbox_level, found.environment.cores < 4096) == ("landlock", True)
    assert (found.before, found.schema_version) == (None, SCHEMA_VERSION)
    assert len(found.warnings) == 1000


def test_the_spec_is_what_was_asked_but_for_what_a_recipe_settles(tmp_path: Path) -> None:
    report = honest()
    told = {"metric": "top1", "max_accuracy_drop": 0.01, "qengine": "onednn"}
    report["spec"] |= told | {"name": "another title", "seed": 7, "x": [[]] * 1000}
    asked = SPEC.model_dump(mode="json")
    assert read(tmp_path, report).spec == asked | told


def test_text_in_a_report_obeys_no_terminal_and_reads_in_one_direction(tmp_path: Path) -> None:
    report = honest()
    report["verdict"]["sentence"] = "a\x1b]0;b\x07\x00\u202ec\ud800\n"
    report["timings"] = {"\x1b[8m": 1.0}
    found = read(tmp_path, report)
    assert found.verdict.sentence == "a�]0;b���c�\n"
    assert list(found.timings) == ["�[8m"]


def test_a_report_tells_of_exactly_the_files_that_are_there(tmp_path: Path) -> None:
    report = every_runtime().model_dump(mode="json") | {"spec": SPEC.model_dump(mode="json")}
    for name in ("model_int8.onnx", "model_int8.openvino.onnx"):
        with pytest.raises(InternalError, match="not one"):
            read(tmp_path, report)
        (tmp_path / name).touch()
    assert read(tmp_path, report).recommended == "model_int8.openvino.onnx"
    with pytest.raises(InternalError, match="not one"):
        read(tmp_path, honest())


def suggests(patch: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    warning = ReportWarning(code="c", message="m", suggestion=Suggestion(title="t", patch=patch))
    return lambda report: report["warnings"].append(warning.model_dump(mode="json"))


@pytest.mark.parametrize(
    "lie",
    [
        lambda report: report["latency"][0].update(speedup=float("nan")),
        lambda report: report["latency"][0].update(speedup=float("inf")),
        lambda report: report["latency"][0].update(speedup=1e30),
        lambda report: report["latency"][0].update(speedup=-1.0),
        lambda report: report["latency"].append(report["latency"][0]),
        lambda report: report["latency"].append(report["latency"][0] | {"threads": 2}),
        lambda report: report["latency"][0]["candidates"].append(report["latency"][0]["candidates"][0]),
        lambda report: report["latency"][0]["candidates"][0].update(name="x"),
        lambda report: report["latency"][0]["candidates"][0].update(samples_ms=[0.1] * 1001),
        lambda report: report["latency"][0]["speedups"].append(report["latency"][0]["speedups"][0]),
        lambda report: report["latency"][0].update(baseline="float_openvino"),
        lambda report: report["latency"][0].update(cores=[0] * 5000),
        lambda report: report["latency"][0].update(doubts=[{"cause": "drift", "told": ""}] * 5000),
        lambda report: report.update(timings={str(number): 1.0 for number in range(101)}),
        lambda report: report["environment"].update(thread_settings={"OMP_NUM_THREADS": "1" * 2000}),
        lambda report: report["spec"].update(qengine="mine"),
        lambda report: report["spec"].update(weight={"observer": "mine"}),
        lambda report: report["layer_times"][0].update(int8_candidate="int8_elsewhere"),
        lambda report: report["layer_times"].append(report["layer_times"][0]),
        lambda report: report["layer_times"][0].update(float_ms=float("nan")),
        lambda report: report["layer_times"][0]["layers"][0].update(changed="<b>"),
        lambda report: report["quality"]["metric"].update(drop=1e30),
        lambda report: report.update(artifacts=[]),
        lambda report: report["artifacts"][0].update(name="model_int8.onnx"),
        lambda report: report["artifacts"][0].update(runtime="openvino"),
        lambda report: report["artifacts"].append(report["artifacts"][0]),
        lambda report: report["artifacts"][0].update(labels=["missing"]),
        lambda report: report["artifacts"].append(report["artifacts"][0] | {"name": "x.py", "runtime": "onnxruntime"}),
        lambda report: report.update(recommended="model_int8.onnx"),
        lambda report: report.update(recommended="../secret"),
        lambda report: report["size"].update(int8_bytes=10**300),
        lambda report: report.update(method="qat"),
        lambda report: report["spec"].update(model="mdl_0000000000000000000000"),
        lambda report: report["spec"].update(evaluation=report["spec"]["calibration"]),
        lambda report: report["environment"].update(qengine="mine"),
        lambda report: report["verdict"].update(sentence="x" * 200_000),
        suggests({"model": "mdl_0000000000000000000000"}),
        suggests({"max_accuracy_drop": None}),
        suggests({"overrides": [{"op": "add"}] * 1001}),
        lambda report: report["boundaries"][0].update(removed_by={"name": "x"}),
        lambda report: report.update(spec=report["spec"] | {"name": json.loads("[" * 900 + "]" * 900)}),
    ],
)  # fmt: skip
def test_a_report_that_cannot_be_is_refused(tmp_path: Path, lie: Callable[[dict[str, Any]], None]) -> None:
    read(tmp_path, report := honest())
    lie(report)
    with pytest.raises(InternalError, match="not one"):
        read(tmp_path, report)
