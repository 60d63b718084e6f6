"""What a benchmark measured: the report of a job of that method, as the server sends it. Names end in their unit."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from octavo._job_report import Doubt, Environment, LatencyStats, Load, OutputFidelity, ReportWarning
from octavo._layer_report import Reported


class FormMetric(Reported):
    """A metric of a form and of the reference on the same samples."""

    name: str
    value: float
    reference: float
    drop: float = Field(description="Absolute; positive is worse.")


class FormQuality(Reported):
    """How near a form's outputs are to the reference's."""

    metric: FormMetric | None = None
    fidelity: list[OutputFidelity] = Field(default=[])


class FormResult(Reported):
    """A candidate as one runtime runs it."""

    name: str = Field(description="`<candidate>/<kind>`.")
    kind: str = Field(
        description="`eager`, `channels_last`, `frozen`, `torch`, `onnxruntime`, `openvino`, `openvino_bf16`."
    )
    runtime: str
    size_bytes: int | None = None
    load: Load | None = None
    quality: FormQuality | None = Field(default=None, description="Against the reference; None when it is missing.")
    int8_operators: int
    float_operators: int
    labels: list[str] = Field(default=[], description="`missing`, `wrong`, `differs`.")
    note: str | None = None


class CandidateResult(Reported):
    """What was measured of one candidate."""

    name: str
    source: str
    size_bytes: int
    forms: list[FormResult]


class FormSpeedup(Reported):
    """One form against the baseline."""

    name: str
    speedup: float
    speedup_ci95: tuple[float, float]
    significant: bool


class ComparisonSitting(Reported):
    """Rounds in a row on the same cores."""

    cores: list[int]
    rounds: int
    doubts: list[Doubt]
    kept: bool


class ComparisonResult(Reported):
    """All forms that run, interleaved in one process, at one batch size and thread count."""

    batch_size: int
    threads: int
    rounds: int
    baseline: str = Field(description="The first candidate's fastest form: speedup is against it.")
    fastest: str
    candidates: list[LatencyStats]
    speedups: list[FormSpeedup] = Field(description="Every form but the baseline, the fastest first.")
    conclusion: str
    significant: bool = Field(default=True, description="Whether that tells of a difference that is more than noise.")
    cores: list[int] = Field(default=[])
    noisy: bool = False
    doubts: list[Doubt] = Field(default=[])
    sittings: list[ComparisonSitting] = Field(default=[])
    energy: str | None = None
    note: str | None = None

    def candidate(self, name: str) -> LatencyStats | None:
        """The figures of a form, by its name."""
        return next((candidate for candidate in self.candidates if candidate.name == name), None)


class BenchmarkReport(Reported):
    """The answer to a benchmark."""

    schema_version: str
    method: str
    conclusion: str = Field(description="Which is the fastest, by how much, and whether it answers as the reference.")
    fastest: str = Field(description="A form, by its name.")
    reference: str = Field(description="The form whose outputs the others are held against.")
    data: str
    samples: int
    candidates: list[CandidateResult]
    latency: list[ComparisonResult]
    warnings: list[ReportWarning] = Field(default=[])
    spec: dict[str, Any] = Field(default={})
    environment: Environment
    timings: dict[str, float] = Field(default={})
