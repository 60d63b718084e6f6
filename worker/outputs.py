"""What a runner left behind, checked before anyone sees it, and completed: page, example and hashes are made out here.

A runner writes the int8 model, in a file for each runtime, and the report. Whoever took the runner over can put
anything into them, but not into what is made of the report once that has been validated.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from shared.benchmark_report import SCHEMA_VERSION as BENCHMARK_SCHEMA_VERSION
from shared.benchmark_report import BenchmarkReport
from shared.benchmark_spec import BenchmarkSpec
from shared.errors import InternalError, OutputTooLarge
from shared.job import Artifact
from shared.job_report import SCHEMA_VERSION, JobReport
from shared.latency_report import BenchmarkResult, Environment
from shared.quantization_spec import MAX_OVERRIDES, Qengine, Runtime
from shared.spec_patch import beyond_suggesting, overrides_of
from worker.benchmark_checks import check_benchmark, check_combinations
from worker.candidate_names import CANDIDATE_NAMES
from worker.environment import describe_environment
from worker.job_folder import JobInputs
from worker.loading_example import loading_example
from worker.report_page import render_page
from worker.resolved_spec import resolved_spec
from worker.untrusted_json import read_untrusted

MODEL_NAME = "model_int8.pt"
MODEL_NAMES: dict[Runtime, str] = {
    "torch": MODEL_NAME, "onnxruntime": "model_int8.onnx", "openvino": "model_int8.openvino.onnx",
}  # fmt: skip
REPORT_NAME = "report.json"
PAGE_NAME = "report.html"
EXAMPLE_NAMES: dict[Runtime, str] = {
    "torch": "load_example.py", "onnxruntime": "load_example_onnxruntime.py", "openvino": "load_example_openvino.py",
}  # fmt: skip
MANIFEST_NAME = "SHA256SUMS"

_KINDS: dict[str, tuple[Any, str]] = {
    **dict.fromkeys(MODEL_NAMES.values(), ("model", "application/octet-stream")),
    REPORT_NAME: ("report", "application/json"),
    PAGE_NAME: ("page", "text/html; charset=utf-8"),
    **dict.fromkeys(EXAMPLE_NAMES.values(), ("example", "text/x-python; charset=utf-8")),
    MANIFEST_NAME: ("manifest", "text/plain; charset=utf-8"),
}
_ALWAYS_LEFT = {MODEL_NAME, REPORT_NAME}
_MAY_BE_LEFT = _ALWAYS_LEFT | set(MODEL_NAMES.values())
_LEFT_BY_BENCHMARK = {REPORT_NAME}
_MAX_WARNINGS = 1000
_MAX_SPEEDUP = 1e6
_MAX_NAMED = 100
_MAX_CHARACTERS = 1000
_IDENTITY = ("method", "model", "calibration", "evaluation", "training")


def check_outputs(outputs: Path, *, limit_bytes: int, benchmark: bool = False) -> None:
    """Let pass what a recipe writes; that of a benchmark writes no model.

    Raises OutputTooLarge, and InternalError when a file is missing, not one that a recipe writes, or not regular.
    """
    found = {entry.name: entry.stat(follow_symlinks=False) for entry in os.scandir(outputs)}
    always, may_be = (_LEFT_BY_BENCHMARK,) * 2 if benchmark else (_ALWAYS_LEFT, _MAY_BE_LEFT)
    if not always <= set(found) <= may_be:
        unexpected = [name[:80] for name in sorted(set(found) - may_be)[:5]]
        raise InternalError(f"The recipe left {len(found)} files, {unexpected} among them, not {sorted(always)}.")
    # A hard link could be a file of somebody else's, shown under the job's name.
    if irregular := [name for name, each in found.items() if not stat.S_ISREG(each.st_mode) or each.st_nlink != 1]:
        raise InternalError(f"The recipe left {irregular} that are not regular files.")
    if sum(each.st_size for each in found.values()) > limit_bytes:
        raise OutputTooLarge


def read_report(outputs: Path, asked: JobInputs) -> JobReport | BenchmarkReport:
    """The report that a recipe wrote on what was asked; InternalError when it is not one.

    `asked` is what the supervisor itself handed out. What it knows better than the report is taken from there.
    """
    try:
        written = read_untrusted(outputs / REPORT_NAME)
        report: JobReport | BenchmarkReport
        if isinstance(asked.spec, BenchmarkSpec):
            report = BenchmarkReport.model_validate(written)
            check_benchmark(report, asked)
            known: dict[str, Any] = {"schema_version": BENCHMARK_SCHEMA_VERSION}
        else:
            report = JobReport.model_validate(written)
            _check(report, asked)
            _check_artifacts(report, outputs)
            known = {"schema_version": SCHEMA_VERSION, "before": asked.before}
        _check_environment(report.environment)
        _check_named(report.timings)
        known["spec"] = resolved_spec(asked.spec, report.spec)
    except (OSError, ValueError, RecursionError) as error:  # of the file, of JSON, of pydantic, of our own
        raise InternalError("The recipe wrote a report that is not one.") from error
    known["warnings"] = report.warnings[:_MAX_WARNINGS]  # the most telling come first
    known["environment"] = _environment(report, asked)
    return report.model_copy(update=known)


def _environment(report: JobReport | BenchmarkReport, asked: JobInputs) -> Environment:
    """This machine by the supervisor's own word; only the runner knows its own variables."""
    found = describe_environment(report.environment.qengine, asked.sandbox_level, threads=asked.threads)
    return found.model_copy(update={"thread_settings": report.environment.thread_settings})


def _check(report: JobReport, asked: JobInputs) -> None:
    """Whether a report is about this job, suggests what a report may, and gives the metrics figures that can be."""
    spec = asked.spec.model_dump(mode="json")
    if report.method != spec["method"] or any(report.spec.get(name) != spec.get(name) for name in _IDENTITY):
        raise ValueError("it is about another job")
    patches = [each.suggestion.patch for each in report.warnings if each.suggestion]
    patches += [each.removed_by for each in report.boundaries if each.removed_by]
    for patch in patches:
        if beyond_suggesting(spec, patch) or len(overrides_of(patch)) > MAX_OVERRIDES:
            raise ValueError("it suggests what no report may")
    if not all(0 < each.speedup <= _MAX_SPEEDUP for each in report.latency):
        raise ValueError("it has an impossible speedup")
    check_combinations(report.latency, asked.spec.benchmark)
    for result in report.latency:
        _check_names(result)
    measured = {each.name for each in report.latency[0].candidates} if report.latency else set()
    timed = [each.int8_candidate for each in report.layer_times]
    if len(timed) > len(set(timed)) or not measured.issuperset(timed):
        raise ValueError("it times layers of what was not measured")
    metric = report.quality.metric
    if metric and metric.name != "mse" and not abs(metric.drop) <= 1:
        raise ValueError("it has an impossible drop")


def _check_names(result: BenchmarkResult) -> None:
    measured = [each.name for each in result.candidates]
    compared = [each.name for each in result.speedups]
    if len(set(measured)) != len(measured) or not CANDIDATE_NAMES.keys() >= set(measured):
        raise ValueError("it measured a candidate twice, or one that there is not")
    if len(set(compared)) != len(compared) or not {*compared, result.baseline, result.int8} <= set(measured):
        raise ValueError("what it compares was not measured")


def _check_environment(environment: Environment) -> None:
    if environment.qengine not in get_args(Qengine):
        raise ValueError("there are no such kernels")
    _check_named(environment.thread_settings)


def _check_named(told: Mapping[str, object]) -> None:
    """Of what has names of the runner's own: whether it is as little as a page shows without leaving any out."""
    if len(told) > _MAX_NAMED or any(len(str(each)) > _MAX_CHARACTERS for pair in told.items() for each in pair):
        raise ValueError("it has more timings or settings than there are, or longer ones")


def _check_artifacts(report: JobReport, outputs: Path) -> None:
    """Whether a report tells of the files that are there, each once and for the runtime that its name says."""
    names = [each.name for each in report.artifacts]
    if len(names) > len(set(names)):
        raise ValueError("it tells of an artifact twice")
    there = {each.name for each in report.artifacts if "missing" not in each.labels}
    if there != {name for name in MODEL_NAMES.values() if (outputs / name).exists()}:
        raise ValueError("it tells of other artifacts than there are")
    if any(MODEL_NAMES[each.runtime] != each.name for each in report.artifacts):
        raise ValueError("an artifact has another name than its runtime's")
    if report.recommended is not None and report.recommended not in there:
        raise ValueError("it recommends what is not there")


def complete_outputs(outputs: Path, report: JobReport | BenchmarkReport, *, job_id: str) -> list[Artifact]:
    """Write what is made of the report beside the model, and the SHA-256 of all in the form that `sha256sum -c` reads.

    The report itself is written anew, as it was understood.
    """
    _write(outputs / REPORT_NAME, report.model_dump_json(indent=2) + "\n")
    _write(outputs / PAGE_NAME, render_page(report, job_id=job_id))
    if isinstance(report, JobReport):
        for each in report.artifacts:
            if "missing" not in each.labels:
                _write(outputs / EXAMPLE_NAMES[each.runtime], loading_example(report, each))
    artifacts = [_artifact(outputs / name) for name in sorted(_KINDS) if (outputs / name).exists()]
    _write(outputs / MANIFEST_NAME, "".join(f"{each.sha256}  {each.name}\n" for each in artifacts))
    return [*artifacts, _artifact(outputs / MANIFEST_NAME)]


def _write(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with path.open("x", encoding="utf-8") as file:  # never through a link to somewhere else
        file.write(text)


def _artifact(path: Path) -> Artifact:
    kind, media_type = _KINDS[path.name]
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Artifact(name=path.name, kind=kind, media_type=media_type, size_bytes=path.stat().st_size, sha256=sha256)
