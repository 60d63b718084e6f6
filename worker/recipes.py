"""The recipes: what is done to a model, method by method, top to bottom.

A recipe needs only a job's folder: it reads `inputs/`, writes `outputs/`, and tells its progress. By hand:

    python -m worker.recipes FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from shared.job import Step
from shared.job_report import CalibrationResult, JobReport, KernelTrial, Quality, TrainingResult
from shared.layer_report import LayerSummary
from shared.quantization_spec import DynamicSpec, QatSpec, StaticSpec
from worker.environment import describe_environment
from worker.job_folder import JobFolder, JobInputs
from worker.latency import FLOAT_EAGER, FLOAT_FROZEN, INT8
from worker.progress import ProgressTracker, Report
from worker.quantization import (
    Plan,
    describe_layers,
    freeze,
    learn_scales,
    plan,
    prepare,
    prepare_qat,
    quantize_dynamic,
    use_kernels_of,
)
from worker.steps.advise import advise_on_dynamic
from worker.steps.benchmark import benchmark
from worker.steps.calibrate import calibrate
from worker.steps.check_calibration import check_calibration, measure_quality_spread_db
from worker.steps.choose_kernels import convert_for_this_cpu
from worker.steps.convert import Quantized, freeze_quantized
from worker.steps.evaluate import choose_yardstick, evaluate
from worker.steps.load import JobData, LoadedModel, load
from worker.steps.losses import choose_loss
from worker.steps.package import package, write_report
from worker.steps.train import plan_course
from worker.steps.train_and_compare import compare_with_static, train_and_compare
from worker.training_checkpoint import fingerprint_of
from worker.verdict import judge

# What each step is expected to take, as a share of the whole: it drives the progress bar and the time left.
_DYNAMIC_WEIGHTS = {Step.LOAD: 3.0, Step.CONVERT: 2.0, Step.EVALUATE: 2.0, Step.BENCHMARK: 3.0, Step.PACKAGE: 1.0}
_STATIC_WEIGHTS = {
    Step.LOAD: 3.0, Step.PREPARE: 1.0, Step.CALIBRATE: 4.0, Step.CONVERT: 2.0, Step.EVALUATE: 3.0,
    Step.BENCHMARK: 3.0, Step.PACKAGE: 1.0,
}  # fmt: skip
_QAT_WEIGHTS = {
    Step.LOAD: 3.0, Step.PREPARE: 1.0, Step.CALIBRATE: 6.0, Step.TRAIN: 60.0, Step.CONVERT: 3.0, Step.EVALUATE: 4.0,
    Step.BENCHMARK: 3.0, Step.PACKAGE: 1.0,
}  # fmt: skip

_MOSTLY_FLOAT = 0.5


def run(folder: JobFolder, report: Report) -> JobReport:
    """Do the job in this folder: read inputs/, write outputs/, tell progress to `report`.

    Raises UserError for what was sent, ServiceError for what failed here.
    """
    inputs = folder.read_inputs()
    torch.set_num_threads(inputs.threads)  # only now: a thread from before the lockdown would be outside of it
    torch.manual_seed(inputs.spec.seed)
    match inputs.spec:
        case DynamicSpec() as spec:
            return dynamic(folder, inputs, spec, ProgressTracker(report, _DYNAMIC_WEIGHTS))
        case StaticSpec() as spec:
            return static(folder, inputs, spec, ProgressTracker(report, _STATIC_WEIGHTS))
        case QatSpec() as spec:
            return qat(folder, inputs, spec, ProgressTracker(report, _QAT_WEIGHTS))


def dynamic(folder: JobFolder, inputs: JobInputs, spec: DynamicSpec, tracker: ProgressTracker) -> JobReport:
    """int8 weights; activation ranges are found at run time."""
    model, data = load(folder, inputs, tracker)
    settled = _plan(model, spec, tracker)
    advise_on_dynamic(spec, settled, tracker)
    yardstick = choose_yardstick(model, data, spec, tracker)

    with tracker.step(Step.CONVERT, "Quantizing the weights"):
        int8 = freeze_quantized(quantize_dynamic(model.raised, settled), data.example_inputs(model))

    with tracker.step(Step.EVALUATE, "Comparing float and int8") as advance:
        (quality,) = evaluate(model, [int8.frozen], yardstick, advance)

    return _finish(folder, inputs, tracker, model, data, settled=settled, int8=int8, quality=quality)


def static(folder: JobFolder, inputs: JobInputs, spec: StaticSpec, tracker: ProgressTracker) -> JobReport:
    """int8 weights and activations, with ranges fixed by calibration."""
    model, data = load(folder, inputs, tracker)
    yardstick = choose_yardstick(model, data, spec, tracker)
    example = data.example_inputs(model)

    with tracker.step(Step.PREPARE, "Inserting observers"):
        settled = _plan(model, spec, tracker)
        prepared = prepare(model.raised, settled, example)

    with tracker.step(Step.CALIBRATE, "Observing ranges") as advance:
        assert data.calibration is not None
        found = calibrate(model, [prepared], data.calibration, advance)
        spread_db = measure_quality_spread_db(model, prepared, settled, found, data.evaluation)
        calibration = check_calibration(model, found, data.held_out, tracker, quality_spread_db=spread_db)

    with tracker.step(Step.CONVERT, "Emitting int8 operators"):
        settled, int8, kernels = convert_for_this_cpu(model, prepared, settled, data.calibration, example)

    with tracker.step(Step.EVALUATE, "Comparing float and int8") as advance:
        (quality,) = evaluate(model, [int8.frozen], yardstick, advance)

    return _finish(
        folder,
        inputs,
        tracker,
        model,
        data,
        settled=settled,
        int8=int8,
        quality=quality,
        kernels=kernels,
        calibration=calibration,
    )


def qat(folder: JobFolder, inputs: JobInputs, spec: QatSpec, tracker: ProgressTracker) -> JobReport:
    """int8 weights and activations, trained with fake quantize; or the static model, where training gains nothing."""
    model, data = load(folder, inputs, tracker)
    yardstick = choose_yardstick(model, data, spec, tracker)
    assert data.training is not None
    loss_name = choose_loss(model, data.training, spec.qat.loss)
    course = plan_course(model, data.training, spec, loss_name=loss_name, yardstick=yardstick, tracker=tracker)
    calibration = data.calibration or data.training
    example = data.example_inputs(model)

    with tracker.step(Step.PREPARE, "Inserting fake quantize"):
        settled = _plan(model, spec, tracker)
        prepared = prepare_qat(model.raised, settled, example)
        static_settled = _plan(model, _static_of(spec), tracker)
        static_prepared = prepare(model.raised, static_settled, example)

    with tracker.step(Step.CALIBRATE, "Observing ranges") as advance:
        found = calibrate(model, [prepared, static_prepared], calibration, advance)
        checked = check_calibration(model, found, data.held_out, tracker)
        if spec.qat.learnable_scales:
            learn_scales(prepared)

    with tracker.step(Step.TRAIN, "Training") as advance:
        fingerprint = fingerprint_of(folder.model, spec.model_dump_json(), json.dumps(settled.resolved()))
        trained = train_and_compare(course, prepared, folder, fingerprint, advance)

    with tracker.step(Step.CONVERT, "Emitting int8 operators"):
        candidates = [convert_for_this_cpu(model, static_prepared, static_settled, calibration, example)]
        if trained.best_epoch is not None:
            candidates.append(convert_for_this_cpu(model, prepared.eval(), settled, calibration, example))

    with tracker.step(Step.EVALUATE, "Comparing float, int8 and static int8") as advance:
        qualities = evaluate(model, [int8.frozen for _, int8, _ in candidates], yardstick, advance)

    training = compare_with_static(course, trained, qualities[1] if len(qualities) > 1 else None, qualities[0])
    offered = 1 if training.offered == "qat" else 0
    settled, int8, kernels = candidates[offered]
    use_kernels_of(settled)
    return _finish(
        folder,
        inputs,
        tracker,
        model,
        data,
        settled=settled,
        int8=int8,
        quality=qualities[offered],
        kernels=kernels,
        calibration=checked,
        training=training,
    )


def _plan(model: LoadedModel, spec: DynamicSpec | StaticSpec | QatSpec, tracker: ProgressTracker) -> Plan:
    settled = plan(model.raised, spec)
    for note in settled.notes:
        tracker.warn("plan", f"{note[0].upper()}{note[1:]}.")
    return settled


def _finish(
    folder: JobFolder,
    inputs: JobInputs,
    tracker: ProgressTracker,
    model: LoadedModel,
    data: JobData,
    *,
    settled: Plan,
    int8: Quantized,
    quality: Quality,
    kernels: list[KernelTrial] | None = None,
    calibration: CalibrationResult | None = None,
    training: TrainingResult | None = None,
) -> JobReport:
    """Benchmark, package and report: the same for every method."""
    spec = inputs.spec

    with tracker.step(Step.BENCHMARK, "Measuring latency") as advance:
        float_frozen = freeze(model.raised, data.example_inputs(model))
        candidates = {FLOAT_EAGER: model.raised, FLOAT_FROZEN: float_frozen, INT8: int8.frozen}
        latency = benchmark(
            model, candidates, data.evaluation, spec.benchmark, seed=spec.seed, tracker=tracker, advance=advance
        )

    with tracker.step(Step.PACKAGE, "Writing and checking the artifacts"):
        size = package(folder, model, int8, float_frozen, samples=data.evaluation, qengine=settled.qengine)
        layers = describe_layers(model.raised, int8.module, settled)
        _warn_if_mostly_float(layers, tracker)

    report = JobReport(
        method=spec.method,
        verdict=judge(quality, latency, size),
        quality=quality,
        latency=latency,
        size=size,
        layers=layers,
        calibration=calibration,
        kernels=kernels or [],
        training=training,
        warnings=tracker.warnings,
        spec=_resolved_spec(inputs, settled, quality, training),
        environment=describe_environment(settled.qengine, inputs.sandbox_level),
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


def _warn_if_mostly_float(layers: list[LayerSummary], tracker: ProgressTracker) -> None:
    # An int8 weight takes a byte where a float one takes four.
    int8_weights = sum(layer.weight_bytes for layer in layers if layer.precision == "int8")
    float_weights = sum(layer.weight_bytes for layer in layers if layer.precision == "float32") / 4
    share = float_weights / max(1.0, int8_weights + float_weights)
    if share > _MOSTLY_FLOAT:
        tracker.warn(
            "mostly_float",
            f"{100 * share:.0f} % of the weights stay in float: little is gained by this method.",
            "`layers` in the report says why each was left; another method may quantize them.",
        )


def main() -> None:
    """Run the recipe in the folder named on the command line, and print its progress as JSON lines."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m worker.recipes FOLDER")
    report = run(JobFolder(Path(sys.argv[1])), lambda message: print(message.model_dump_json(), flush=True))  # noqa: T201  # a command's output
    print(report.verdict.sentence)  # noqa: T201  # likewise


if __name__ == "__main__":
    main()
