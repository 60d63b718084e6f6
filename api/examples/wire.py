"""What all examples share: one way to the wire, and when the story begins."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

STARTED = 1_795_438_800.0  # 2026-11-23T13:00:00Z
ARTIFACT_SHA256 = "fcde2b2edba56bf408601fb721fe9b5c338d10ee429ea04fae5511b68fbf8fb9"
JOB_ID = "job_019abc5d3f0e7a33c49d2077"


def wire(value: BaseModel) -> Any:
    """As JSON has it."""
    return value.model_dump(mode="json", warnings=False)
