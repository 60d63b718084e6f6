"""The public surface of `octavo`: a change here is a change that users see."""

from __future__ import annotations

import inspect
import subprocess
import sys

import octavo


def test_public_names() -> None:
    assert sorted(octavo.__all__) == [
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


def test_every_public_name_can_be_had() -> None:
    for name in octavo.__all__:
        assert getattr(octavo, name) is not None


def test_every_exception_is_exported() -> None:
    """Whatever the package raises on purpose, a user can catch by name."""
    from octavo import _exceptions

    defined = {
        name
        for name, value in vars(_exceptions).items()
        if inspect.isclass(value) and issubclass(value, octavo.OctavoError)
    }
    assert defined <= set(octavo.__all__)


def public(kind: type) -> dict[str, str]:
    return {
        name: str(inspect.signature(value)) if inspect.isfunction(value) else type(value).__name__
        for name, value in vars(kind).items()
        if not name.startswith("_")
    }


def test_sync_and_async_offer_the_same() -> None:
    """Every public member of one client has its twin in the other, with the same parameters."""
    from octavo._async.datasets import AsyncDatasets
    from octavo._async.jobs import AsyncJobs
    from octavo._async.models import AsyncModels
    from octavo._sync.datasets import Datasets
    from octavo._sync.jobs import Jobs
    from octavo._sync.models import Models

    pairs = [
        (octavo.AsyncClient, octavo.Client),
        (octavo.AsyncJob, octavo.Job),
        (octavo.AsyncArtifacts, octavo.Artifacts),
        (AsyncModels, Models),
        (AsyncDatasets, Datasets),
        (AsyncJobs, Jobs),
    ]
    for asynchronous, synchronous in pairs:
        renamed = {
            name.replace("aclose", "close"): text.replace("AsyncJob", "Job")
            for name, text in public(asynchronous).items()
        }
        expected = {name: text.split(" -> ")[0] for name, text in public(synchronous).items()}
        assert {name: text.split(" -> ")[0] for name, text in renamed.items()} == expected


def test_the_command_starts_without_what_it_does_not_need() -> None:
    """`octavo --help` imports neither an HTTP client nor pydantic nor torch."""
    program = (
        "import sys, octavo.cli\n"
        "try: octavo.cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([name for name in ('httpx2', 'pydantic', 'torch', 'numpy', 'tqdm') if name in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[-1] == "[]"


def test_the_client_needs_neither_torch_nor_numpy() -> None:
    """Files can be uploaded and reports read where torch is not installed."""
    program = (
        "import sys, octavo\n"
        "[getattr(octavo, name) for name in octavo.__all__]\n"
        "print([name for name in ('torch', 'numpy', 'safetensors') if name in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"


def test_the_client_imports_nothing_of_the_server() -> None:
    program = (
        "import sys, octavo, octavo.cli\n"
        "[getattr(octavo, name) for name in octavo.__all__]\n"
        "print([name for name in ('shared', 'api', 'worker', 'server') if name in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"
