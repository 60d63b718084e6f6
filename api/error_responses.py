"""Every error of the API as RFC 9457 problem+json, and the one table of HTTP status codes.

Whatever happens to a request, what the client sees is a `Problem`: also for unknown paths, malformed JSON and errors
that nobody foresaw. Those never show a trace; the trace is in the log, under the request id.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from api.field_errors import field_errors, job_request_error, spec_error, summary
from shared import errors
from shared.errors import FieldError, OctavoError

PROBLEM_MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 2

# An error is answered with the status of its nearest ancestor here.
HTTP_STATUS: dict[type[OctavoError], HTTPStatus] = {
    OctavoError: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.UserError: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.RequestError: HTTPStatus.BAD_REQUEST,
    errors.AuthenticationRequired: HTTPStatus.UNAUTHORIZED,
    errors.ApiKeyInvalid: HTTPStatus.UNAUTHORIZED,
    errors.NotFound: HTTPStatus.NOT_FOUND,
    errors.MethodNotAllowed: HTTPStatus.METHOD_NOT_ALLOWED,
    errors.RequestInvalid: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.BodyTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.UnsupportedMediaType: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    errors.RangeNotSatisfiable: HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
    errors.SpecInvalid: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.DataRequired: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.WrongKind: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.NoSuggestion: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.SuggestionRefused: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.NoArtifact: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.CandidatesMismatch: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.Conflict: HTTPStatus.CONFLICT,
    errors.UploadError: HTTPStatus.BAD_REQUEST,
    errors.UploadTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.PartConflict: HTTPStatus.CONFLICT,
    errors.PartsMissing: HTTPStatus.CONFLICT,
    errors.UploadClosed: HTTPStatus.CONFLICT,
    errors.ServiceError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.ObjectMissing: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.ObjectCorrupt: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.InternalError: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.DiskFull: HTTPStatus.INSUFFICIENT_STORAGE,
}

_FRAMEWORK_ERRORS: dict[int, type[OctavoError]] = {
    400: errors.MalformedJson,  # FastAPI's answer to a body that it cannot decode
    404: errors.NotFound,
    405: errors.MethodNotAllowed,
    413: errors.BodyTooLarge,
    415: errors.UnsupportedMediaType,
}


class Problem(BaseModel):
    """What went wrong, by RFC 9457; `code` is stable, `hint` says what to do next."""

    type: str = Field(default="about:blank", description="A URI reference, by RFC 9457; `code` is the finer word.")
    title: str = Field(description="The HTTP status in words.")
    status: int
    detail: str = Field(description="What was wrong and where, in one or two sentences.")
    code: str = Field(description="Stable machine word, such as `checksum_mismatch`.")
    hint: str | None = Field(default=None, description="What to do next.")
    request_id: str = Field(description="Also in the header X-Request-Id and in the server's log.")
    errors: list[FieldError] = Field(default=[], description="The wrong places, when the fault has some.")


def status_of(error: type[OctavoError]) -> HTTPStatus:
    """The HTTP status of an error class."""
    return next(HTTP_STATUS[each] for each in error.__mro__ if each in HTTP_STATUS)


def problem_of(error: OctavoError, request_id: str) -> Problem:
    """The error as it is shown to the client."""
    status = status_of(type(error))
    return Problem(
        title=status.phrase,
        status=status,
        detail=error.message,
        code=error.code,
        hint=error.hint,
        request_id=request_id,
        errors=error.errors,
    )


def problem_response(error: OctavoError, request_id: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The answer to a request that failed with this error."""
    problem = problem_of(error, request_id)
    extra = dict(headers or {})
    if problem.status == HTTPStatus.UNAUTHORIZED:
        extra["WWW-Authenticate"] = "Bearer"
    if problem.status == HTTPStatus.SERVICE_UNAVAILABLE:
        extra["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return JSONResponse(
        problem.model_dump(mode="json"), status_code=problem.status, headers=extra, media_type=PROBLEM_MEDIA_TYPE
    )


def request_id_of(scope: Mapping[str, Any]) -> str:
    """The id that the request log gave this request."""
    request_id: str = scope["state"]["request_id"]
    return request_id


def add_error_handlers(app: FastAPI) -> None:
    """Render every error that an endpoint or the framework raises; the request log renders what is left."""

    @app.exception_handler(OctavoError)
    async def _octavo_error(request: Request, error: OctavoError) -> JSONResponse:
        return problem_response(error, request_id_of(request.scope))

    @app.exception_handler(RequestValidationError)
    async def _validation_error(request: Request, error: RequestValidationError) -> JSONResponse:
        return problem_response(_invalid(request, error), request_id_of(request.scope))

    @app.exception_handler(HTTPException)
    async def _framework_error(request: Request, error: HTTPException) -> JSONResponse:
        kind = _FRAMEWORK_ERRORS.get(error.status_code, errors.RequestError)
        found = kind(_explain(request, error.status_code))
        return problem_response(found, request_id_of(request.scope), error.headers)


def _explain(request: Request, status: int) -> str | None:
    path = request.url.path
    if status == HTTPStatus.NOT_FOUND:
        return f"There is no path {path!r} here; /docs lists what there is."
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        return f"{path!r} does not take {request.method}."
    return None


def _invalid(request: Request, error: RequestValidationError) -> OctavoError:
    found = error.errors()
    if isinstance(error.body, bytes):
        return errors.UnsupportedMediaType(
            "The request body must be JSON, and must say so.", hint="Send the header `Content-Type: application/json`."
        )
    if found[0]["type"] == "json_invalid":
        position = found[0]["loc"][-1]
        return errors.MalformedJson(f"The request body is not JSON: {found[0]['ctx']['error']} at byte {position}.")
    if request.method == "POST" and request.url.path == "/v1/jobs" and found[0]["loc"][0] == "body":
        return job_request_error(found, error.body)
    fields = field_errors(found, error.body)
    if request.url.path == "/v1/plan" and found[0]["loc"][0] == "body":
        return spec_error(fields)
    return errors.RequestInvalid(summary(fields, whole="The request body"), errors=fields)
