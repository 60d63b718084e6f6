"""Jobs made from other jobs over HTTP: suggestions applied, changes merged, and what is wrong named."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from api.examples import SUCCEEDED_JOB
from api.jobs import service
from api.jobs.requests import Revision
from api.jobs.revising import revise
from shared.database.job_repository import JobRepository
from tests.api_server import Api, PretendedWorker, images

OVERRIDE = {"layer": "conv1", "activation": {"observer": "percentile"}}
WARNINGS = [
    {"code": "outliers", "message": "m", "suggestion": {"title": "t", "patch": {"overrides": [OVERRIDE]}}},
    {"code": "few_samples", "message": "m", "suggestion": None},
    {"code": "mostly_float", "message": "m", "suggestion": {"title": "t", "patch": {"method": "dynamic"}}},
    {"code": "older", "message": "of a report without suggestions"},
    {"code": "mostly_float", "message": "m", "suggestion": {"title": "t", "patch": {"method": "qat"}}},
]


@pytest.fixture
def spec(api: Api, small_net: Path) -> dict[str, Any]:
    """Of a static job, with a field of every kind that differs from its default."""
    return {
        "method": "static",
        "model": api.add_model(small_net),
        "calibration": api.add_dataset(images()),
        "overrides": [{"layer": "head"}],
        "activation": {"observer": "minmax"},
        "name": "the first",
        "metadata": {"team": "vision"},
    }


def succeeded(api: Api, spec: dict[str, Any], warnings: list[dict[str, Any]]) -> str:
    """A job that succeeded with these warnings."""
    job_id: str = api.submit(**spec)["id"]
    worker = PretendedWorker(api, job_id)
    with api.database.write() as connection:
        report = {**deepcopy(SUCCEEDED_JOB["report"]), "warnings": warnings}
        JobRepository(connection).succeed(worker._claim, report, [])
    return job_id


@pytest.fixture
def base(api: Api, spec: dict[str, Any]) -> str:
    """A job that succeeded with WARNINGS."""
    return succeeded(api, spec, WARNINGS)


def refused(api: Api, status: int, **body: Any) -> dict[str, Any]:
    jobs = len(api.client.get("/v1/jobs").json()["data"])
    # The client's own encoder refuses lone surrogates, which a hostile one would send.
    answer = api.client.post("/v1/jobs", content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text
    assert len(api.client.get("/v1/jobs").json()["data"]) == jobs
    problem: dict[str, Any] = answer.json()
    return problem


def test_a_suggestion_and_changes_make_a_new_job_of_an_old_one(api: Api, base: str) -> None:
    """Everything else stays as it was asked; the job says what it is made of."""
    changes = {"max_accuracy_drop": None, "activation": {"percentile": 99.9}, "overrides": [{"op": "add"}]}
    job = api.submit(based_on=base, apply=[0], changes=changes)
    before = api.client.get(f"/v1/jobs/{base}").json()
    assert [(each["layer"], each["op"]) for each in job["spec"]["overrides"]] == [
        ("head", None),
        ("conv1", None),
        (None, "add"),
    ]
    assert job["spec"]["overrides"][1]["activation"]["observer"] == "percentile"
    assert (job["spec"]["activation"]["observer"], job["spec"]["activation"]["percentile"]) == ("minmax", 99.9)
    assert (job["spec"]["max_accuracy_drop"], job["name"], job["metadata"]) == (None, "the first", {"team": "vision"})
    same = job["spec"].keys() - {"overrides", "activation", "max_accuracy_drop"}
    assert {key: job["spec"][key] for key in same} == {key: before["spec"][key] for key in same}
    assert job["based_on"] == base
    assert job["changes"] == {**changes, "overrides": [OVERRIDE, {"op": "add"}]}
    assert api.client.get(f"/v1/jobs/{job['id']}").json() == job
    assert (before["based_on"], before["changes"]) == (None, None)
    assert api.client.get("/v1/jobs").json()["data"][0]["based_on"] == base


def test_changes_alone_need_no_report(api: Api, spec: dict[str, Any]) -> None:
    """A job that has not run, or was cancelled, can be asked for again."""
    first = api.submit(**spec)
    again = api.submit(based_on=first["id"])
    assert (again["spec"], again["changes"], again["id"] != first["id"]) == (first["spec"], {}, True)
    named = api.submit(based_on=again["id"], changes={"name": "the third", "metadata": {"run": "3"}})
    assert (named["name"], named["metadata"]) == ("the third", {"team": "vision", "run": "3"})


def test_a_revision_of_a_revision_is_based_on_that(api: Api, base: str) -> None:
    second = api.submit(based_on=base, apply=[0])
    third = api.submit(based_on=second["id"], changes={"seed": 4})
    assert (third["based_on"], third["changes"]) == (second["id"], {"seed": 4})
    assert third["spec"]["overrides"] == second["spec"]["overrides"]


def test_another_method_leaves_behind_what_it_does_not_know(api: Api, base: str) -> None:
    spec = api.submit(based_on=base, apply=[2])["spec"]
    assert spec["method"] == "dynamic"
    assert not {"calibration", "activation", "recovery", "qengine"} & spec.keys()
    assert spec["overrides"][0]["layer"] == "head"


def test_a_method_that_lacks_its_data_says_which(api: Api, base: str) -> None:
    problem = refused(api, 422, based_on=base, apply=[4])
    assert (problem["code"], problem["errors"][0]["pointer"]) == ("data_required", "/training")
    assert problem["detail"] == "This method needs a training dataset, and the patched spec names none."
    assert 'name it in the changes: "training": "dst_…"' in problem["hint"]


def test_the_same_key_makes_one_job_and_another_request_under_it_is_refused(api: Api, base: str) -> None:
    body, headers = {"based_on": base, "apply": [0]}, {"Idempotency-Key": "again"}
    first, second = (api.client.post("/v1/jobs", json=body, headers=headers) for _ in range(2))
    assert first.json() == second.json()
    other = api.client.post("/v1/jobs", json={**body, "apply": []}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_key_reused")


def test_an_unknown_job_is_not_found(api: Api) -> None:
    problem = refused(api, 404, based_on="job_0000000000000000000000")
    assert (problem["code"], problem["errors"][0]["pointer"]) == ("not_found", "/based_on")


def test_what_names_a_model_is_the_wrong_kind_of_job(api: Api, spec: dict[str, Any]) -> None:
    problem = refused(api, 422, based_on=spec["model"])
    assert (problem["code"], problem["errors"][0]["pointer"]) == ("wrong_kind", "/based_on")
    assert "names a model; this field takes a job" in problem["detail"]


def test_suggestions_of_a_job_without_a_report_are_a_conflict(api: Api, spec: dict[str, Any]) -> None:
    job = api.submit(**spec)
    problem = refused(api, 409, based_on=job["id"], apply=[0])
    assert problem["code"] == "no_report"
    assert "is queued and has no report" in problem["detail"]


@pytest.mark.parametrize(("number", "words"), [(1, "suggests no change"), (3, "suggests no change"), (5, "not exist")])
def test_a_warning_without_a_suggestion_is_named_with_those_that_have_one(
    api: Api, base: str, number: int, words: str
) -> None:
    problem = refused(api, 422, based_on=base, apply=[0, number])
    assert (problem["code"], problem["errors"][0]["pointer"]) == ("no_suggestion", "/apply/1")
    assert words in problem["detail"]
    assert "those that do: 0, 2, 4." in problem["detail"]


def suggesting(*patches: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"code": "c", "message": "m", "suggestion": {"title": "t", "patch": patch}} for patch in patches]


def test_a_suggestion_that_names_objects_or_moves_the_target_is_refused(api: Api, spec: dict[str, Any]) -> None:
    """The report was written in the process that ran the upload: a hostile one writes what it likes."""
    foreign = api.add_dataset(images(seed=1))
    patches: list[dict[str, Any]] = [
        {"calibration": foreign},
        {"overrides": [OVERRIDE], "model": spec["model"]},
        {"evaluation": foreign, "max_accuracy_drop": None},
        {"name": "another", "metadata": {}},
        {"colour": "red"},
    ]
    base = succeeded(api, spec, suggesting(*patches))
    for number, patch in enumerate(patches):
        problem = refused(api, 422, based_on=base, apply=[number])
        assert (problem["code"], problem["errors"][0]["pointer"]) == ("suggestion_refused", "/apply/0")
        beyond = ", ".join(f"`{field}`" for field in patch if field != "overrides")
        assert problem["detail"].endswith(f"would change {beyond}, which no report may.")
    by_hand = api.submit(based_on=base, changes=patches[0])
    assert by_hand["spec"]["calibration"] == foreign


def test_a_suggestion_may_calibrate_on_data_that_the_spec_names(api: Api, spec: dict[str, Any]) -> None:
    evaluation = api.add_dataset(images(seed=1))
    base = succeeded(api, spec | {"evaluation": evaluation}, suggesting({"calibration": evaluation}))
    assert api.submit(based_on=base, apply=[0])["spec"]["calibration"] == evaluation


DEEP: dict[str, Any] = {}
for _ in range(60):
    DEEP = {"a": DEEP}


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"changes": {"colour": "red"}}, "/colour"),
        ({"changes": {"method": "magic"}}, ""),
        ({"changes": {"qat": {"epochs": 1}}}, "/qat"),
        ({"changes": {"benchmark": {"batch_sizes": [0]}}}, "/benchmark/batch_sizes/0"),
        ({"changes": {"overrides": [{"precision": "int8"}]}}, "/overrides/1"),
        ({"changes": {"overrides": 3}}, "/overrides"),
        ({"changes": {"name": "\ud800"}}, "/changes"),
        ({"changes": {"\ud800": None}}, "/changes"),
        ({"changes": {"metadata": {"a\u0000": None}}}, "/changes"),
        ({"changes": {"metadata": DEEP}}, "/changes"),
        ({"changes": []}, "/changes"),
        ({"changes": {"colour": None}}, "/changes"),
        ({"changes": {"activation": {"percentle": None}}}, "/changes"),
        ({"changes": {"seed": {"x": None}}}, "/changes"),
        ({"changes": {"metadata": {f"{number}" * 10: None for number in range(5000)}}}, "/changes"),
        ({"changes": {"overrides": [{"op": f"{number}"} for number in range(1000)]}}, "/overrides"),
        ({"apply": [0, 0]}, "/apply"),
        ({"apply": [-1]}, "/apply/0"),
        ({"apply": ["first"]}, "/apply/0"),
        ({"apply": 0}, "/apply"),
        ({"method": "static"}, "/method"),
    ],
)
def test_what_is_wrong_is_pointed_at(api: Api, base: str, body: dict[str, Any], pointer: str) -> None:
    """In the patched spec, or in the request where that is wrong itself."""
    problem = refused(api, 422, based_on=base, **body)
    assert (problem["code"], problem["errors"][0]["pointer"]) == ("spec_invalid", pointer)


def test_a_job_is_revised_while_others_write(api: Api, base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A patch may take a while to merge: no transaction that writes is open meanwhile."""

    def revise_and_write(jobs: JobRepository, revision: Revision) -> Any:
        with api.database.write() as connection:
            JobRepository(connection).versions({base})
        return revise(jobs, revision)

    monkeypatch.setattr(service, "revise", revise_and_write)
    assert api.submit(based_on=base, apply=[0])["based_on"] == base


def test_fields_of_the_spec_beside_based_on_are_told_where_they_belong(api: Api, base: str) -> None:
    problem = refused(api, 422, based_on=base, max_accuracy_drop=0.1)
    assert problem["detail"] == "/max_accuracy_drop: `max_accuracy_drop` is not a field."
    assert "go into `changes`" in problem["hint"]


def test_the_patched_spec_is_checked_against_the_data_like_any_other(api: Api, base: str) -> None:
    problem = refused(api, 422, based_on=base, changes={"metric": "top1"})
    assert (problem["code"], problem["errors"][0]["pointer"]) == ("labels_unusable", "/calibration")
    problem = refused(api, 404, based_on=base, changes={"evaluation": "dst_0000000000000000000000"})
    assert problem["errors"][0]["pointer"] == "/evaluation"
