"""Every error class has a status; the headers that belong to it come with it."""

from __future__ import annotations

import json

import pytest

from api.error_responses import HTTP_STATUS, RETRY_AFTER_SECONDS, problem_response, status_of
from shared import errors
from shared.errors import OctavoError


def tree(kind: type[OctavoError]) -> list[type[OctavoError]]:
    return [kind, *(each for child in kind.__subclasses__() for each in tree(child))]


@pytest.mark.parametrize("kind", tree(OctavoError))
def test_the_users_faults_are_4xx_and_the_services_5xx(kind: type[OctavoError]) -> None:
    assert (status_of(kind) < 500) == issubclass(kind, errors.UserError)


def test_a_subclass_without_an_entry_has_the_status_of_its_nearest_ancestor() -> None:
    assert errors.ModelIsPickle not in HTTP_STATUS
    assert status_of(errors.ModelIsPickle) == 422
    assert status_of(errors.ObjectInUse) == 409


def test_a_problem_carries_message_hint_places_and_request_id() -> None:
    place = errors.FieldError(pointer="/model", code="not_found", detail="Nothing there.")
    response = problem_response(errors.NotFound("No such model.", hint="Look.", errors=[place]), "req_1")
    assert response.media_type == "application/problem+json"
    assert json.loads(response.body) == {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "detail": "No such model.",
        "code": "not_found",
        "hint": "Look.",
        "request_id": "req_1",
        "errors": [place.model_dump()],
    }


def test_401_says_how_to_authenticate_and_503_when_to_come_back() -> None:
    assert problem_response(errors.ApiKeyInvalid(), "r").headers["WWW-Authenticate"] == "Bearer"
    down = problem_response(errors.StorageUnavailable(), "r")
    assert (down.status_code, down.headers["Retry-After"]) == (503, str(RETRY_AFTER_SECONDS))
    assert "Retry-After" not in problem_response(errors.InternalError(), "r").headers
