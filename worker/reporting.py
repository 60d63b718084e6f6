"""What becomes of an int8 model, whatever recipe made it: it is explained and written, verified, measured, reported."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import fx

from shared.job import Step
from shared.job_report import (
    ArtifactResult,
    CalibrationResult,
    JobReport,
    KernelTrial,
    Quality,
    RangeTrial,
    RecoveryResult,
    Size,
    TrainingResult,
)
from shared.quantization_spec import Runtime
from worker.artifacts import options_of, with_speed, worth_measuring
from worker.candidate_names import FLOAT_FROZEN, FLOAT_OPENVINO_BF16, float_in, int8_in
from worker.datasets import Samples
from worker.environment import describe_environment
from worker.findings import Case, find, with_slow_layers
from worker.handover import Handover, hand_over, take_over
from worker.inference import batch_of
from worker.job_folder import JobFolder, JobInputs
from worker.layer_times import TimedFile
from worker.progress import ProgressTracker, Report
from worker.quantization import Plan, collect_garbage, has_vnni, weights_digest
from worker.steps.analyse import analyse
from worker.steps.benchmark import benchmark
from worker.steps.contenders import float_contenders, in_file
from worker.steps.convert import Quantized
from worker.steps.evaluate import Yardstick
from worker.steps.export import MadeFile, export, leave_reference, wanted_runtimes
from worker.steps.load import JobData, LoadedModel, example_inputs, load_again
from worker.steps.not_finite import first_not_finite
from worker.steps.package import package, write_report
from worker.steps.time_layers import Pair, time_layers
from worker.steps.verify import verify
from worker.verdict import judge

# What each step is expected to take, as a share of the whole: it drives the progress bar and the time left.
_AFTER = {
    Step.ANALYSE: 8.0, Step.PACKAGE: 1.0, Step.EXPORT: 4.0, Step.VERIFY: 3.0, Step.BENCHMARK: 5.0,
}  # fmt: skip
WEIGHTS = {
    "dynamic": {Step.LOAD: 3.0, Step.CONVERT: 2.0, Step.EVALUATE: 2.0, **_AFTER},
    "static": {
        Step.LOAD: 3.0, Step.PREPARE: 3.0, Step.CALIBRATE: 6.0, Step.CONVERT: 2.0, Step.EVALUATE: 3.0, **_AFTER
    },
    "qat": {
        Step.LOAD: 3.0, Step.PREPARE: 3.0, Step.CALIBRATE: 8.0, Step.TRAIN: 60.0, Step.CONVERT: 3.0,
        Step.EVALUATE: 4.0, **_AFTER,
    },
}  # fmt: skip


@dataclass
class Outcome:
    """An int8 model and how it came about."""

    plan: Plan
    int8: Quantized
    quality: Quality
    prepared: fx.GraphModule | None = None
    """What it was converted from; None for dynamic quantization, and once it is analysed."""
    kernels: list[KernelTrial] = field(default_factory=list)
    ranges: list[RangeTrial] = field(default_factory=list)
    recovery: list[RecoveryResult] = field(default_factory=list)
    calibration: CalibrationResult | None = None
    training: TrainingResult | None = None
    observed: Samples | None = None
    """What biases were corrected on, of a model that was not trained."""


def complete(
    folder: JobFolder,
    inputs: JobInputs,
    tracker: ProgressTracker,
    *,
    model: LoadedModel,
    data: JobData,
    yardstick: Yardstick,
    outcome: Outcome,
) -> None:
    """Explain the int8 model, write its artifacts, and hand over to the stages that measure them."""
    spec, settled, quality = inputs.quantization, outcome.plan, outcome.quality
    example = example_inputs(model, data.evaluation)

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

    runtimes = wanted_runtimes(spec.runtimes)
    if outcome.prepared is not None and len(runtimes) > 1:
        leave_reference(
            folder,
            model,
            example,
            prepared=outcome.prepared,
            converted=outcome.int8.module,
            plan=settled,
            observed=outcome.observed if "openvino" in runtimes else None,
        )

    outcome.prepared = None  # as large as the model, and done with
    collect_garbage()

    with tracker.step(Step.PACKAGE, "Writing and checking the torch artifact"):
        packed = package(folder, model, outcome.int8, example=example, samples=data.evaluation)
        digest = weights_digest(outcome.int8.module)

    not_finite = any(output.float_not_finite for output in quality.fidelity)
    case = Case(
        spec=spec,
        resolved=_resolved_spec(inputs, settled, quality, outcome.training),
        analysis=analysis,
        quality=quality,
        recovery=outcome.recovery,
        ranges=outcome.ranges,
        kernels=outcome.kernels,
        not_finite_from=first_not_finite(model, data.evaluation) if not_finite else None,
        is_revision=inputs.before is not None,
        holds_full_range=has_vnni(),
    )
    explained = {
        "inputs": packed.inputs,
        "layers": analysis.layers,
        "first_wrong": case.first_wrong,
        "sensitivity": analysis.sensitivity,
        "boundaries": analysis.boundaries,
        "fusions": analysis.fusions,
        "graphs": analysis.graphs,
        "histograms": analysis.histograms,
        "calibration": outcome.calibration,
        "ranges": outcome.ranges,
        "recovery": outcome.recovery,
        "kernels": outcome.kernels,
        "training": outcome.training,
        "weights_sha256": digest,
        "spec": case.resolved,
    }
    handover = Handover(
        course=replace(tracker.course, warnings=find(case, tracker.warnings)),
        qengine=settled.qengine,
        yardstick=yardstick,
        explained=explained,
        float_layers=list(settled.float_layers),
        float_torch=packed.float_file,
        files=[MadeFile("torch", packed.int8_file)],
    )
    hand_over(folder, handover)


def export_artifacts(folder: JobFolder, report: Report) -> None:
    """Write files for the other runtimes, and hand over to the stage that verifies them."""
    inputs, handover, tracker = _taken_up(folder, report)
    with tracker.step(Step.EXPORT, "Writing files for other runtimes") as advance:
        model = load_again(folder, handover.yardstick.samples)
        exported = export(
            folder,
            model,
            example_inputs(model, handover.yardstick.samples),
            spec=inputs.quantization,
            float_layers=handover.float_layers,
            advance=advance,
        )
    files = [*handover.files, *exported.files]
    hand_over(folder, replace(handover, course=tracker.course, files=files, float_onnx=exported.float_file))


def verify_artifacts(folder: JobFolder, report: Report) -> None:
    """Open every artifact in its runtime, hold it against the float model, and hand over to the stage that measures."""
    inputs, handover, tracker = _taken_up(folder, report)
    with tracker.step(Step.VERIFY, "Opening the artifacts in their runtimes") as advance:
        handover.artifacts = verify(
            load_again(folder, handover.yardstick.samples),
            handover.files,
            handover.yardstick,
            qengine=handover.qengine,
            batch_size=inputs.quantization.benchmark.batch_sizes[0],
            threads=inputs.threads,
            advance=advance,
        )
    hand_over(folder, replace(handover, course=tracker.course))


def measure(folder: JobFolder, report: Report) -> None:
    """Measure the right artifacts against float models, choose one, and write the report."""
    inputs, handover, tracker = _taken_up(folder, report)
    spec, artifacts = inputs.quantization, handover.artifacts
    torch.backends.quantized.engine = handover.qengine
    model = load_again(folder, handover.yardstick.samples)
    measured = worth_measuring(artifacts)
    int8 = {
        int8_in(each.runtime): in_file(each.runtime, folder.outputs / each.name, **options_of(each))
        for each in measured
    }
    ends_at_seconds = inputs.measuring_ends_at(tracker.elapsed_seconds)
    with tracker.step(Step.BENCHMARK, "Measuring latency") as advance:
        runtimes = [file.runtime for file in handover.files]
        floats = float_contenders(
            model,
            handover.float_torch,
            handover.float_onnx,
            runtimes,
            samples=handover.yardstick.samples,
            tracker=tracker,
        )
        latency = benchmark(
            model,
            floats | int8,
            handover.yardstick.samples,
            spec.benchmark,
            int8=int8,
            ends_at_seconds=ends_at_seconds,
            seed=spec.seed,
            tracker=tracker,
            advance=advance,
        )
        layer_times = time_layers(
            _pairs(folder, handover, measured, floats, dynamic=spec.method == "dynamic"),
            handover.explained["layers"],
            latency[0],
            batch_of(handover.yardstick.samples, latency[0].batch_size),
            max_seconds=spec.benchmark.max_seconds,
            ends_at_seconds=ends_at_seconds,
            tracker=tracker,
            advance=advance,
        )
    artifacts = [with_speed(each, latency[0]) for each in artifacts]
    best = next(each for each in measured if int8_in(each.runtime) == latency[0].int8)
    assert best.quality is not None
    assert best.size_bytes is not None
    float_bytes = handover.float_torch.stat().st_size
    size = Size(float_bytes=float_bytes, int8_bytes=best.size_bytes, ratio=float_bytes / best.size_bytes)
    verdict = judge(best.quality, latency, size)
    write_report(
        folder,
        JobReport(
            method=spec.method,
            verdict=verdict,
            recommended=best.name if verdict.word == "recommended" and not best.labels else None,
            artifacts=artifacts,
            quality=best.quality,
            latency=latency,
            size=size,
            layer_times=layer_times,
            before=inputs.before,
            warnings=with_slow_layers(
                tracker.warnings,
                next((each for each in layer_times if each.int8_candidate == latency[0].int8), None),
                handover.explained["layers"],
                quality_holds=verdict.word in ("recommended", "no_faster", "slower"),
            ),
            environment=describe_environment(handover.qengine, inputs.sandbox_level, threads=inputs.threads),
            timings=tracker.timings,
            **handover.explained,
        ),
    )


def _pairs(
    folder: JobFolder,
    handover: Handover,
    measured: Sequence[ArtifactResult],
    floats: Collection[str],
    *,
    dynamic: bool,
) -> dict[Runtime, Pair]:
    """Each measured artifact with the float model in the same runtime and precision, as far as there is one."""
    graphs, onnx = handover.explained["graphs"], handover.float_onnx
    pairs: dict[Runtime, Pair] = {}
    for each in measured:
        name, file, options = float_in(each.runtime), onnx, dict[str, str]()
        if each.runtime == "torch":
            name, file = FLOAT_FROZEN, handover.float_torch
        elif each.inference_precision == "bf16" and FLOAT_OPENVINO_BF16 in floats:
            name, options = FLOAT_OPENVINO_BF16, options_of(each)
        if file is not None:
            pairs[each.runtime] = Pair(
                name,
                TimedFile(file, graphs.float_nodes, options=options),
                TimedFile(
                    folder.outputs / each.name,
                    graphs.int8_nodes,
                    # ONNX Runtime's quantizer drops what the exporter says of a node, but keeps what it is called.
                    original=onnx if dynamic else None,
                    options=options_of(each),
                ),
            )
    return pairs


def _taken_up(folder: JobFolder, report: Report) -> tuple[JobInputs, Handover, ProgressTracker]:
    """What is asked, what the stage before left, and progress from there."""
    inputs, handover = folder.read_inputs(), take_over(folder, Handover)
    torch.set_num_threads(inputs.threads)
    return inputs, handover, ProgressTracker(report, WEIGHTS[inputs.spec.method], handover.course)


def _resolved_spec(
    inputs: JobInputs, settled: Plan, quality: Quality, training: TrainingResult | None
) -> dict[str, Any]:
    spec = inputs.quantization.model_dump(mode="json") | settled.resolved()
    spec["metric"] = None if quality.metric is None else quality.metric.name
    if spec["max_accuracy_drop"] == "auto":
        spec["max_accuracy_drop"] = None if quality.metric is None else quality.metric.max_drop
    if training is not None:
        spec["qat"] = spec["qat"] | {"loss": training.loss}
    return spec
