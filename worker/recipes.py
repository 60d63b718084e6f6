"""The recipes: what is done to a model, method by method, top to bottom.

A recipe needs only a job's folder: it reads `inputs/`, writes the int8 model and the report to `outputs/`, and tells
its progress. By hand, with all that is made of the report:

    python -m worker.recipes FOLDER
"""

from __future__ import annotations

import functools
import itertools
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from shared.benchmark_report import BenchmarkReport
from shared.benchmark_spec import BenchmarkSpec
from shared.job import Step
from shared.job_report import CalibrationResult, JobReport, Quality
from shared.quantization_spec import DynamicSpec, QatSpec, StaticSpec
from worker.benchmarking import export_forms, make_forms, measure_forms, verify_forms
from worker.datasets import Samples, batches
from worker.inference import padded_to
from worker.job_folder import JobFolder
from worker.outputs import complete_outputs, read_report
from worker.progress import STAGES, ProgressTracker, Report, Stage
from worker.quantization import (
    Plan,
    learn_scales,
    parked,
    plan,
    prepare_qat,
    simulate,
    use_kernels_of,
    without_masks,
)
from worker.reporting import WEIGHTS, Outcome, complete, export_artifacts, measure, verify_artifacts
from worker.steps.advise import advise_on_dynamic
from worker.steps.calibrate import calibrate
from worker.steps.check_calibration import check_calibration, measure_quality_spread
from worker.steps.choose_kernels import Converted, convert_for_this_cpu
from worker.steps.convert_dynamic import convert_dynamic
from worker.steps.evaluate import Yardstick, choose_yardstick, evaluate
from worker.steps.export import wanted_runtimes
from worker.steps.load import JobData, LoadedModel, example_inputs, load
from worker.steps.losses import choose_loss
from worker.steps.static_draft import StaticDraft, draft_static
from worker.steps.train import plan_course
from worker.steps.train_and_compare import compare_with_static, train_and_compare
from worker.training_checkpoint import fingerprint_of

_MASKED_BATCHES = 2  #: in which a mask, where the model has one, is found


def run(folder: JobFolder, report: Report) -> JobReport:
    """Quantize as the job in this folder asks: read inputs/, write outputs/, tell progress to `report`.

    Raises UserError for what was sent, ServiceError for what failed here.
    """
    found = run_any(folder, report)
    assert isinstance(found, JobReport)
    return found


def run_any(folder: JobFolder, report: Report) -> JobReport | BenchmarkReport:
    """Do the job in this folder, whatever its method; likewise."""
    for stage in RECIPE.values():
        stage(folder, report)
    return read_report(folder.outputs, folder.read_inputs())


def make(folder: JobFolder, report: Report) -> None:
    """The first stage of quantizing: make the int8 model, explain it, write its artifact for torch."""
    inputs = folder.read_inputs()
    asked = inputs.quantization
    wanted_runtimes(asked.runtimes)  # before any work is done for one that there is not
    torch.set_num_threads(inputs.threads)  # only now: a thread from before the lockdown would be outside of it
    torch.manual_seed(asked.seed)
    tracker = ProgressTracker(report, WEIGHTS[asked.method])
    model, data = load(folder, inputs, tracker)
    yardstick = choose_yardstick(model.reference, data, tracker, metric=asked.metric, max_drop=asked.max_accuracy_drop)
    match asked:
        case DynamicSpec() as spec:
            outcome = dynamic(folder, model, data, spec, yardstick=yardstick, tracker=tracker)
        case StaticSpec() as spec:
            outcome = static(folder, model, data, spec, yardstick=yardstick, tracker=tracker)
        case QatSpec() as spec:
            outcome = qat(folder, model, data, spec, yardstick=yardstick, tracker=tracker)
    complete(folder, inputs, tracker, model=model, data=data, yardstick=yardstick, outcome=outcome)


Run = Callable[[JobFolder, Report], None]
_QUANTIZE: Mapping[Stage, Run] = {
    "make": make, "export": export_artifacts, "verify": verify_artifacts, "measure": measure,
}  # fmt: skip
_BENCHMARK: Mapping[Stage, Run] = {
    "make": make_forms, "export": export_forms, "verify": verify_forms, "measure": measure_forms,
}  # fmt: skip


def _run_stage(stage: Stage, folder: JobFolder, report: Report) -> None:
    """The stage of the method that the job asks for."""
    stages = _BENCHMARK if isinstance(folder.read_inputs().spec, BenchmarkSpec) else _QUANTIZE
    stages[stage](folder, report)


#: By stage, in order: each can run in a process of its own, and takes up what the one before left in the folder.
RECIPE: Mapping[Stage, Run] = {stage: functools.partial(_run_stage, stage) for stage in STAGES}


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
        example = example_inputs(model, data.evaluation)
        converted = convert_dynamic(model, settled, data.evaluation, example, scratch=folder.tmp)

    with tracker.step(Step.EVALUATE, "Comparing float and int8") as advance:
        (quality,) = evaluate(model, [converted.int8.load()], yardstick, advance)

    return Outcome(converted.plan, converted.int8, quality, kernels=converted.kernels)


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
    example = example_inputs(model, data.evaluation)

    with tracker.step(Step.PREPARE, "Inserting observers"):
        draft = draft_static(model, _plan(model, spec, data.calibration, tracker), spec, data.calibration, example)

    with tracker.step(Step.CALIBRATE, "Observing ranges") as advance:
        found = calibrate(model, [draft.prepared], draft.observed, advance, then=(draft.held_back, draft.refine))
        spread = measure_quality_spread(model, draft.prepared, draft.plan, found, data.evaluation)
        calibration = check_calibration(model, found, data.held_out, tracker, quality=spread)

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
    example = example_inputs(model, data.evaluation)

    with tracker.step(Step.PREPARE, "Inserting fake quantize"):
        settled = _plan(model, spec, calibration, tracker)
        prepared = prepare_qat(model.raised, settled, example)
        static_spec = _static_of(spec)
        draft = draft_static(model, _plan(model, static_spec, calibration, tracker), static_spec, calibration, example)

    with tracker.step(Step.CALIBRATE, "Observing ranges") as advance:
        both = [prepared, draft.prepared]
        found = calibrate(model, both, draft.observed, advance, then=(draft.held_back, draft.refine))
        spread = measure_quality_spread(model, draft.prepared, draft.plan, found, data.evaluation)
        checked = check_calibration(model, found, data.held_out, tracker, quality=spread)
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
        kernels = [candidate.int8.load() for candidate in candidates]
        in_float = [simulate(*each).run for each in to_convert]
        qualities = evaluate(model, [*kernels, *in_float], yardstick, advance)
        qualities, simulated = qualities[: len(kernels)], qualities[len(kernels) :]
        del kernels, in_float

    training = compare_with_static(
        course,
        trained,
        qualities[1] if len(qualities) > 1 else None,
        qualities[0],
        simulated=(simulated[1], simulated[0]) if len(simulated) > 1 else None,
        float_layers=settled.float_layers,
        static_float_layers=draft.plan.float_layers,
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
        observed=draft.observed,
    )


def _plan(model: LoadedModel, spec: StaticSpec | QatSpec, samples: Samples, tracker: ProgressTracker) -> Plan:
    some = itertools.islice(batches(samples, model.batch_size), _MASKED_BATCHES)
    inputs = (padded_to(batch.inputs, model.batch.low) for batch in some)
    return _told(without_masks(model.raised, plan(model.raised, spec), inputs), tracker)


def _told(settled: Plan, tracker: ProgressTracker) -> Plan:
    for note in settled.notes:
        tracker.warn("plan", f"{note[0].upper()}{note[1:]}.")
    return settled


def _static_of(spec: QatSpec) -> StaticSpec:
    """The static job on the same data, with the same settings: it may be the model on offer."""
    asked = {name: getattr(spec, name) for name in StaticSpec.model_fields.keys() & QatSpec.model_fields.keys()}
    asked["method"] = "static"
    asked["calibration"] = spec.calibration or spec.training
    return StaticSpec(**asked)


def main() -> None:
    """Run the recipe in the folder named on the command line, and print its progress as JSON lines."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m worker.recipes FOLDER")
    folder = JobFolder(Path(sys.argv[1]))
    report = run_any(folder, lambda message: print(message.model_dump_json(), flush=True))  # noqa: T201  # a command's output
    complete_outputs(folder.outputs, report, job_id=folder.read_inputs().job_id)
    print(report.conclusion if isinstance(report, BenchmarkReport) else report.verdict.sentence)  # noqa: T201  # likewise


if __name__ == "__main__":
    main()
