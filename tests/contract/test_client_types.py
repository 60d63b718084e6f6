"""The client's types against the server's schemas: what the client reads is there, what it says is understood."""

from __future__ import annotations

import inspect
import types
import typing
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
from pydantic import BaseModel

from api import examples
from api.app import documented_app
from api.openapi import document
from octavo import (
    _benchmark,
    _benchmark_report,
    _candidate_names,
    _job_report,
    _layer_report,
    _layer_times,
    _plan,
    _report,
    _spec,
    _types,
)
from octavo._exceptions import FieldError
from octavo._sync.jobs import Jobs
from shared import benchmark_report, job_report, job_spec, layer_report, layer_times
from shared import quantization_spec as server_spec
from shared.benchmark_spec import BenchmarkSpec
from shared.job import FINISHED
from shared.job_report import JobReport
from tests.unit.client import samples
from worker import candidate_names
from worker.outputs import EXAMPLE_NAMES, MODEL_NAMES

SCHEMAS: dict[str, Any] = document(documented_app())["components"]["schemas"]


def models_of(*modules: types.ModuleType) -> set[type[BaseModel]]:
    return {
        value
        for module in modules
        for name, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, BaseModel) and value is not BaseModel and name[0] != "_"
    }


PAIRS = {
    _types.Model: "Model",
    _types.Dataset: "Dataset",
    _types.TensorSpec: "ModelInput",
    _types.ArraySpec: "Array",
    _types.Upload: "Upload",
    _types.UploadPart: "Part",
    _types.JobData: "Job",
    _types.Progress: "Progress",
    _types.JobError: "JobError",
    _types.Artifact: "JobArtifact",
    _types.JobEvent: "Event",
    _types.Meta: "Meta",
    _types.WorkerInfo: "Worker",
    FieldError: "FieldError",
    _types.Measurement: "Measurement",
    _report.Report: "JobReport",
    _plan.Plan: "JobPlan",
    **{
        kind: kind.__name__
        for kind in (
            _plan.PlannedLayer,
            _plan.PlannedRuntime,
            _plan.Instructions,
            _plan.Duration,
            _plan.Pace,
            _plan.PlanWorker,
        )
    },
    _benchmark.Benchmark: "BenchmarkReport",
    **{  # in one order, or the workers of a parallel run collect different tests
        kind: kind.__name__
        for kind in sorted(
            models_of(_layer_report, _layer_times, _job_report, _benchmark_report) - {_layer_report.Reported},
            key=lambda kind: kind.__name__,
        )
    },
}


def test_every_wire_type_of_the_client_is_compared() -> None:
    assert models_of(_types) | {FieldError} <= set(PAIRS)


def test_the_client_knows_every_part_of_the_report() -> None:
    """By name, and every field of it: what the server measures, the SDK's users can complete and type-check."""
    server = models_of(layer_report, layer_times, job_report, benchmark_report) - {layer_report.Reported}
    client = {kind.__name__: kind for kind in models_of(_layer_report, _layer_times, _job_report, _benchmark_report)}
    for kind in server:
        assert kind.model_fields.keys() == client[kind.__name__].model_fields.keys(), kind


@pytest.mark.parametrize(("kind", "schema_name"), PAIRS.items(), ids=PAIRS.values())
def test_what_the_client_reads_the_server_sends(kind: type[BaseModel], schema_name: str) -> None:
    """No field of the client is missing on the server, and what the client insists on is always sent."""
    schema = SCHEMAS.get(schema_name) or SCHEMAS[f"{schema_name}-Output"]
    sent = set(schema["properties"])
    read = {field.alias or name for name, field in kind.model_fields.items()}
    assert read <= sent
    insisted = {field.alias or name for name, field in kind.model_fields.items() if field.is_required()}
    filled_in = {name for name, each in schema["properties"].items() if "default" in each or "const" in each}
    always = set(schema.get("required", [])) | filled_in
    assert insisted <= always


@pytest.mark.parametrize(
    ("kind", "example"),
    [
        (_types.Model, examples.MODEL),
        (_types.Dataset, examples.DATASET),
        (_types.Upload, examples.OPEN_UPLOAD),
        (_types.Upload, examples.PARTIAL_UPLOAD),
        (_types.Upload, examples.COMPLETE_UPLOAD),
        (_types.UploadPart, examples.PART),
        (_types.JobData, examples.QUEUED_JOB),
        (_types.JobData, examples.SUCCEEDED_JOB),
        (_types.JobData, examples.BENCHMARK_JOB),
        (_types.JobData, examples.CANCELLED_JOB),
        (_types.Meta, examples.META),
        (_plan.Plan, examples.PLAN),
        *((_types.JobEvent, event) for event in examples.EVENT_PAGE["data"]),
    ],
)
def test_the_documented_examples_are_read_without_loss(kind: type[BaseModel], example: dict[str, Any]) -> None:
    """Every field of the example comes back as it was, whether the client knows it or not."""
    assert contains(kind.model_validate(example).model_dump(mode="json", by_alias=True), example)


def contains(whole: Any, part: Any) -> bool:
    if isinstance(part, dict):
        return all(key in whole and contains(whole[key], value) for key, value in part.items())
    if isinstance(part, list):
        return len(whole) == len(part) and all(map(contains, whole, part))
    return bool(whole == part)


def test_a_finished_job_is_finished_on_both_sides() -> None:
    assert {status.value for status in FINISHED} == _types.FINISHED


def test_the_report_of_the_unit_tests_is_one_that_a_server_could_send() -> None:
    assert contains(JobReport.model_validate(samples.report()).model_dump(mode="json"), samples.report())


def test_the_client_calls_runtimes_and_candidates_what_the_server_calls_them() -> None:
    assert _candidate_names.RUNTIME_NAMES == candidate_names.RUNTIME_NAMES
    assert _candidate_names.CANDIDATE_NAMES == candidate_names.CANDIDATE_NAMES
    assert _candidate_names.FORM_NAMES == candidate_names.FORM_NAMES
    assert set(candidate_names.FORM_NAMES) == choices(benchmark_report.FormKind)


def test_an_artifact_and_its_example_have_the_names_that_the_server_gives_them() -> None:
    for runtime, name in MODEL_NAMES.items():
        found = samples.report(recommended=name, artifacts=[samples.artifact_result(name, runtime)])
        assert _report.Report.model_validate(found).recommended_files == [name, EXAMPLE_NAMES[runtime]]


def choices(annotation: Any) -> set[Any]:
    """The words of every Literal in an annotation."""
    if get_origin(annotation) is Literal:
        return set(get_args(annotation))
    return {word for inner in get_args(annotation) for word in choices(inner)}


def spec_fields() -> dict[str, Any]:
    """Every field of any method's spec, with its annotation."""
    fields: dict[str, Any] = {}
    for kind in (server_spec.DynamicSpec, server_spec.StaticSpec, server_spec.QatSpec):
        for name, field in kind.model_fields.items():
            fields.setdefault(name, field.annotation)
    return fields


def test_quantize_takes_every_field_of_the_spec_and_no_other() -> None:
    hints = get_type_hints(Jobs.quantize)
    given = set(inspect.signature(Jobs.quantize).parameters) - {"self"}
    assert given == set(spec_fields()) | {"based_on", "apply"}
    assert choices(hints["method"]) == set(job_spec.METHODS) - {"benchmark"}
    for name in ("metric", "qengine", "precision", "runtimes"):
        assert choices(hints[name]) == choices(spec_fields()[name])


def test_plan_takes_what_quantize_takes_but_for_what_a_plan_does_not_depend_on() -> None:
    quantize, plan = (get_type_hints(method) for method in (Jobs.quantize, Jobs.plan))
    of_a_job = {
        "based_on", "apply", "metric", "max_accuracy_drop", "recovery", "measure_on", "seed", "name", "metadata"
    }  # fmt: skip
    assert plan.keys() == quantize.keys() - of_a_job
    alike = plan.keys() - {"model", "method", "return"}
    assert {name: plan[name] for name in alike} == {name: quantize[name] for name in alike}


def test_a_benchmark_takes_every_field_of_its_spec_and_no_other() -> None:
    fields = {name: field.annotation for name, field in BenchmarkSpec.model_fields.items()}
    options = get_type_hints(_spec.BenchmarkOptions)
    assert set(fields) == {*options, "method", "candidates", "evaluation"}
    for name in ("metric", "runtimes"):
        assert choices(options[name]) == choices(fields[name])


@pytest.mark.parametrize(
    ("settings", "schema"),
    [
        (_spec.ActivationSettings, server_spec.ActivationSettings),
        (_spec.WeightSettings, server_spec.WeightSettings),
        (_spec.Override, server_spec.Override),
        (_spec.ActivationOverride, server_spec.ActivationOverride),
        (_spec.WeightOverride, server_spec.WeightOverride),
        (_spec.RecoverySettings, server_spec.RecoverySettings),
        (_spec.AnalysisSettings, server_spec.AnalysisSettings),
        (_spec.QatSettings, server_spec.QatSettings),
        (_spec.BenchmarkSettings, server_spec.BenchmarkSettings),
        (_spec.Hardware, server_spec.Hardware),
    ],
)
def test_typed_settings_are_those_of_the_server(settings: Any, schema: type[BaseModel]) -> None:
    """The same keys, and for each the same words."""
    hints = typing.get_type_hints(settings)
    assert hints.keys() == schema.model_fields.keys()
    for name, hint in hints.items():
        assert choices(hint) == choices(schema.model_fields[name].annotation), name
