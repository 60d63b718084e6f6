"""Making a job of another: the spec that it asked for, patched."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from api.field_errors import patched_spec_error
from api.jobs.requests import Revision
from shared.database.job_repository import JobRepository
from shared.database.records import JobRecord
from shared.errors import FieldError, NoReport, NoSuggestion, NotFound, SpecInvalid, SuggestionRefused
from shared.job_spec import Spec, job_spec_adapter
from shared.quantization_spec import MAX_OVERRIDES
from shared.spec_patch import apply_patch, beyond_suggesting, compose_patches, overrides_of


def revise(jobs: JobRepository, revision: Revision) -> tuple[Spec, dict[str, Any]]:
    """The new spec, and the one patch that made it.

    Raises NotFound, NoReport, NoSuggestion, SuggestionRefused, and SpecInvalid, DataRequired or WrongKind when the
    patched spec is wrong.
    """
    try:
        base = jobs.get(revision.based_on, with_report=bool(revision.apply))
    except NotFound as error:
        error.errors = [FieldError(pointer="/based_on", code=error.code, detail=error.message)]
        raise
    suggested = [_suggestion(base, number, place) for place, number in enumerate(revision.apply)]
    patches = [*suggested, revision.changes]
    _check_count(base.spec, *patches)
    patch = compose_patches(patches)
    patched = apply_patch(base.spec, patch)
    try:
        return job_spec_adapter.validate_python(patched), patch
    except ValidationError as error:
        raise patched_spec_error(error, patched) from error


def _check_count(*added_up: dict[str, Any]) -> None:
    """What is too much is refused before it is merged."""
    count = sum(len(overrides_of(each)) for each in added_up)
    if count > MAX_OVERRIDES:
        detail = f"A spec has at most {MAX_OVERRIDES} overrides; these would be {count}."
        raise SpecInvalid(detail, errors=[FieldError(pointer="/overrides", code="too_long", detail=detail)])


def _suggestion(base: JobRecord, number: int, place: int) -> dict[str, Any]:
    if base.report is None:
        raise NoReport(f"{base.id} is {base.status} and has no report whose suggestions could be applied.")
    warnings = base.report["warnings"]
    suggestion = warnings[number].get("suggestion") if number < len(warnings) else None
    if suggestion is None:
        useful = [str(at) for at, each in enumerate(warnings) if each.get("suggestion")]
        fault = "suggests no change of the spec" if number < len(warnings) else "does not exist"
        message = f"Warning {number} of {base.id} {fault}; those that do: {', '.join(useful) or 'none'}."
        raise NoSuggestion(
            message, errors=[FieldError(pointer=f"/apply/{place}", code=NoSuggestion.code, detail=message)]
        )
    patch: dict[str, Any] = suggestion["patch"]
    if beyond := beyond_suggesting(base.spec, patch):
        fields = ", ".join(f"`{field}`" for field in beyond)
        message = f"The suggestion of warning {number} of {base.id} would change {fields}, which no report may."
        raise SuggestionRefused(
            message, errors=[FieldError(pointer=f"/apply/{place}", code=SuggestionRefused.code, detail=message)]
        )
    return patch
