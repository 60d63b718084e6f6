"""The examples of the OpenAPI document: one small story, from the upload of a model to its report.

They are built of the wire types, so they cannot name a field that is not there.
"""

from __future__ import annotations

from typing import Any

from api.examples.jobs import BENCHMARK_JOB, CANCELLED_JOB, EVENT_PAGE, EVENT_STREAM, QUEUED_JOB, SUCCEEDED_JOB
from api.examples.objects import (
    COMPLETE_REQUESTS,
    COMPLETE_UPLOAD,
    DATASET,
    MODEL,
    OPEN_UPLOAD,
    PART,
    PARTIAL_UPLOAD,
    UPLOAD_ID,
    UPLOAD_REQUESTS,
)
from api.examples.plan import PLAN
from api.examples.requests import JOB_REQUESTS, PLAN_REQUESTS
from api.examples.service import HEALTH, META, METRICS, NOT_READY, READY
from api.examples.wire import JOB_ID

__all__ = [
    "ANSWERS",
    "BENCHMARK_JOB",
    "CANCELLED_JOB",
    "COMPLETE_REQUESTS",
    "COMPLETE_UPLOAD",
    "DATASET",
    "EVENT_PAGE",
    "EVENT_STREAM",
    "HEALTH",
    "JOB_ID",
    "JOB_REQUESTS",
    "META",
    "METRICS",
    "MODEL",
    "NOT_READY",
    "OPEN_UPLOAD",
    "PART",
    "PARTIAL_UPLOAD",
    "PLAN",
    "PLAN_REQUESTS",
    "QUEUED_JOB",
    "READY",
    "SUCCEEDED_JOB",
    "UPLOAD_ID",
    "UPLOAD_REQUESTS",
]


def _page(entry: dict[str, Any]) -> dict[str, Any]:
    return {"data": [entry], "has_more": False, "next": None}


# What answers refer to, by name.
ANSWERS: dict[str, Any] = {
    "meta": META,
    "model": MODEL,
    "models": _page(MODEL),
    "dataset": DATASET,
    "datasets": _page(DATASET),
    "open_upload": OPEN_UPLOAD,
    "partial_upload": PARTIAL_UPLOAD,
    "complete_upload": COMPLETE_UPLOAD,
    "part": PART,
    "queued_job": QUEUED_JOB,
    "succeeded_job": SUCCEEDED_JOB,
    "succeeded_benchmark": BENCHMARK_JOB,
    "cancelled_job": CANCELLED_JOB,
    "jobs": _page(QUEUED_JOB),
    "events": EVENT_PAGE,
    "plan": PLAN,
    "healthy": HEALTH,
    "ready": READY,
    "not_ready": NOT_READY,
}
