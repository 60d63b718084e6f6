"""The Octavo SDK: quantize PyTorch models on an Octavo server.

import octavo

with octavo.Client() as client:                       # OCTAVO_URL, OCTAVO_API_KEY
    model = client.models.upload(net, example_inputs)
    calibration = client.datasets.upload({"x": images})
    evaluation = client.datasets.upload({"x": test_images}, labels=test_labels)
    job = client.jobs.quantize(model, "static", calibration=calibration, evaluation=evaluation)
    print(job.wait().report.table())
    job.artifacts.download("out/")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from octavo._version import __version__

if TYPE_CHECKING:
    from octavo._async.artifacts import AsyncArtifacts
    from octavo._async.client import AsyncClient
    from octavo._async.job import AsyncJob
    from octavo._benchmark import Benchmark
    from octavo._comparison import Comparison, compare
    from octavo._exceptions import (
        APIConnectionError,
        APIError,
        APIStatusError,
        APITimeoutError,
        AuthenticationError,
        BadRequestError,
        ChecksumMismatch,
        ConflictError,
        ExportFailed,
        FieldError,
        InternalServerError,
        JobCancelled,
        JobFailed,
        JobRefused,
        NoReport,
        NotFoundError,
        OctavoError,
        OtherReport,
        PermissionDeniedError,
        RateLimitError,
        ServiceFailed,
        TargetNotMet,
        TooLargeError,
        UnprocessableError,
        WaitTimeout,
    )
    from octavo._job_report import ReportWarning, Suggestion
    from octavo._plan import Plan
    from octavo._report import Report
    from octavo._spec import (
        ActivationOverride,
        ActivationSettings,
        AnalysisSettings,
        BenchmarkSettings,
        Hardware,
        Override,
        QatSettings,
        RecoverySettings,
        WeightOverride,
        WeightSettings,
    )
    from octavo._sync.artifacts import Artifacts
    from octavo._sync.client import Client
    from octavo._sync.job import Job
    from octavo._types import Artifact, Dataset, JobError, JobEvent, Meta, Model, Progress

# The `octavo` command must start fast, and an HTTP client and pydantic take a quarter of a second: each name is
# imported when it is first used.
_HOMES = {
    "octavo._async.artifacts": ["AsyncArtifacts"],
    "octavo._async.client": ["AsyncClient"],
    "octavo._async.job": ["AsyncJob"],
    "octavo._benchmark": ["Benchmark"],
    "octavo._comparison": ["Comparison", "compare"],
    "octavo._exceptions": [
        "APIConnectionError",
        "APIError",
        "APIStatusError",
        "APITimeoutError",
        "AuthenticationError",
        "BadRequestError",
        "ChecksumMismatch",
        "ConflictError",
        "ExportFailed",
        "FieldError",
        "InternalServerError",
        "JobCancelled",
        "JobFailed",
        "JobRefused",
        "NoReport",
        "NotFoundError",
        "OctavoError",
        "OtherReport",
        "PermissionDeniedError",
        "RateLimitError",
        "ServiceFailed",
        "TargetNotMet",
        "TooLargeError",
        "UnprocessableError",
        "WaitTimeout",
    ],
    "octavo._job_report": ["ReportWarning", "Suggestion"],
    "octavo._plan": ["Plan"],
    "octavo._report": ["Report"],
    "octavo._spec": [
        "ActivationOverride",
        "ActivationSettings",
        "AnalysisSettings",
        "BenchmarkSettings",
        "Hardware",
        "Override",
        "QatSettings",
        "RecoverySettings",
        "WeightOverride",
        "WeightSettings",
    ],
    "octavo._sync.artifacts": ["Artifacts"],
    "octavo._sync.client": ["Client"],
    "octavo._sync.job": ["Job"],
    "octavo._types": ["Artifact", "Dataset", "JobError", "JobEvent", "Meta", "Model", "Progress"],
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "APIConnectionError",
    "APIError",
    "APIStatusError",
    "APITimeoutError",
    "ActivationOverride",
    "ActivationSettings",
    "AnalysisSettings",
    "Artifact",
    "Artifacts",
    "AsyncArtifacts",
    "AsyncClient",
    "AsyncJob",
    "AuthenticationError",
    "BadRequestError",
    "Benchmark",
    "BenchmarkSettings",
    "ChecksumMismatch",
    "Client",
    "Comparison",
    "ConflictError",
    "Dataset",
    "ExportFailed",
    "FieldError",
    "Hardware",
    "InternalServerError",
    "Job",
    "JobCancelled",
    "JobError",
    "JobEvent",
    "JobFailed",
    "JobRefused",
    "Meta",
    "Model",
    "NoReport",
    "NotFoundError",
    "OctavoError",
    "OtherReport",
    "Override",
    "PermissionDeniedError",
    "Plan",
    "Progress",
    "QatSettings",
    "RateLimitError",
    "RecoverySettings",
    "Report",
    "ReportWarning",
    "ServiceFailed",
    "Suggestion",
    "TargetNotMet",
    "TooLargeError",
    "UnprocessableError",
    "WaitTimeout",
    "WeightOverride",
    "WeightSettings",
    "__version__",
    "compare",
]


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'octavo' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
