"""Jobs, and what happens to one."""

from __future__ import annotations

from typing import Any

from api.examples.benchmark import BENCHMARK_REPORT, BENCHMARK_SPEC
from api.examples.report import REPORT, SPEC
from api.examples.wire import ARTIFACT_SHA256, JOB_ID, STARTED, wire
from api.jobs.schemas import Event, EventPage, wire_job
from shared.database.records import JobRecord
from shared.job import Artifact, JobStatus, Progress, Step

_queued = JobRecord(
    id=JOB_ID,
    status=JobStatus.QUEUED,
    spec=SPEC.model_dump(mode="json"),
    name=SPEC.name,
    created_at=STARTED + 5,
    started_at=None,
    finished_at=None,
    step=None,
    progress=Progress(),
    attempt=0,
    crashes=0,
    fence=0,
    worker_id=None,
    cancel_requested=False,
    sandbox_level=None,
    not_before=STARTED + 5,
    error=None,
    artifacts=[],
    event_seq=1,
)
_succeeded = JobRecord(
    **{
        **vars(_queued),
        "status": JobStatus.SUCCEEDED,
        "started_at": STARTED + 6,
        "finished_at": STARTED + 13,
        "step": Step.STORE,
        "progress": Progress(fraction=1.0, eta_seconds=0.0),
        "attempt": 1,
        "sandbox_level": "landlock",
        "artifacts": [
            Artifact(
                name=name,
                kind="model",
                media_type="application/octet-stream",
                size_bytes=size_bytes,
                sha256=ARTIFACT_SHA256,
            )
            for name, size_bytes in (("model_int8.onnx", 29_120), ("model_int8.pt", 30_310))
        ],
        "event_seq": 7,
        "report": REPORT.model_dump(mode="json"),
    }
)
_measured = JobRecord(
    **{
        **vars(_succeeded),
        "id": "job_019abc5d6f0e7a33c49d2088",
        "spec": BENCHMARK_SPEC.model_dump(mode="json"),
        "name": None,
        "artifacts": [
            Artifact(
                name="report.json",
                kind="report",
                media_type="application/json",
                size_bytes=5_210,
                sha256=ARTIFACT_SHA256,
            )
        ],
        "report": BENCHMARK_REPORT.model_dump(mode="json"),
    }
)
_cancelled = JobRecord(
    **{
        **vars(_queued),
        "status": JobStatus.CANCELLED,
        "finished_at": STARTED + 8,
        "cancel_requested": True,
        "event_seq": 2,
    }
)
QUEUED_JOB: dict[str, Any] = wire(wire_job(_queued))
SUCCEEDED_JOB: dict[str, Any] = wire(wire_job(_succeeded))
BENCHMARK_JOB: dict[str, Any] = wire(wire_job(_measured))
CANCELLED_JOB: dict[str, Any] = wire(wire_job(_cancelled))

_events = [
    {
        "seq": 6,
        "kind": "progress",
        "created_at": "2026-11-23T13:00:12Z",
        "data": {"step": "package", "fraction": 0.93, "message": "Writing the report", "eta_seconds": 0.5},
    },
    {
        "seq": 7,
        "kind": "status",
        "created_at": "2026-11-23T13:00:13Z",
        "data": {"status": "succeeded", "attempt": 1},
    },
]
EVENT_PAGE: dict[str, Any] = wire(
    EventPage(data=[Event.model_validate(each) for each in _events], has_more=False, next=7)
)
EVENT_STREAM = (
    "event: status\n"
    'data: {"seq":7,"kind":"status","created_at":"2026-11-23T13:00:13Z","data":{"status":"succeeded","attempt":1}}\n'
    "id: 7\n\n"
)
