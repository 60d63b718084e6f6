"""What was measured of speed, and where: latency, load times, the environment. Part of a job's report."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from shared.layer_report import Reported


class Load(Reported):
    """What it takes until a file has answered its first sample, in a process that has not met it before."""

    cold_ms: float = Field(
        description="The first time, with importing the runtime where the process had not yet; the file was just "
        "written, so that it comes from the page cache."
    )
    warm_ms: float = Field(description="The second time.")
    resident_bytes: int = Field(description="What the second one added to the process's resident memory.")
    peak_bytes: int | None = Field(
        default=None,
        description="What a third one took at most while it was opened and answered, looked at every millisecond: a "
        "shorter peak may be missed.",
    )


class LatencyStats(Reported):
    """Latency of one candidate, after warm-up, in milliseconds."""

    name: str = Field(
        description="`int8_` and the runtime, or float: `float_eager`, `float_channels_last`, `float_frozen` "
        "(TorchScript), `float_onnxruntime`, `float_openvino`, `float_openvino_bf16`; in a benchmark the form, "
        "`<candidate>/<kind>`."
    )
    p50_ms: float
    p90_ms: float
    p99_ms: float | None = Field(description="null with fewer than the 662 samples that its bound takes.")
    p50_bound_ms: float | None = Field(
        default=None,
        description="What the p50 does not exceed, with 99 % confidence: MLPerf's early stopping estimate; null with "
        "fewer than 11 samples.",
    )
    p90_bound_ms: float | None = Field(default=None, description="The same of the p90, from 64 samples on.")
    p99_bound_ms: float | None = Field(default=None, description="The same of the p99, from 662 samples on.")
    mean_ms: float
    throughput_per_second: float = Field(description="Samples a second: batch size / p50.")
    energy_joules: float | None = Field(
        default=None, description="For one sample: `energy` of the result says what is counted, or why it is null."
    )
    samples_ms: list[float] = Field(description="Raw, in the order taken; candidates were interleaved.")


class Doubt(Reported):
    """A reason to trust a measurement less."""

    cause: Literal[
        "throttled", "steal", "other_load", "frequency", "spread", "drift", "bimodal", "autocorrelation", "few_rounds"
    ] = Field(
        description=(
            "`throttled`: by the control group; `steal`: by the hypervisor; `other_load`: other processes; "
            "`frequency`: the clock changed; `spread`: the IQR exceeds 10 %; `drift`: slower or faster from beginning "
            "to end; `bimodal`: two levels; `autocorrelation`: rounds in a row resemble each other; `few_rounds`: "
            "fewer than 10."
        )
    )
    told: str = Field(description="The cause, in one sentence.")


class Speedup(Reported):
    """One int8 candidate against the baseline."""

    name: str
    speedup: float = Field(description="Baseline p50 / its p50.")
    speedup_ci95: tuple[float, float]
    significant: bool = Field(description="Whether the interval excludes 1.")
    speedup_vs_eager: float | None = Field(default=None, description="null where eager float was not measured.")


class Sitting(Reported):
    """Rounds in a row on the same cores; noise in the first one is answered by a second."""

    cores: list[int]
    rounds: int
    speedup: float
    speedup_ci95: tuple[float, float]
    doubts: list[Doubt]
    kept: bool = Field(description="Whether the figures are of this one: the quieter of two.")


class Roofline(Reported):
    """How far int8 is from what this CPU can do, on the threads measured with."""

    reached_gmacs_per_second: float = Field(description="Multiply-accumulates of the model / p50 of int8, in 10⁹.")
    peak_gmacs_per_second: float = Field(
        description="The best that large products of int8 matrices in torch reached here, measured; of no data sheet."
    )
    share: float = Field(description="Reached / peak.")


class BenchmarkResult(Reported):
    """Float and int8, interleaved in one process, at one batch size and thread count."""

    batch_size: int
    threads: int
    rounds: int
    baseline: str = Field(description="The float candidate with the lowest p50: speedup is against it.")
    int8: str = Field(default="int8_torch", description="The int8 candidate with the lowest p50: speedup is of it.")
    candidates: list[LatencyStats]
    speedup: float = Field(description="Baseline p50 / int8 p50.")
    speedup_ci95: tuple[float, float] = Field(
        description="95 % interval of the speedup: a bootstrap over paired rounds, in blocks of rounds that resemble "
        "each other, and 2 % for what differs between one run and the next."
    )
    significant: bool = Field(description="Whether the interval excludes 1.")
    speedup_vs_eager: float | None = Field(description="null where eager float was not measured.")
    conclusion: str = Field(default="", description="The comparison in one sentence.")
    speedups: list[Speedup] = Field(default=[], description="Every int8 candidate, the fastest first.")
    cores: list[int] = Field(default=[], description="Which all threads were pinned to.")
    noisy: bool = Field(default=False, description="Whether a doubt is about noise: trust the interval less.")
    doubts: list[Doubt] = Field(default=[])
    sittings: list[Sitting] = Field(default=[], description="One, or two when the first was noisy.")
    energy: str | None = Field(
        default=None,
        description="What the energy of the candidates is, or why there is none; null but at the first combination.",
    )
    roofline: Roofline | None = Field(default=None, description="null for a model without multiply-accumulates.")
    note: str | None = Field(
        default=None, description="What to doubt, such as a batch size that the model cannot take."
    )


class Environment(Reported):
    """Where it was measured."""

    cpu_model: str
    isa: list[str] = Field(description="Of avx2, avx512, avx512_vnni, avx_vnni, amx_int8, amx_bf16 …")
    cores: int
    torch: str = Field(pattern=r"^[A-Za-z0-9.+_-]{1,60}$")
    python: str
    qengine: str = Field(pattern=r"^[a-z0-9]{1,20}$")
    octavo: str
    sandbox_level: str
    affinity: list[int] = Field(default=[], description="The cores that the job could use.")
    smt: bool | None = Field(default=None, description="Whether cores run several hardware threads; null if unknown.")
    governor: str | None = Field(default=None, description="What sets the frequency; null where the kernel hides it.")
    cgroup_cpu_limit: float | None = Field(default=None, description="In cores; null without a limit.")
    load_average: list[float] | None = Field(
        default=None, description="Of the machine over 1, 5 and 15 minutes, at the end of the job."
    )
    versions: dict[str, str] = Field(default={}, description="Of what computes beside torch, such as onnxruntime.")
    thread_settings: dict[str, str] = Field(
        default={}, description="Variables that were set, such as OMP_NUM_THREADS; `job` is what steps computed with."
    )
