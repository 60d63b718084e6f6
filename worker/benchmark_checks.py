"""Whether the report of a benchmark can be: it was written in a process that ran what somebody uploaded."""

from __future__ import annotations

from collections.abc import Sequence

from shared.benchmark_report import BenchmarkReport, CandidateResult, ComparisonResult, FormKind
from shared.latency_report import BenchmarkResult
from shared.quantization_spec import BenchmarkSettings, Runtime
from worker.job_folder import CandidateFile, JobInputs

_GREATEST = 1e6
MAX_SAMPLES = 1000
"""Of a candidate at one combination: a round each, and worker/latency.py takes no more."""
_MAX_CORES = 4096
_MAX_SITTINGS = 2
_MAX_DOUBTS = 2000
_IDENTITY = ("method", "candidates", "evaluation")
_RUNTIMES: dict[FormKind, Runtime] = {
    "eager": "torch", "channels_last": "torch", "frozen": "torch", "torch": "torch",
    "onnxruntime": "onnxruntime", "openvino": "openvino", "openvino_bf16": "openvino",
}  # fmt: skip


def check_benchmark(report: BenchmarkReport, asked: JobInputs) -> None:
    """Raise ValueError unless it is about this job, names what there is, and gives figures that can be."""
    spec = asked.spec.model_dump(mode="json")
    if any(report.spec.get(name) != spec.get(name) for name in _IDENTITY):
        raise ValueError("it is about another job")
    if len(report.candidates) != len(asked.candidates):
        raise ValueError("it tells of other candidates than there are")
    for found, file in zip(report.candidates, asked.candidates, strict=True):
        _check_candidate(found, file)
    forms = [form for candidate in report.candidates for form in candidate.forms]
    running = {form.name for form in forms if "missing" not in form.labels}
    own = {form.name for form in report.candidates[0].forms} & running
    if report.reference not in own:
        raise ValueError("its reference is none of the first candidate's forms")
    if not report.latency or report.fastest != report.latency[0].fastest:
        raise ValueError("it calls another form the fastest than it has measured")
    check_combinations(report.latency, asked.spec.benchmark)
    for result in report.latency:
        _check_result(result, running, own)
    if any(warning.suggestion for warning in report.warnings):
        raise ValueError("it suggests a change, and there is nothing to be changed")


def check_combinations(
    results: Sequence[BenchmarkResult] | Sequence[ComparisonResult], asked: BenchmarkSettings
) -> None:
    """Raise ValueError unless there is at most one result for each combination that was asked, of a size that can be.

    It may be of another batch size or thread count, where the model or the machine did not take what was asked.
    """
    found = {(each.batch_size, each.threads) for each in results}
    if not len(results) == len(found) <= len(asked.batch_sizes) * len(asked.threads):
        raise ValueError("it measured more than was asked, or the same twice")
    for each in results:
        if any(len(candidate.samples_ms) > MAX_SAMPLES for candidate in each.candidates):
            raise ValueError("it took more samples than rounds are run")
        doubts = len(each.doubts) + sum(len(sitting.doubts) for sitting in each.sittings)
        cores = max(map(len, (each.cores, *(sitting.cores for sitting in each.sittings))))
        if len(each.sittings) > _MAX_SITTINGS or doubts > _MAX_DOUBTS or cores > _MAX_CORES:
            raise ValueError("it tells more of a measurement than there is to tell")


def _check_candidate(found: CandidateResult, file: CandidateFile) -> None:
    if (found.name, found.source) != (file.name, file.source):
        raise ValueError("it tells of other candidates than there are")
    kinds = [form.kind for form in found.forms]
    if len(set(kinds)) != len(kinds):
        raise ValueError("it tells of a form twice")
    for form in found.forms:
        if form.name != f"{file.name}/{form.kind}" or form.runtime != _RUNTIMES[form.kind]:
            raise ValueError("a form has another name or runtime than its kind's")
        if ("missing" in form.labels) is not (form.quality is None):
            raise ValueError("a form that is missing has a quality, or one that runs has none")
        metric = form.quality and form.quality.metric
        if metric and metric.name != "mse" and not abs(metric.drop) <= 1:
            raise ValueError("it has an impossible drop")


def _check_result(result: ComparisonResult, running: set[str], own: set[str]) -> None:
    measured = [each.name for each in result.candidates]
    if len(set(measured)) != len(measured) or not set(measured) <= running:
        raise ValueError("it measured a form twice, or one that does not run")
    if result.baseline not in own.intersection(measured) or result.fastest not in measured:
        raise ValueError("what it compares was not measured")
    if sorted([result.baseline, *(each.name for each in result.speedups)]) != sorted(measured):
        raise ValueError("it compares other forms than it has measured")
    figures = [*(each.speedup for each in result.speedups), *(each.p50_ms for each in result.candidates)]
    if not all(0 < figure <= _GREATEST for figure in figures):  # the interval of two rounds may be as wide as it likes
        raise ValueError("it has an impossible speedup or latency")
