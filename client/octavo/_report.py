"""The report of a job: what was measured. Names end in their unit."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class _Reported(BaseModel):
    # `float` is the field's word for the unquantized side, and a Python type: hence the aliases float/int8 on the wire.
    model_config = ConfigDict(extra="allow", populate_by_name=True, serialize_by_alias=True, protected_namespaces=())


class Verdict(_Reported):
    """The outcome: a sentence for people, `word` and `accuracy` for programs."""

    word: str = Field(description="`recommended`, `no_faster`, `slower`, `accuracy_not_met` or `low_fidelity`.")
    sentence: str
    accuracy: str = Field(description="`met`, `not_met` or `not_evaluated`, against max_accuracy_drop.")


class MetricResult(_Reported):
    """A metric of the float and of the int8 model on the same samples."""

    name: str
    float_value: float = Field(alias="float", description="top1, top5: share of samples in 0..1.")
    int8_value: float = Field(alias="int8")
    drop: float = Field(description="Absolute; positive is worse.")
    max_drop: float | None = None
    met: bool | None = None


class OutputFidelity(_Reported):
    """How near an output of the int8 model is to the float model's."""

    output: str
    sqnr_db: float | None = None
    cosine: float
    agreement: float | None = None


class Quality(_Reported):
    """Float against int8 on the same data."""

    data: str
    samples: int
    metric: MetricResult | None = None
    fidelity: list[OutputFidelity] = []


class LatencyStats(_Reported):
    """Latency of one candidate in milliseconds, after warm-up."""

    name: str
    p50_ms: float
    p90_ms: float
    p99_ms: float | None = None
    mean_ms: float
    throughput_per_second: float
    samples_ms: list[float] = []


class BenchmarkResult(_Reported):
    """Float and int8, interleaved in one process, at one batch size and thread count."""

    batch_size: int
    threads: int
    rounds: int
    baseline: str
    candidates: list[LatencyStats]
    speedup: float
    speedup_ci95: tuple[float, float]
    significant: bool
    speedup_vs_eager: float
    note: str | None = None

    def candidate(self, name: str) -> LatencyStats | None:
        """The figures of `int8`, of `float_eager`, or of whatever `baseline` names."""
        return next((candidate for candidate in self.candidates if candidate.name == name), None)


class Size(_Reported):
    """Bytes on disk, both in the same format."""

    float_bytes: int
    int8_bytes: int
    ratio: float


class LayerSummary(_Reported):
    """What became of one layer or operator."""

    name: str
    op: str
    precision: str
    weight_bytes: int
    reason: str | None = None


class EpochResult(_Reported):
    """One epoch of training."""

    epoch: int
    loss: float
    metric: float | None = None
    sqnr_db: float | None = None
    seconds: float


class TrainingResult(_Reported):
    """How QAT went, and static PTQ on the same data to compare it with."""

    loss: str
    epochs: list[EpochResult]
    static_metric: MetricResult | None = None
    static_fidelity: list[OutputFidelity] = []
    better: str


class ReportWarning(_Reported):
    """Something you should know or do."""

    code: str
    message: str
    hint: str | None = None
    layer: str | None = None


class Environment(_Reported):
    """Where it was measured."""

    cpu_model: str
    isa: list[str] = []
    cores: int
    torch: str
    python: str
    qengine: str
    octavo: str
    sandbox_level: str


class Report(_Reported):
    """The answer to a job."""

    schema_version: str
    method: str
    verdict: Verdict
    quality: Quality
    latency: list[BenchmarkResult] = []
    size: Size
    layers: list[LayerSummary] = []
    training: TrainingResult | None = None
    warnings: list[ReportWarning] = []
    spec: dict[str, Any] = {}
    environment: Environment
    timings: dict[str, float] = {}

    def table(self) -> str:
        """The report as plain text, for a terminal."""
        from octavo._tables import report_table  # noqa: PLC0415  # tables read reports: the arrow points this way

        return report_table(self)

    def _repr_html_(self) -> str:
        from octavo._html import report_card  # noqa: PLC0415  # likewise

        return report_card(self)
