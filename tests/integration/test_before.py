"""What a runner is told of the job that its own was made from."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from api.examples import SUCCEEDED_JOB
from shared.database import Database, migrate
from shared.database.job_repository import JobRepository
from shared.job_report import Before
from shared.quantization_spec import DynamicSpec
from tests.services.workers import described
from worker.before import read_before
from worker.job_folder import JobFolder, JobInputs

SPEC = DynamicSpec(method="dynamic", model="mdl_" + "0" * 23)
REPORT: dict[str, Any] = SUCCEEDED_JOB["report"]
CHANGES = {"seed": 3}


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Database:
    url = f"sqlite:///{tmp_path_factory.mktemp('data') / 'octavo.sqlite3'}"
    migrate(url)
    return Database(url)


def create(database: Database, based_on: str | None = None) -> str:
    with database.write() as connection:
        changes = None if based_on is None else CHANGES
        return JobRepository(connection).create(SPEC, based_on=based_on, changes=changes).id


def succeeded(database: Database, report: dict[str, Any]) -> str:
    job_id = create(database)
    with database.write() as connection:
        jobs = JobRepository(connection)
        claim = jobs.claim(job_id, worker_id="wrk_1", lease_seconds=60, worker=described())
        assert claim is not None
        jobs.succeed(claim, deepcopy(report), [])
    return job_id


def before(database: Database, job_id: str) -> Before | None:
    with database.read() as connection:
        return read_before(JobRepository(connection), job_id)


def test_the_outcome_of_the_other_job_comes_without_its_raw_samples(database: Database, tmp_path: Path) -> None:
    """It survives the way through job.json."""
    base = succeeded(database, REPORT)
    found = before(database, create(database, base))
    assert found is not None
    assert (found.job, found.changes, found.method) == (base, CHANGES, "static")
    told = found.model_dump(mode="json")
    for part in ("verdict", "quality", "size"):
        assert told[part] == REPORT[part]
    candidates = [{**each, "samples_ms": []} for each in REPORT["latency"][0]["candidates"]]
    assert told["latency"] == [{**REPORT["latency"][0], "candidates": candidates}]
    folder = JobFolder(tmp_path / "job")
    folder.create(JobInputs(job_id="job_1", spec=SPEC, datasets={}, threads=1, before=found))
    assert folder.read_inputs().before == found


def test_a_job_of_its_own_has_no_before(database: Database) -> None:
    assert before(database, succeeded(database, REPORT)) is None


def test_a_job_that_gave_no_report_is_nothing_to_compare_with(database: Database) -> None:
    assert before(database, create(database, create(database))) is None
    assert before(database, create(database, "job_that_is_gone")) is None


def test_a_report_of_another_form_is_left_out_and_the_job_runs_all_the_same(database: Database) -> None:
    other = {**REPORT, "size": {"invented": 1}}
    assert before(database, create(database, succeeded(database, other))) is None


def test_a_report_of_the_first_schema_can_be_compared_with(database: Database) -> None:
    older = {name: REPORT[name] for name in ("method", "verdict", "quality", "latency", "size", "environment")}
    assert before(database, create(database, succeeded(database, {**older, "schema_version": "1.0"}))) is not None
