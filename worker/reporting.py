"""What becomes of an int8 model, whatever recipe made it: it is explained, packaged, benchmarked and reported."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import fx

from shared.job import Step
from shared.job_report import (
    CalibrationResult,
    JobReport,
    KernelTrial,
    Quality,
    RangeTrial,
    RecoveryResult,
    TrainingResult,
)
from worker.environment import describe_environment
from worker.findings import Case, find
from worker.inference import Model
from worker.job_folder import JobFolder, JobInputs
from worker.latency import FLOAT_EAGER, FLOAT_FROZEN, INT8
from worker.progress import ProgressTracker
from worker.quantization import Plan, collect_garbage, has_vnni, weights_digest
from worker.steps.analyse import analyse
from worker.steps.benchmark import benchmark
from worker.steps.convert import Quantized
from worker.steps.evaluate import Yardstick
from worker.steps.load import JobData, LoadedModel
from worker.steps.not_finite import first_not_finite
from worker.steps.package import package, write_report
from worker.verdict import judge


@dataclass
class Outcome:
    """An int8 model and how it came about."""

    plan: Plan
    int8: Quantized | None
    """None once it is packaged."""
    quality: Quality
    prepared: fx.GraphModule | None = None
    """What it was converted from; None for dynamic quantization, and once it is analysed."""
    kernels: list[KernelTrial] = field(default_factory=list)
    ranges: list[RangeTrial] = field(default_factory=list)
    recovery: list[RecoveryResult] = field(default_factory=list)
    calibration: CalibrationResult | None = None
    training: TrainingResult | None = None


def finish(
    folder: JobFolder,
    inputs: JobInputs,
    tracker: ProgressTracker,
    *,
    model: LoadedModel,
    data: JobData,
    yardstick: Yardstick,
    outcome: Outcome,
) -> JobReport:
    """Explain, package, benchmark and report: the same for every method."""
    spec, settled, quality = inputs.spec, outcome.plan, outcome.quality
    assert outcome.int8 is not None

    with tracker.step(Step.ANALYSE, "Looking at every layer") as advance:
        analysis = analyse(
            model,
            outcome.prepared,
            settled,
            outcome.int8,
            yardstick,
            spec=spec,
            evaluation_seconds=tracker.timings[Step.EVALUATE.value],
            advance=advance,
        )

    outcome.prepared = None  # as large as the model, and done with
    collect_garbage()

    with tracker.step(Step.PACKAGE, "Writing and checking the artifacts"):
        packed = package(folder, model, outcome.int8, example=data.example_inputs(model), samples=data.evaluation)
        digest = weights_digest(outcome.int8.module)

    outcome.int8 = None
    collect_garbage()

    with tracker.step(Step.BENCHMARK, "Measuring latency") as advance:
        candidates: dict[str, Model | Path] = {
            FLOAT_EAGER: model.raised,
            FLOAT_FROZEN: packed.float_file,
            INT8: packed.int8_file,
        }
        latency = benchmark(
            model,
            candidates,
            data.evaluation,
            spec.benchmark,
            time_limit_seconds=inputs.wall_limit_seconds,
            seed=spec.seed,
            tracker=tracker,
            advance=advance,
        )
    packed.float_file.unlink()

    resolved = _resolved_spec(inputs, settled, quality, outcome.training)
    not_finite = any(output.float_not_finite for output in quality.fidelity)
    case = Case(
        spec=spec,
        resolved=resolved,
        analysis=analysis,
        quality=quality,
        recovery=outcome.recovery,
        ranges=outcome.ranges,
        kernels=outcome.kernels,
        not_finite_from=first_not_finite(model, data.evaluation) if not_finite else None,
        is_revision=inputs.before is not None,
        holds_full_range=has_vnni(),
    )
    report = JobReport(
        method=spec.method,
        verdict=judge(quality, latency, packed.size),
        quality=quality,
        latency=latency,
        size=packed.size,
        inputs=packed.inputs,
        layers=analysis.layers,
        first_wrong=case.first_wrong,
        sensitivity=analysis.sensitivity,
        boundaries=analysis.boundaries,
        fusions=analysis.fusions,
        graphs=analysis.graphs,
        histograms=analysis.histograms,
        calibration=outcome.calibration,
        ranges=outcome.ranges,
        recovery=outcome.recovery,
        kernels=outcome.kernels,
        training=outcome.training,
        before=inputs.before,
        weights_sha256=digest,
        warnings=find(case, tracker.warnings),
        spec=resolved,
        environment=describe_environment(settled.qengine, inputs.sandbox_level, threads=inputs.threads),
        timings=tracker.timings,
    )
    write_report(folder, report)
    return report


def _resolved_spec(
    inputs: JobInputs, settled: Plan, quality: Quality, training: TrainingResult | None
) -> dict[str, Any]:
    spec = inputs.spec.model_dump(mode="json") | settled.resolved()
    spec["metric"] = None if quality.metric is None else quality.metric.name
    if spec["max_accuracy_drop"] == "auto":
        spec["max_accuracy_drop"] = None if quality.metric is None else quality.metric.max_drop
    if training is not None:
        spec["qat"] = spec["qat"] | {"loss": training.loss}
    return spec
