"""An error says what was wrong, where, what to do, and which request it was."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest

import octavo
from octavo._exceptions import status_error
from octavo._types import JobData
from tests.unit.client import samples


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, octavo.BadRequestError),
        (401, octavo.AuthenticationError),
        (403, octavo.PermissionDeniedError),
        (404, octavo.NotFoundError),
        (409, octavo.ConflictError),
        (413, octavo.TooLargeError),
        (422, octavo.UnprocessableError),
        (429, octavo.RateLimitError),
        (500, octavo.InternalServerError),
        (503, octavo.InternalServerError),
        (418, octavo.APIStatusError),
    ],
)
def test_each_status_has_its_class(status: int, kind: type[octavo.APIStatusError]) -> None:
    error = status_error(status, {}, b"{}")
    assert type(error) is kind
    assert error.status_code == status


def test_the_message_shows_code_detail_hint_fields_and_request_id() -> None:
    body = {
        "code": "spec_invalid",
        "detail": "The request body is not valid.",
        "hint": "See /docs.",
        "request_id": "req_1",
        "errors": [{"pointer": "/qat/epochs", "code": "greater_than_equal", "detail": "must be at least 1"}],
    }
    error = status_error(422, {}, json.dumps(body).encode())
    assert error.code == "spec_invalid"
    assert error.errors[0].pointer == "/qat/epochs"
    assert str(error).splitlines() == [
        "The request body is not valid. [422 spec_invalid]",
        "  /qat/epochs: must be at least 1 [greater_than_equal]",
        "Hint: See /docs.",
        "Request id: req_1",
    ]


def test_an_answer_that_is_no_problem_document_is_quoted_in_short() -> None:
    """A proxy's page must not hide that something failed, nor fill the screen."""
    error = status_error(502, {"x-request-id": "req_2"}, b"<html>Bad gateway" + b"x" * 5000)
    assert error.detail.startswith("<html>Bad gateway")
    assert len(str(error)) < 300
    assert error.request_id == "req_2"


@pytest.mark.parametrize("body", [b"[]", b"null", b'"text"', b'{"errors": "none", "hint": 3}', b'{"errors": [1, {}]}'])
def test_odd_json_is_survived(body: bytes) -> None:
    assert status_error(500, {}, body).code == "http_500"


def test_an_error_survives_pickling() -> None:
    """It may cross a process pool."""
    error = status_error(404, {}, b'{"code": "not_found", "detail": "No such job."}')
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.code) == (octavo.NotFoundError, str(error), "not_found")


class _Handle:
    def __init__(self, data: dict[str, Any]) -> None:
        self.data = JobData.model_validate(data)
        self.id = self.data.id
        self.status = self.data.status


def test_job_failed_says_whose_fault_it_was() -> None:
    error = octavo.JobError(code="worker_crashed", message="Killed twice.", owner="service", step="evaluate", hint="h")
    failed = octavo.ServiceFailed(_Handle(samples.job("failed")), error)
    assert str(failed).splitlines() == [
        f"{samples.JOB_ID} failed in step evaluate: Killed twice. [worker_crashed]",
        "The service failed, not your model.",
        "Hint: h",
    ]
    theirs = octavo.JobRefused(_Handle(samples.job("failed")), error.model_copy(update={"owner": "user"}))
    assert "service failed" not in str(theirs)
