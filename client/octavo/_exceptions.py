"""What can go wrong, and whose fault it is.

OctavoError
├── APIError                       the request did not do what was asked
│   ├── APIConnectionError         the server was not reached, or the connection broke
│   │   └── APITimeoutError        it did not answer in time
│   └── APIStatusError             it answered with an error: code, detail, hint, errors, request_id
│       ├── BadRequestError        400
│       ├── AuthenticationError    401
│       ├── PermissionDeniedError  403
│       ├── NotFoundError          404
│       ├── ConflictError          409
│       ├── TooLargeError          413
│       ├── UnprocessableError     422
│       ├── RateLimitError         429
│       └── InternalServerError    5xx
├── NoReport                       the job has no report yet, or was listed without it
├── JobFailed                      the job itself failed
│   ├── JobRefused                 what you sent cannot be served: the model, the data or the spec
│   └── ServiceFailed              the service failed, not your model
├── JobCancelled                   somebody cancelled it
├── TargetNotMet                   it succeeded, and the accuracy drop exceeds `max_accuracy_drop`
├── WaitTimeout                    this client stopped waiting; the job goes on
├── ChecksumMismatch               downloaded bytes are not those the server announced
└── ExportFailed                   torch.export could not turn the module into a .pt2
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

if TYPE_CHECKING:
    from octavo._types import JobError


class FieldError(BaseModel):
    """One wrong place in what was sent."""

    pointer: str = ""
    code: str = ""
    detail: str = ""


class OctavoError(Exception):
    """The base of every error that this package raises on purpose."""


# --- the request -----------------------------------------------------------------------------------------------------


class APIError(OctavoError):
    """The request did not do what was asked."""


class APIConnectionError(APIError):
    """The server was not reached, or the connection broke."""


class APITimeoutError(APIConnectionError):
    """The server did not answer in time."""


class APIStatusError(APIError):
    """The server answered with an error.

    Attributes:
        status_code: the HTTP status.
        code: stable machine word, such as `dataset_not_finite`.
        detail: what was wrong.
        hint: what to do next, or None.
        errors: the wrong places in what was sent.
        request_id: show it to the operator; the server's log has it too.
    """

    def __init__(
        self,
        status_code: int,
        *,
        code: str,
        detail: str,
        hint: str | None = None,
        errors: list[FieldError] | None = None,
        request_id: str | None = None,
    ) -> None:
        self.status_code = status_code
        self.code = code
        self.detail = detail
        self.hint = hint
        self.errors = errors or []
        self.request_id = request_id
        super().__init__(self._text())

    def _text(self) -> str:
        lines = [f"{self.detail} [{self.status_code} {self.code}]"]
        lines += [f"  {error.pointer or '/'}: {error.detail} [{error.code}]" for error in self.errors]
        if self.hint:
            lines.append(f"Hint: {self.hint}")
        if self.request_id:
            lines.append(f"Request id: {self.request_id}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.__dict__)


def _rebuild(kind: type[APIStatusError], state: dict[str, Any]) -> APIStatusError:
    return kind(**state)


class BadRequestError(APIStatusError):
    """400: the request cannot be understood."""


class AuthenticationError(APIStatusError):
    """401: no API key was sent, or one that the server does not know."""


class PermissionDeniedError(APIStatusError):
    """403: the key may not do this."""


class NotFoundError(APIStatusError):
    """404: nothing is stored under this id."""


class ConflictError(APIStatusError):
    """409: the request does not fit the present state."""


class TooLargeError(APIStatusError):
    """413: larger than this server accepts."""


class UnprocessableError(APIStatusError):
    """422: understood, and not valid; `errors` says where."""


class RateLimitError(APIStatusError):
    """429: too many requests."""


class InternalServerError(APIStatusError):
    """5xx: the service failed."""


_BY_STATUS: dict[int, type[APIStatusError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    413: TooLargeError,
    422: UnprocessableError,
    429: RateLimitError,
}


def status_error(status_code: int, headers: Mapping[str, str], body: bytes) -> APIStatusError:
    """The exception for an HTTP error response.

    Reads RFC 9457 `application/problem+json`; what else comes, such as a proxy's HTML page, is cut short and quoted.
    """
    kind = _BY_STATUS.get(status_code, InternalServerError if status_code >= 500 else APIStatusError)
    try:
        problem = json.loads(body)
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        problem = {"detail": body[:200].decode(errors="replace").strip()}
    return kind(
        status_code,
        code=str(problem.get("code") or f"http_{status_code}"),
        detail=str(problem.get("detail") or problem.get("title") or "The server answered with an error"),
        hint=str(problem["hint"]) if problem.get("hint") else None,
        errors=_field_errors(problem.get("errors")),
        request_id=str(problem.get("request_id") or "") or headers.get("x-request-id"),
    )


def _field_errors(entries: object) -> list[FieldError]:
    errors = []
    for entry in entries if isinstance(entries, list) else []:
        try:
            errors.append(FieldError.model_validate(entry))
        except ValidationError:
            errors.append(FieldError(detail=str(entry)))
    return errors


# --- the job ---------------------------------------------------------------------------------------------------------


class NoReport(OctavoError):
    """The job has no report yet, or it was listed, and lists leave reports out."""

    def __init__(self, job: Any) -> None:
        self.job = job
        super().__init__(
            f"{job.id} was listed without its report: job.refresh() fetches it"
            if job.status == "succeeded"
            else f"{job.id} is {job.status} and has no report yet: job.wait() waits for it"
        )


class OtherReport(OctavoError):
    """The job has a report of another kind: a benchmark has `benchmark`, a job that quantizes has `report`."""

    def __init__(self, job: Any, attribute: str) -> None:
        self.job = job
        method = job.spec.get("method")
        super().__init__(f"{job.id} is of the method {method}: what was measured is job.{attribute}")


class JobFailed(OctavoError):
    """The job failed; `job` is the handle, `error` says why."""

    def __init__(self, job: Any, error: JobError) -> None:
        self.job = job
        self.error = error
        where = f" in step {error.step}" if error.step else ""
        lines = [f"{job.id} failed{where}: {error.message} [{error.code}]"]
        if isinstance(self, ServiceFailed):
            lines.append("The service failed, not your model.")
        if error.hint:
            lines.append(f"Hint: {error.hint}")
        super().__init__("\n".join(lines))


class JobRefused(JobFailed):
    """What you sent cannot be served: the model, the data or the spec. Trying again changes nothing."""


class ServiceFailed(JobFailed):
    """The service failed, not your model; it has tried again already."""


class JobCancelled(OctavoError):
    """The job was cancelled."""

    def __init__(self, job: Any) -> None:
        self.job = job
        super().__init__(f"{job.id} was cancelled")


class TargetNotMet(OctavoError):
    """The job succeeded, and int8 loses more accuracy than `max_accuracy_drop` allows."""

    def __init__(self, job: Any, sentence: str) -> None:
        self.job = job
        super().__init__(f"{job.id}: {sentence}")


class WaitTimeout(OctavoError):
    """This client stopped waiting; the job goes on, and `job.wait()` takes up the waiting again."""

    def __init__(self, job: Any, timeout: float) -> None:
        self.job = job
        super().__init__(
            f"{job.id} is {job.status} after {timeout:g} s of waiting; it goes on, and job.wait() waits again"
        )


# --- files -----------------------------------------------------------------------------------------------------------


class ChecksumMismatch(OctavoError):
    """Downloaded bytes are not those that the server announced; nothing was kept."""


class ExportFailed(OctavoError):
    """torch.export could not turn the module into a .pt2."""
