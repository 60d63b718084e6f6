"""The candidates of a benchmark: which artifact each job stands for, their names, and that they fit together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from api.jobs.checks import at, described_model
from shared.artifact_inputs import artifact_inputs
from shared.benchmark_spec import MAX_NAME, BenchmarkCandidate, BenchmarkSpec
from shared.candidate_inputs import joined
from shared.database.job_repository import JobRepository
from shared.database.object_repository import ObjectRepository
from shared.database.records import JobRecord
from shared.errors import CandidatesMismatch, DataRequired, JobNotSucceeded, NoArtifact, NotFound
from shared.job import JobStatus
from shared.model_file import TensorDescription
from shared.printable import printable_line


@dataclass(frozen=True)
class Settled:
    """A spec whose candidates are settled: each job names its artifact, and every candidate has a name."""

    spec: BenchmarkSpec
    inputs: list[TensorDescription]
    """What all candidates take, as the first names it."""


def settle(connection: Connection, spec: BenchmarkSpec) -> Settled:
    """Look every candidate up.

    Raises NotFound, JobNotSucceeded, NoArtifact, CandidatesMismatch and DataRequired, with pointers into the spec.
    """
    objects, jobs = ObjectRepository(connection), JobRepository(connection)
    candidates, taken = list[BenchmarkCandidate](), list[list[TensorDescription]]()
    names = {each.name for each in spec.candidates if each.name is not None}
    all_sizes_open = spec.evaluation is None
    for position, candidate in enumerate(spec.candidates):
        field = f"candidates/{position}"
        if candidate.model is not None:
            model = described_model(objects, candidate.model, f"{field}/model")
            # A .pt2 holds the sizes that it was exported with, and a report those of a sample.
            all_sizes_open &= model.format == "onnx" and any(None in each.shape[1:] for each in model.inputs)
            taken.append(model.inputs)
            candidates.append(_named(candidate, objects.get(candidate.model).name or candidate.model, names))
        else:
            job = _succeeded(jobs, candidate, f"{field}/job")
            artifact = _artifact_of(job, candidate, f"{field}/artifact")
            all_sizes_open = False
            taken.append(_taken_by_artifact(objects, job, f"{field}/job"))
            settled = candidate.model_copy(update={"artifact": artifact})
            candidates.append(_named(settled, f"{job.name or job.id}, {artifact}", names))
    if all_sizes_open:
        raise at(
            "evaluation",
            DataRequired(
                "The ONNX files leave sizes beside the batch open, and nothing says what to measure them at.",
                hint="Give data in the sizes that matter as `evaluation`; labels are not needed.",
            ),
        )
    settled_spec = spec.model_copy(update={"candidates": candidates})
    return Settled(settled_spec, _together(taken))


def _succeeded(jobs: JobRepository, candidate: BenchmarkCandidate, field: str) -> JobRecord:
    assert candidate.job is not None
    try:
        job = jobs.get(candidate.job, with_report=True)
    except NotFound as error:
        raise at(field, error) from error
    if job.status is not JobStatus.SUCCEEDED:
        raise at(field, JobNotSucceeded(f"{job.id} is {job.status}, so that it has no artifacts."))
    return job


def _taken_by_artifact(objects: ObjectRepository, job: JobRecord, field: str) -> list[TensorDescription]:
    try:
        return artifact_inputs(objects, job)
    except NoArtifact as error:
        raise at(field, error) from error


def _artifact_of(job: JobRecord, candidate: BenchmarkCandidate, field: str) -> str:
    models = [each.name for each in job.artifacts if each.kind == "model"]
    if not models:
        raise at(field.replace("artifact", "job"), NoArtifact(f"{job.id} has no model among its artifacts."))
    if candidate.artifact is None:
        return _best(job.report or {}, models)
    if candidate.artifact not in models:
        raise at(field, NoArtifact(f"{job.id} has no model {candidate.artifact!r}; it has {', '.join(models)}."))
    return candidate.artifact


def _best(report: dict[str, Any], models: list[str]) -> str:
    """The recommended one, or else the fastest of those that are right."""
    measured_as = {f"int8_{each['runtime']}": each["name"] for each in report.get("artifacts", ())}
    fastest = [measured_as.get(each["int8"]) for each in report.get("latency", ())[:1]]
    return next((name for name in (report.get("recommended"), *fastest) if name in models), models[0])


def _named(candidate: BenchmarkCandidate, default: str, taken: set[str]) -> BenchmarkCandidate:
    """With a name of its own; one that is taken already is numbered."""
    if candidate.name is not None:
        return candidate
    name, number = printable_line(default, limit=MAX_NAME), 1
    while name in taken:
        number += 1
        suffix = f" ({number})"
        name = f"{printable_line(default, limit=MAX_NAME - len(suffix))}{suffix}"
    taken.add(name)
    return candidate.model_copy(update={"name": name})


def _together(taken: Sequence[Sequence[TensorDescription]]) -> list[TensorDescription]:
    together = list(taken[0])
    for position, inputs in enumerate(taken[1:], 1):
        try:
            together = joined(together, inputs)
        except CandidatesMismatch as error:
            raise at(f"candidates/{position}", error) from error
    return together
