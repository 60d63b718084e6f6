"""Which files of the store a job needs in its folder, and what they are there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import Connection

from shared.artifact_inputs import artifact_inputs
from shared.benchmark_spec import BenchmarkCandidate, BenchmarkSpec
from shared.database.job_repository import JobRepository
from shared.database.object_repository import ObjectRepository
from shared.database.records import JobRecord
from shared.errors import NoArtifact
from shared.job_report import OutputFidelity
from shared.job_spec import Spec, dataset_roles
from shared.model_file import ModelDescription
from shared.object_store import artifact_key, blob_key
from worker.job_folder import CandidateFile

MODEL_FILE = "model.pt2"
_fidelity: TypeAdapter[list[OutputFidelity]] = TypeAdapter(list[OutputFidelity])


@dataclass(frozen=True)
class WantedFile:
    """One file, by its key in the store."""

    key: str
    sha256: str
    name: str
    """Below inputs/."""
    size_bytes: int


@dataclass(frozen=True)
class WantedFiles:
    """All that a job needs, and how the recipe is told of it."""

    files: list[WantedFile]
    datasets: dict[str, str]
    """Role to file name."""
    candidates: list[CandidateFile]


def wanted_files(connection: Connection, spec: Spec) -> WantedFiles:
    """Look up what the spec names; raises NotFound, which a job that was accepted does not meet."""
    objects = ObjectRepository(connection)
    files: list[WantedFile] = []
    candidates: list[CandidateFile] = []
    if isinstance(spec, BenchmarkSpec):
        fetched: dict[tuple[str, str], WantedFile] = {}
        for position in range(len(spec.candidates)):
            file, candidate = _candidate(connection, spec, position)
            same = fetched.setdefault((file.key, Path(file.name).suffix), file)  # one that is named again is there
            candidates.append(candidate.model_copy(update={"file": same.name}))
        files += fetched.values()
    else:
        files.append(_uploaded(objects, spec.model, MODEL_FILE))
    datasets = {}
    for role, dataset_id in dataset_roles(spec).items():
        datasets[role] = f"{role}.{objects.get(dataset_id).description['format']}"
        files.append(_uploaded(objects, dataset_id, datasets[role]))
    return WantedFiles(files, datasets, candidates)


def _uploaded(objects: ObjectRepository, object_id: str, name: str) -> WantedFile:
    found = objects.get(object_id)
    return WantedFile(blob_key(found.sha256), found.sha256, name, found.size_bytes)


def _candidate(connection: Connection, spec: BenchmarkSpec, position: int) -> tuple[WantedFile, CandidateFile]:
    candidate, objects = spec.candidates[position], ObjectRepository(connection)
    called = candidate.name or f"candidate {position + 1}"
    if candidate.job is not None:
        job = JobRepository(connection).get(candidate.job, with_report=True)
        return _artifact(objects, job, spec, position, called)
    assert candidate.model is not None
    model = ModelDescription.model_validate(objects.get(candidate.model).description)
    name = f"candidate-{position}.{model.format}"
    told = CandidateFile(name=called, source=candidate.model, file=name, format=model.format, inputs=model.inputs)
    return _uploaded(objects, candidate.model, name), told


def _artifact(
    objects: ObjectRepository, job: JobRecord, spec: BenchmarkSpec, position: int, called: str
) -> tuple[WantedFile, CandidateFile]:
    """An artifact lies under the fence of the attempt that was accepted; no later one ever begins."""
    asked = spec.candidates[position].artifact
    report: dict[str, Any] = job.report or {}
    result = next((each for each in report.get("artifacts", ()) if each["name"] == asked), None)
    stored = next((each for each in job.artifacts if each.name == asked), None)
    if stored is None or result is None:
        raise NoArtifact(f"{job.id} has no artifact {asked!r} any more.")
    kind: Literal["torchscript", "onnx"] = "torchscript" if result["runtime"] == "torch" else "onnx"
    name = f"artifact-{position}.{'pt' if kind == 'torchscript' else 'onnx'}"
    told = CandidateFile(
        name=called,
        source=f"{job.id}/{stored.name}",
        file=name,
        format=kind,
        inputs=artifact_inputs(objects, job),
        runtime=result["runtime"],
        qengine=report["environment"]["qengine"] if kind == "torchscript" else None,
        expected=_expected(job, result, spec) if _is_held_against_its_own(job, spec) else None,
    )
    return WantedFile(artifact_key(job.id, job.fence, stored.name), stored.sha256, name, stored.size_bytes), told


def _is_held_against_its_own(job: JobRecord, spec: BenchmarkSpec) -> bool:
    """Whether the reference is the model that the artifact was made of."""
    first: BenchmarkCandidate = spec.candidates[0]
    return first.model is not None and first.model == job.spec["model"]


def _expected(job: JobRecord, result: dict[str, Any], spec: BenchmarkSpec) -> list[OutputFidelity] | None:
    """How near it was to the reference where it was made; None where that was on other data."""
    quality = result.get("quality")
    if quality is None:
        return None
    source = quality["data"]
    evaluated_on = None if source == "synthetic" else job.spec.get(source)
    if evaluated_on != spec.evaluation or (source == "synthetic" and job.spec["seed"] != spec.seed):
        return None
    try:
        return _fidelity.validate_python(quality["fidelity"])
    except ValidationError:  # of another version of Octavo, whose report had another form
        return None
