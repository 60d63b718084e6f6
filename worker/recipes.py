"""The recipes: what is done to a model, method by method, top to bottom.

A recipe needs only a job's folder: it reads `inputs/`, writes `outputs/`, and tells its progress. By hand:

    python -m worker.recipes FOLDER
"""

from __future__ import annotations

import itertools
import json
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
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
from shared.quantization_spec import DynamicSpec, QatSpec, StaticSpec
from worker.datasets import Samples, batches
from worker.environment import describe_environment
from worker.findings import Case, find
from worker.inference import Model, padded_to
from worker.job_folder import JobFolder, JobInputs
from worker.latency import FLOAT_EAGER, FLOAT_FROZEN, INT8
from worker.progress import ProgressTracker, Report
from worker.quantization import (
    Plan,
    collect_garbage,
    has_vnni,
    learn_scales,
    parked,
    plan,
    prepare_qat,
    quantize_dynamic,
    use_kernels_of,
    weights_digest,
    without_masks,
)
from worker.steps.advise import advise_on_dynamic
from worker.steps.analyse import analyse
from worker.steps.benchmark import benchmark
from worker.steps.calibrate import calibrate
from worker.steps.check_calibration import check_calibration, measure_quality_spread_db
from worker.steps.choose_kernels import Converted, convert_for_this_cpu
from worker.steps.convert import Quantized, freeze_quantized
from worker.steps.evaluate import Yardstick, choose_yardstick, evaluate
from worker.steps.load import JobData, LoadedModel, load
from worker.steps.losses import choose_loss
from worker.steps.package import package, write_report
from worker.steps.static_draft import StaticDraft, draft_static
from worker.steps.train import plan_course
from worker.steps.train_and_compare import compare_with_static, train_and_compare
from worker.training_checkpoint import fingerprint_of
from worker.verdict import judge

# What each step is expected to take, as a share of the whole: it drives the progress bar and the time left.
_DYNAMIC_WEIGHTS = {
    Step.LOAD: 3.0, Step.CONVERT: 2.0, Step.EVALUATE: 2.0, Step.ANALYSE: 6.0, Step.PACKAGE: 1.0, Step.BENCHMARK: 3.0,
}  # fmt: skip
_STATIC_WEIGHTS = {
    Step.LOAD: 3.0, Step.PREPARE: 3.0, Step.CALIBRATE: 6.0, Step.CONVERT: 2.0, Step.EVALUATE: 3.0,
    Step.ANALYSE: 8.0, Step.PACKAGE: 1.0, Step.BENCHMARK: 3.0,
}  # fmt: skip
_QAT_WEIGHTS = {
    Step.LOAD: 3.0, Step.PREPARE: 3.0, Step.CALIBRATE: 8.0, Step.TRAIN: 60.0, Step.CONVERT: 3.0, Step.EVALUATE: 4.0,
    Step.ANALYSE: 8.0, Step.PACKAGE: 1.0, Step.BENCHMARK: 3.0,
}  # fmt: skip

_MASKED_BATCHES = 2  #: in which a mask, where the model has one, is found

_WEIGHTS = {"dynamic": _DYNAMIC_WEIGHTS, "static": _STATIC_WEIGHTS, "qat": _QAT_WEIGHTS}


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


def run(folder: JobFolder, report: Report) -> JobReport:
    """Do the job in this folder: read inputs/, write outputs/, tell progress to `report`.

    Raises UserError for what was sent, ServiceError for what failed here.
    """
    inputs = folder.read_inputs()
    torch.set_num_threads(inputs.threads)  # only now: a thread from before the lockdown would be outside of it
    torch.manual_seed(inputs.spec.seed)
    tracker = ProgressTracker(report, _WEIGHTS[inputs.spec.method])
    model, data = load(folder, inputs, tracker)
    yardstick = choose_yardstick(model, data, inputs.spec, tracker)
    match inputs.spec:
        case DynamicSpec() as spec:
            outcome = dynamic(folder, model, data, spec, yardstick=yardstick, tracker=tracker)
        case StaticSpec() as spec:
            outcome = static(folder, model, data, spec, yardstick=yardstick, tracker=tracker)
        case QatSpec() as spec:
            outcome = qat(folder, model, data, spec, yardstick=yardstick, tracker=tracker)
    return _finish(folder, inputs, tracker, model=model, data=data, yardstick=yardstick, outcome=outcome)


def dynamic(
    folder: JobFolder,
    model: LoadedModel,
    data: JobData,
    spec: DynamicSpec,
    *,
    yardstick: Yardstick,
    tracker: ProgressTracker,
) -> Outcome:
    """int8 weights; activation ranges are found at run time."""
    settled = _told(plan(model.raised, spec), tracker)
    advise_on_dynamic(spec, settled, tracker)

    with tracker.step(Step.CONVERT, "Quantizing the weights"):
        module = quantize_dynamic(model.raised, settled)
        int8 = freeze_quantized(module, data.example_inputs(model), qengine=settled.qengine, scratch=folder.tmp)

    with tracker.step(Step.EVALUATE, "Comparing float and int8") as advance:
        (quality,) = evaluate(model, [int8.load()], yardstick, advance)

    return Outcome(settled, int8, quality)


def static(
    folder: JobFolder,
    model: LoadedModel,
    data: JobData,
    spec: StaticSpec,
    *,
    yardstick: Yardstick,
    tracker: ProgressTracker,
) -> Outcome:
    """int8 weights and activations, with ranges fixed by calibration."""
    assert data.calibration is not None
    example = data.example_inputs(model)

    with tracker.step(Step.PREPARE, "Inserting observers"):
        draft = draft_static(model, _plan(model, spec, data.calibration, tracker), spec, data.calibration, example)

    with tracker.step(Step.CALIBRATE, "Observing ranges") as advance:
        found = calibrate(model, [draft.prepared], draft.observed, advance, then=(draft.held_back, draft.refine))
        spread_db = measure_quality_spread_db(model, draft.prepared, draft.plan, found, data.evaluation)
        calibration = check_calibration(model, found, data.held_out, tracker, quality_spread_db=spread_db)

    with tracker.step(Step.CONVERT, "Emitting int8 operators"):
        converted = convert_for_this_cpu(
            model, draft.prepared, draft.plan, draft.held_back, example, scratch=folder.tmp
        )

    with (
        tracker.step(Step.EVALUATE, "Comparing float and int8") as advance,
        parked(draft.prepared, beside=[model.raised]),
    ):
        (quality,) = evaluate(model, [converted.int8.load()], yardstick, advance)

    return _of_draft(draft, converted, quality, calibration)


def qat(
    folder: JobFolder,
    model: LoadedModel,
    data: JobData,
    spec: QatSpec,
    *,
    yardstick: Yardstick,
    tracker: ProgressTracker,
) -> Outcome:
    """int8 weights and activations, trained with fake quantize; or the static model, where training gains nothing."""
    assert data.training is not None
    loss_name = choose_loss(model, data.training, spec.qat.loss)
    course = plan_course(model, data.training, spec, loss_name=loss_name, yardstick=yardstick, tracker=tracker)
    calibration = data.calibration or data.training
    example = data.example_inputs(model)

    with tracker.step(Step.PREPARE, "Inserting fake quantize"):
        settled = _plan(model, spec, calibration, tracker)
        prepared = prepare_qat(model.raised, settled, example)
        static_spec = _static_of(spec)
        draft = draft_static(model, _plan(model, static_spec, calibration, tracker), static_spec, calibration, example)

    with tracker.step(Step.CALIBRATE, "Observing ranges") as advance:
        both = [prepared, draft.prepared]
        found = calibrate(model, both, draft.observed, advance, then=(draft.held_back, draft.refine))
        checked = check_calibration(model, found, data.held_out, tracker)
        if spec.qat.learnable_scales:
            learn_scales(prepared)

    with tracker.step(Step.TRAIN, "Training") as advance:
        fingerprint = fingerprint_of(folder.model, spec.model_dump_json(), json.dumps(settled.resolved()))
        trained = train_and_compare(course, prepared, folder, fingerprint, advance)

    with tracker.step(Step.CONVERT, "Emitting int8 operators"):
        to_convert = [(draft.prepared, draft.plan)]
        if trained.best_epoch is not None:
            to_convert.append((prepared.eval(), settled))
        candidates = [
            convert_for_this_cpu(model, *each, draft.held_back, example, scratch=folder.tmp) for each in to_convert
        ]

    with tracker.step(Step.EVALUATE, "Comparing float, int8 and static int8") as advance:
        qualities = evaluate(model, [candidate.int8.load() for candidate in candidates], yardstick, advance)

    training = compare_with_static(
        course,
        trained,
        qualities[1] if len(qualities) > 1 else None,
        qualities[0],
        float_layers=settled.float_reasons,
        static_float_layers=draft.plan.float_reasons,
    )
    if training.offered == "static":
        outcome = replace(_of_draft(draft, candidates[0], qualities[0], checked), training=training)
    else:
        own = candidates[1]
        outcome = Outcome(
            own.plan, own.int8, qualities[1], prepared, own.kernels, calibration=checked, training=training
        )
    for candidate in candidates:
        if candidate.int8 is not outcome.int8:
            candidate.int8.file.unlink()
    use_kernels_of(outcome.plan)  # converting the other one may have selected others
    return outcome


def _of_draft(draft: StaticDraft, converted: Converted, quality: Quality, calibration: CalibrationResult) -> Outcome:
    return Outcome(
        converted.plan,
        converted.int8,
        quality,
        draft.prepared,
        converted.kernels,
        draft.ranges,
        draft.recovery,
        calibration,
    )


def _plan(model: LoadedModel, spec: StaticSpec | QatSpec, samples: Samples, tracker: ProgressTracker) -> Plan:
    some = itertools.islice(batches(samples, model.batch_size), _MASKED_BATCHES)
    inputs = (padded_to(batch.inputs, model.batch.low) for batch in some)
    return _told(without_masks(model.raised, plan(model.raised, spec), inputs), tracker)


def _told(settled: Plan, tracker: ProgressTracker) -> Plan:
    for note in settled.notes:
        tracker.warn("plan", f"{note[0].upper()}{note[1:]}.")
    return settled


def _finish(
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
    findings = find(
        Case(
            spec=spec,
            resolved=resolved,
            analysis=analysis,
            quality=quality,
            recovery=outcome.recovery,
            holds_full_range=has_vnni(),
        )
    )
    report = JobReport(
        method=spec.method,
        verdict=judge(quality, latency, packed.size),
        quality=quality,
        latency=latency,
        size=packed.size,
        layers=analysis.layers,
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
        warnings=[*findings, *tracker.warnings],
        spec=resolved,
        environment=describe_environment(settled.qengine, inputs.sandbox_level, threads=inputs.threads),
        timings=tracker.timings,
    )
    write_report(folder, report)
    return report


def _static_of(spec: QatSpec) -> StaticSpec:
    """The static job on the same data."""
    asked = {name: getattr(spec, name) for name in StaticSpec.model_fields.keys() & QatSpec.model_fields.keys()}
    asked["method"] = "static"
    asked["calibration"] = spec.calibration or spec.training
    asked["activation"] = spec.activation.model_copy(update={"observer": "auto"})
    return StaticSpec(**asked)


def _resolved_spec(
    inputs: JobInputs, settled: Plan, quality: Quality, training: TrainingResult | None
) -> dict[str, Any]:
    spec = inputs.spec.model_dump(mode="json") | settled.resolved()
    spec["metric"] = None if quality.metric is None else quality.metric.name
    if training is not None:
        spec["qat"] = spec["qat"] | {"loss": training.loss}
    return spec


def main() -> None:
    """Run the recipe in the folder named on the command line, and print its progress as JSON lines."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m worker.recipes FOLDER")
    report = run(JobFolder(Path(sys.argv[1])), lambda message: print(message.model_dump_json(), flush=True))  # noqa: T201  # a command's output
    print(report.verdict.sentence)  # noqa: T201  # likewise


if __name__ == "__main__":
    main()
