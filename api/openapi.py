"""The OpenAPI document: every answer with its example, every error a problem."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from api import examples
from api.auth import PUBLIC_PATHS
from api.error_responses import PROBLEM_MEDIA_TYPE, Problem, problem_of, status_of
from shared import errors
from shared.errors import OctavoError

_EXAMPLE_REQUEST_ID = "req_019abc5d3f1a7b9c2d4e6f80"
_PROBLEM_SCHEMA = {"$ref": "#/components/schemas/Problem"}
_PUBLIC = (errors.InternalError,)
_ALWAYS = (*_PUBLIC, errors.AuthenticationRequired, errors.ApiKeyInvalid, errors.DatabaseUnavailable)

_DESCRIPTION = """\
Octavo turns a PyTorch model and some data into an int8 model with the proof that it is good, and measures models
against each other.

Upload a model and datasets, submit a job, follow it, download its artifacts. Every error is an RFC 9457 problem whose
`code` is stable and whose `hint` says what to do next. Every POST takes an `Idempotency-Key`.
"""


def answer(status: int, model: Any, description: str, *examples: str, **more: Any) -> dict[int | str, dict[str, Any]]:
    """One documented JSON answer; its examples are some of `api.examples.ANSWERS`."""
    return {
        status: {
            "model": model,
            "description": description,
            "content": {"application/json": {"examples": reference(*examples)}},
            **more,
        }
    }


def reference(*examples: str) -> dict[str, Any]:
    """The named examples: FastAPI would drop every null from one that stood here."""
    return {each: {"$ref": f"#/components/examples/{each}"} for each in examples}


def problems(*kinds: type[OctavoError]) -> dict[int | str, dict[str, Any]]:
    """The problems that an operation answers with, each with its example, by status."""
    found: dict[int | str, dict[str, Any]] = {}
    for kind in kinds:
        status = status_of(kind)
        response = found.setdefault(
            int(status),
            {
                "description": status.phrase,
                "content": {PROBLEM_MEDIA_TYPE: {"schema": _PROBLEM_SCHEMA, "examples": {}}},
            },
        )
        response["content"][PROBLEM_MEDIA_TYPE]["examples"].update(reference(kind.code))
    return found


def file_body(description: str) -> dict[str, Any]:
    """A request body that is the bytes of a file."""
    return {
        "requestBody": {
            "required": True,
            "description": description,
            "content": {
                "application/octet-stream": {
                    "schema": {"type": "string", "format": "binary"},
                    "example": "(the bytes of the file)",
                }
            },
        }
    }


def document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI 3.1 document of the app."""
    if app.openapi_schema is None:
        found = get_openapi(
            title="Octavo", version="1", openapi_version="3.1.0", description=_DESCRIPTION, routes=app.routes
        )
        schemas = found.setdefault("components", {}).setdefault("schemas", {})
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(problem.pop("$defs", {}))
        schemas["Problem"] = problem
        found["components"]["schemas"] = dict(sorted(schemas.items()))
        found["components"]["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
        for path, operations in found["paths"].items():
            for operation in operations.values():
                _complete(operation, public=path in PUBLIC_PATHS)
        used = _used_codes(found)
        found["components"]["examples"] = {name: {"value": value} for name, value in examples.ANSWERS.items()} | {
            kind.code: _problem_example(kind) for kind in _error_classes(OctavoError) if kind.code in used
        }
        app.openapi_schema = found
    return app.openapi_schema


def _used_codes(found: dict[str, Any]) -> set[str]:
    return {
        code
        for operations in found["paths"].values()
        for operation in operations.values()
        for response in operation["responses"].values()
        for code in response.get("content", {}).get(PROBLEM_MEDIA_TYPE, {}).get("examples", {})
    }


def _error_classes(kind: type[OctavoError]) -> list[type[OctavoError]]:
    return [kind, *(each for child in kind.__subclasses__() for each in _error_classes(child))]


def _problem_example(kind: type[OctavoError]) -> dict[str, Any]:
    problem = problem_of(kind(), _EXAMPLE_REQUEST_ID)
    return {"summary": problem.detail, "value": problem.model_dump(mode="json")}


def _complete(operation: dict[str, Any], *, public: bool) -> None:
    """Add what every operation has, and drop FastAPI's own picture of a validation error."""
    responses: dict[str, Any] = operation["responses"]
    if not public:
        operation["security"] = [{"bearer": []}]
    for status, response in list(responses.items()):
        schema = response.get("content", {}).get("application/json", {}).get("schema", {})
        if schema.get("$ref", "").endswith("/HTTPValidationError"):
            del responses[status]
    for code, problem in problems(*(_PUBLIC if public else _ALWAYS)).items():
        _merge(responses, str(code), problem)
    for response in responses.values():
        response.setdefault("headers", {})["X-Request-Id"] = {
            "description": "The id of this request, in the server's log too.",
            "schema": {"type": "string"},
            "example": _EXAMPLE_REQUEST_ID,
        }
    operation["responses"] = dict(sorted(responses.items()))


def _merge(responses: dict[str, Any], status: str, response: Mapping[str, Any]) -> None:
    known = responses.setdefault(status, dict(response))
    content = known.setdefault("content", {})
    if PROBLEM_MEDIA_TYPE in content:
        content[PROBLEM_MEDIA_TYPE]["examples"] = {
            **response["content"][PROBLEM_MEDIA_TYPE]["examples"],
            **content[PROBLEM_MEDIA_TYPE]["examples"],
        }
    else:
        content[PROBLEM_MEDIA_TYPE] = response["content"][PROBLEM_MEDIA_TYPE]
