"""What POST /v1/jobs takes: a spec, or an earlier job and what shall differ."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator

from shared.benchmark_spec import JobId
from shared.job_spec import JobSpec
from shared.spec_patch import unknown_nulls

# Whatever belongs into a spec has few levels and can be kept as JSON by PostgreSQL.
_MAX_DEPTH = 16
_MAX_BYTES = 64 * 1024
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


class Revision(BaseModel):
    """A job made from another: that one's spec as it was asked, with suggestions of its report and changes applied."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    based_on: JobId
    apply: list[Annotated[int, Field(ge=0)]] = Field(
        default=[],
        max_length=100,
        description="Numbers of warnings in that job's `report.warnings`, from 0, whose suggestions to apply.",
    )
    changes: dict[str, Any] = Field(
        default={},
        description=(
            "A JSON merge patch (RFC 7396) on the spec, applied last: null brings a default back. But `overrides` are "
            "added behind those that are there, and `max_accuracy_drop: null` sets no target. With another `method`, "
            "what it does not know is left behind."
        ),
    )

    @field_validator("apply")
    @classmethod
    def _once(cls, numbers: list[int]) -> list[int]:
        if len(set(numbers)) < len(numbers):
            raise ValueError("a suggestion is applied once: name each number once")
        return numbers

    @field_validator("changes")
    @classmethod
    def _storable(cls, changes: dict[str, Any]) -> dict[str, Any]:
        level: list[Any] = [changes]
        for _ in range(_MAX_DEPTH):
            if any(_UNSTORABLE.search(text) for each in level for text in _texts(each)):
                raise ValueError("NUL and lone surrogates are no text that can be kept")
            level = [inner for each in level for inner in _inside(each)]
        if level:
            raise ValueError(f"a spec is not nested {_MAX_DEPTH} levels deep")
        if len(json.dumps(changes)) > _MAX_BYTES:
            raise ValueError(f"these are more than {_MAX_BYTES // 1024} kB of changes")
        if unknown := unknown_nulls(changes):
            raise ValueError(f"`{unknown[0][:100]}` is not a field of any method")
        return changes


def _texts(value: Any) -> Iterable[str]:
    return value if isinstance(value, dict) else [value] if isinstance(value, str) else ()


def _inside(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _kind(body: Any) -> str:
    return "revision" if isinstance(body, dict) and "based_on" in body else "spec"


JobRequest = Annotated[Annotated[JobSpec, Tag("spec")] | Annotated[Revision, Tag("revision")], Discriminator(_kind)]
