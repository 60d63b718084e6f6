"""What the artifacts of a job are worth: which are measured, and what is said of them afterwards."""

from __future__ import annotations

from collections.abc import Sequence

from shared.job_report import ArtifactResult
from shared.latency_report import BenchmarkResult
from worker.candidate_names import candidate_name, int8_in
from worker.runtimes import PRECISION


def worth_measuring(artifacts: Sequence[ArtifactResult]) -> list[ArtifactResult]:
    """Those with nothing to be said against them; where there are none, all that run: to know what is to be gained."""
    right = [each for each in artifacts if not each.labels]
    return right or [each for each in artifacts if "missing" not in each.labels]


def options_of(artifact: ArtifactResult) -> dict[str, str]:
    """What its runtime is to open it with."""
    return {} if artifact.inference_precision is None else {PRECISION: artifact.inference_precision}


def with_speed(artifact: ArtifactResult, headline: BenchmarkResult) -> ArtifactResult:
    """The artifact, labelled where it is slower than the fastest float model beyond doubt."""
    speedups = {each.name: each for each in headline.speedups}
    found = speedups.get(int8_in(artifact.runtime))
    if found is None or not found.significant or found.speedup > 1:
        return artifact
    told = f"It takes {1 / found.speedup:.2f} times as long as {candidate_name(headline.baseline)}."
    note = told if artifact.note is None else f"{artifact.note} {told}"
    return artifact.model_copy(update={"labels": [*artifact.labels, "slower"], "note": note})
