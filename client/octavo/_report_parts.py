"""What a report tells below its figures, for terminal and notebook alike: a title, a small table, some sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from octavo._candidate_names import candidate_name, runtime_name
from octavo._figures import (
    NOTHING,
    agreement_text,
    layers_by_error,
    metric_text,
    p50_text,
    speedup_text,
    sqnr_text,
    worst_sqnr_text,
)
from octavo._job_report import (
    ArtifactResult,
    BenchmarkResult,
    CalibrationResult,
    JobReport,
    KernelTrial,
    RangeTrial,
    RecoveryResult,
    TrainingResult,
)
from octavo._layer_report import LayerSensitivity, LayerSummary, QuantBoundary, Sensitivity
from octavo._layer_times import LayerTimes
from octavo._tables import bytes_text, shortened

_WORST = 8
_FEW = 5
_STOPPED = {"completed": "to its end", "early": "stopped early", "diverged": "stopped since it diverged"}


@dataclass(frozen=True)
class Part:
    """One part of a report; the first of its rows is the head."""

    title: str
    rows: Sequence[Sequence[str]] = ()
    told: Sequence[str] = ()
    right: Sequence[int] = ()
    """The columns of numbers."""
    names: int = 1
    """How many of the first columns hold names, which may be long."""

    def with_names_of(self, width: int) -> list[list[str]]:
        """The rows, with names of at most so many characters."""
        return [
            [shortened(cell, width) if column < self.names else cell for column, cell in enumerate(row)]
            for row in self.rows
        ]


def artifacts_part(report: JobReport) -> Part:
    """What each file of the int8 model is worth, which one to take, and what is wrong with the others."""
    metric = report.quality.metric
    speedups = {each.name: each for each in report.latency[0].speedups} if report.latency else {}
    rows = [["file", "size", "same arg max" if metric is None else metric.name, "SQNR", "in int8", "speedup"]]
    for each in report.artifacts:
        speedup = speedups.get(f"int8_{each.runtime}")
        size = NOTHING if each.size_bytes is None else bytes_text(each.size_bytes)
        faster = NOTHING if speedup is None else speedup_text(speedup)
        rows.append([each.name, size, *_of_artifact(each), faster])
    told = [f"{each.name}, for {_said(each, report.recommended)}" for each in report.artifacts]
    return Part("Artifacts", rows, told, range(1, 6))


def report_parts(report: JobReport) -> Iterator[Part]:
    """Those that the report has, in the order of `report.html`; artifacts come before, beside the verdict."""
    if any(each.load is not None for each in report.artifacts):
        yield _loading(report.artifacts)
    if report.latency:
        yield _latency(report.latency)
    if report.layer_times:
        yield _layer_times(report.layer_times[0])
    yield from _of_layers(report)
    if report.calibration is not None:
        yield _calibration(report.calibration)
    if report.ranges:
        yield _ranges(report.ranges)
    if report.recovery:
        yield _recovery(report.recovery)
    if report.kernels:
        yield _kernels(report.kernels)
    if report.training is not None:
        yield _training(report.training)


def _of_layers(report: JobReport) -> Iterator[Part]:
    if layers_by_error(report.layers):
        yield _layers(report)
    if report.sensitivity is not None and report.sensitivity.layers:
        yield _sensitivity(report.sensitivity)
    if report.boundaries:
        yield _boundaries(report.boundaries)
    left = [layer for layer in report.layers if layer.precision == "float32"]
    if left:
        yield _left_in_float(left, len(report.layers))


def _of_artifact(artifact: ArtifactResult) -> list[str]:
    """The metric or else the agreement, SQNR, and how many operators run in int8."""
    quality = artifact.quality
    if quality is None:
        return [NOTHING] * 3
    operators = f"{artifact.int8_operators} of {artifact.int8_operators + artifact.float_operators}"
    metric = quality.metric
    near = agreement_text(quality.fidelity) if metric is None else metric_text(metric, metric.int8_value)
    return [near, worst_sqnr_text(quality.fidelity), operators]


def _said(artifact: ArtifactResult, recommended: str | None) -> str:
    words = ["recommended"] if artifact.name == recommended else []
    words += [label.replace("_", " ") for label in artifact.labels]
    runtime = f"{runtime_name(artifact.runtime)}{' with bf16' if artifact.inference_precision == 'bf16' else ''}"
    first = f"{runtime}: {', '.join(words)}." if words else f"{runtime}."
    return first if artifact.note is None else f"{first} {artifact.note}"


def _loading(artifacts: Sequence[ArtifactResult]) -> Part:
    rows = [["file", "cold", "warm", "holds", "at most"]]
    for each in artifacts:
        if each.load is not None:
            peak = NOTHING if each.load.peak_bytes is None else bytes_text(each.load.peak_bytes)
            both = (_milliseconds(each.load.cold_ms), _milliseconds(each.load.warm_ms))
            rows.append(
                [each.name, *both, bytes_text(each.load.resident_bytes) if each.load.resident_bytes else NOTHING, peak]
            )
    return Part("Load time and memory, until it has answered", rows, right=range(1, 5))


def _latency(latency: Sequence[BenchmarkResult]) -> Part:
    """Every candidate at the first combinations, the fastest first."""
    shown = latency[:_FEW]
    candidates = sorted(shown[0].candidates, key=lambda each: each.p50_ms)
    at = [f"batch {each.batch_size}, {_threads_text(each.threads)}" for each in shown]
    rows = [["p50", *at]]
    rows += [[candidate_name(each.name), *(p50_text(result, each.name) for result in shown)] for each in candidates]
    if all(each.energy_joules is None for each in candidates):
        return Part("Latency of each candidate", rows, right=range(1, len(shown) + 1))
    energy = [NOTHING if each.energy_joules is None else f"{1000 * each.energy_joules:.3g} mJ" for each in candidates]
    rows = [[*row, cell] for row, cell in zip(rows, ["energy a sample", *energy], strict=True)]
    told = [shown[0].energy] if shown[0].energy else []
    return Part("Latency of each candidate", rows, told, range(1, len(shown) + 2))


def _layer_times(found: LayerTimes) -> Part:
    """What changed most, and what boundaries cost."""
    changed = sorted(found.layers, key=lambda each: -abs(each.int8_ms - each.float_ms))
    rows = [["layer", "runs in", "float", "int8", "float / int8", "of int8's time"]]
    for each in changed[:_WORST]:
        ratio = NOTHING if each.ratio is None else f"{each.ratio:.2f}×"
        both = (_milliseconds(each.float_ms), _milliseconds(each.int8_ms))
        rows.append([each.layer, each.precision, *both, ratio, f"{each.share:.0%}"])
    shown = f"the most changed {_WORST} of {len(changed)}" if len(changed) > _WORST else "the most changed first"
    told = [found.conclusion, found.method]
    return Part(f"Time by layer, {candidate_name(found.int8_candidate)}, {shown}", rows, told, range(2, 6))


def _layers(report: JobReport) -> Part:
    worst = layers_by_error(report.layers)
    gains = {} if report.sensitivity is None else {each.layer: _gain(each) for each in report.sensitivity.layers}
    rows = [["layer", "op", "runs in", "SQNR", "made here", "arriving", *(["gain if float"] if gains else [])]]
    for layer in worst[:_WORST]:
        row = [layer.name, layer.op, layer.precision, *_errors(layer)]
        rows.append([*row, gains.get(layer.name, NOTHING)] if gains else row)
    shown = f"{_WORST} of {len(worst)}" if len(worst) > _WORST else str(len(worst))
    return Part(f"Layers, the worst first ({shown})", rows, right=range(3, 7))


def _errors(layer: LayerSummary) -> list[str]:
    error = layer.error
    if error is None:
        return [NOTHING] * 3
    arriving = NOTHING if error.arriving_sqnr_db is None else sqnr_text(error.arriving_sqnr_db)
    return [sqnr_text(error.sqnr_db), NOTHING if error.own_sqnr_db is None else sqnr_text(error.own_sqnr_db), arriving]


def _sensitivity(found: Sensitivity) -> Part:
    rows = [["layer", "gain if float", "only it in int8", "only it in float"]]
    for each in found.layers[:_FEW]:
        both = (sqnr_text(each.alone_int8_sqnr_db), sqnr_text(each.alone_float_sqnr_db))
        rows.append([each.layer, _gain(each), *both])
    all_int8 = f"With all in int8 the output has {sqnr_text(found.base_sqnr_db)}, on {found.samples} samples."
    missed = len(found.not_reached)
    told = [all_int8, f"The time budget did not reach {_layers_text(missed)}: nothing is known there."]
    return Part(f"Sensitivity, the costliest of {len(found.layers)}", rows, told[: 2 if missed else 1], range(1, 4))


def _gain(layer: LayerSensitivity) -> str:
    # Without noise there is no SQNR: kept in float, this layer alone makes the output that of the float model.
    everything = layer.alone_float_sqnr_db is None and layer.gain_db > 0
    return "all of it" if everything else f"{layer.gain_db:+.1f} dB".replace("-", "−")


def _boundaries(boundaries: Sequence[QuantBoundary]) -> Part:
    costliest = sorted(boundaries, key=lambda each: -(each.cost_ms or 0.0))
    rows = [["from", "to", "passes to", "cost", "removable"]]
    for each in costliest[:_FEW]:
        precision = "int8" if each.direction == "quantize" else "float32"
        removable = _yes(said=each.removed_by is not None)
        rows.append([each.producer, each.consumer, precision, _milliseconds(each.cost_ms), removable])
    known = [each.cost_ms for each in boundaries if each.cost_ms is not None]
    cost = f", {sum(known):.3g} ms together" if known else ""
    return Part(f"Quant boundaries, the costliest of {len(boundaries)}{cost}", rows, right=[3], names=2)


def _left_in_float(left: Sequence[LayerSummary], layers: int) -> Part:
    told = [f"{layer.name} ({layer.op}){f': {layer.reason}' if layer.reason else ''}" for layer in left[:_FEW]]
    told += [f"and {len(left) - _FEW} more"] if len(left) > _FEW else []
    return Part(f"In float: {len(left)} of {layers} layers", told=told)


def _calibration(found: CalibrationResult) -> Part:
    enough = "" if found.enough_samples is None else f" About {found.enough_samples} would do."
    verdict = "The data suffices." if found.sufficient else f"The data does not suffice.{enough}"
    seen = [f"{found.samples} samples, {found.duplicates} of them duplicates"]
    if found.scale_spread is not None:
        seen.append(f"over {found.subsets} subsets the scales vary by {found.scale_spread:.0%}")
    if found.quality_spread_db is not None:
        seen.append(f"the output's SQNR by {found.quality_spread_db:.1f} dB")
    if found.coverage is not None:
        seen.append(f"half of them see {found.coverage:.0%} of the range")
    constant = [each.name for each in found.inputs if each.constant]
    outside = [f"{each.name} {each.evaluation_outside:.2%}" for each in found.inputs if each.evaluation_outside]
    told = [verdict, f"{'; '.join(seen)}."]
    told += [f"The same in every sample: {', '.join(constant[:_FEW])}."] if constant else []
    told += [f"Evaluation data outside of what it saw: {', '.join(outside[:_FEW])}."] if outside else []
    return Part("Calibration", told=told)


def _ranges(trials: Sequence[RangeTrial]) -> Part:
    rows = [["rule for ranges", "SQNR", "chosen"]]
    rows += [[each.observer, sqnr_text(each.sqnr_db), _yes(said=each.chosen)] for each in trials]
    return Part("Ranges that were tried", rows, right=[1])


def _recovery(results: Sequence[RecoveryResult]) -> Part:
    rows = [["means", "asked", "without", "with", "layers", "applied"]]
    for each in results:
        tried = not (each.without_sqnr_db is None and each.with_sqnr_db is None)
        both = [sqnr_text(value) if tried else NOTHING for value in (each.without_sqnr_db, each.with_sqnr_db)]
        rows.append([each.name, each.asked, *both, str(each.layers), _yes(said=each.applied)])
    told = [f"{each.name}: {each.note}" for each in results if each.note]
    return Part("Accuracy recovery", rows, told, [2, 3, 4])


def _kernels(trials: Sequence[KernelTrial]) -> Part:
    rows = [["kernels", "SQNR", "in float", "p50", "as they should", "chosen"]]
    for each in trials:
        both = (sqnr_text(each.sqnr_db), sqnr_text(each.reference_sqnr_db))
        right, chosen = _yes(said=not each.saturates), _yes(said=each.chosen)
        rows.append([each.qengine, *both, _milliseconds(each.latency_ms), right, chosen])
    told = [
        f"{each.qengine} does not compute what it should in {_layers_text(len(each.layers))}, first {each.layers[0]}."
        for each in trials
        if each.layers
    ]
    return Part("Kernels, against int8 computed in float", rows, told, [1, 2, 3])


def _training(found: TrainingResult) -> Part:
    told = []
    if found.static_metric is not None:
        value = metric_text(found.static_metric, found.static_metric.int8_value)
        told.append(f"Static on the same data: {value} {found.static_metric.name}; the better one is {found.better}.")
        if found.finetuned_metric is not None:
            told.append(f"Float, trained for as long: {metric_text(found.static_metric, found.finetuned_metric)}.")
    else:
        told.append(f"The better one is {found.better}.")
    stopped = _STOPPED.get(found.stopped, found.stopped)
    kept = "" if found.best_epoch is None else f", epoch {found.best_epoch} kept"
    told.append(f"{len(found.epochs)} epochs, {stopped}{kept}; the artifact is the {found.offered} model.")
    if not found.epochs:
        return Part("Training", told=told)
    rows = [["epoch", "loss", "held back", "metric", "SQNR"]]
    for each in found.epochs[-_FEW:]:
        figures = [NOTHING if value is None else f"{value:.4g}" for value in (each.held_back_loss, each.metric)]
        sqnr = NOTHING if each.sqnr_db is None else sqnr_text(each.sqnr_db)
        rows.append([str(each.epoch), f"{each.loss:.4g}", *figures, sqnr])
    last = f", the last {_FEW} epochs" if len(found.epochs) > _FEW else ""
    return Part(f"Training{last}", rows, told, range(5))


def _milliseconds(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3g} ms"


def _threads_text(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _layers_text(count: int) -> str:
    return "1 layer" if count == 1 else f"{count} layers"


def _yes(*, said: bool) -> str:
    return "yes" if said else "no"
