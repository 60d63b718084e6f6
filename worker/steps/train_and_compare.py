"""QAT as a recipe runs it: the network with fake quantize, the float one beside it, and which int8 model is better.

The float model is trained after the quantized one and not at the same time, so that there is never more than one
network with its gradients and its optimizer's moments in memory.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import fx, nn

from shared.job_report import EpochResult, Quality, Suggestion, TrainingResult
from worker.closeness import SQNR_LIMIT_DB
from worker.job_folder import JobFolder
from worker.progress import StepProgress
from worker.steps.evaluate import mean_sqnr_db
from worker.steps.train import Advance, Course, Finished, Keep, Training
from worker.training_checkpoint import Checkpoint, CheckpointUnusable, Curve, fits, read_checkpoint
from worker.verdict import told_value

_SAME_SQNR_DB = 0.5
_NOISE_SAMPLES = 4
"""Fewer samples than this between two classifiers say nothing: were they equally good, four that all fall to the same
side would come about one time in eight."""
_SAME_MSE_SHARE = 0.01
_FASTEST = 1e-3
"""A tenth of an absurd learning rate is absurd as well; this one is ten times the default."""
_RISEN = 2.0
"""Times the loss of the first step, which is that of one batch."""


@dataclass(frozen=True)
class Trained:
    """How both networks fared."""

    epochs: list[EpochResult]
    best_epoch: int | None
    stopped: Literal["completed", "early", "diverged"]
    finetuned_metric: float | None
    resumed_after_epoch: int | None
    first_loss: float | None = None
    """Of the first step with fake quantize, before anything was learnt."""


def train_and_compare(
    course: Course, prepared: fx.GraphModule, folder: JobFolder, fingerprint: str, advance: StepProgress
) -> Trained:
    """Train `prepared` in place to its best epoch, then a copy of the float model on the same course.

    Goes on from the folder's earlier checkpoint if it is one of this very training, and writes one after each epoch.
    """
    with_float = course.settings.compare_with_float and course.loss_name != "distillation"
    total = course.schedule.steps * (2 if with_float else 1)
    earlier = _earlier(course, folder, fingerprint)

    def keep(checkpoint: Checkpoint) -> None:
        checkpoint.save(folder.checkpoint, fingerprint)
        course.tracker.checkpoint(len(checkpoint.curves["qat"].epochs))

    quantized = Training(course, prepared, "qat", folder.tmp / "best.pt")
    resumed = None if earlier is None else _take_up(quantized, prepared, earlier)
    if earlier is not None:
        course.tracker.log(
            "An earlier attempt's checkpoint does not fit: training begins anew."
            if resumed is None
            else f"Training is taken up after epoch {resumed}, where an earlier attempt was lost."
        )
    curve = quantized.run(course.schedule.epochs, keep, lambda step, told: advance(step, total, told))
    done = Finished(prepared, curve)
    del quantized  # and with it the optimizer's moments
    float_curve = None
    if with_float and curve.epochs:
        float_curve = _train_float(
            course,
            folder,
            done,
            earlier=earlier if resumed is not None else None,
            keep=keep,
            advance=lambda step, told: advance(course.schedule.steps + step, total, told),
        )
    folder.checkpoint.unlink(missing_ok=True)
    _warn_if_diverged(course, curve)
    return Trained(
        epochs=_side_by_side(curve, float_curve),
        best_epoch=curve.best_epoch,
        stopped=curve.stopped,
        finetuned_metric=_metric_of_best(float_curve),
        resumed_after_epoch=resumed,
        first_loss=curve.first_loss,
    )


def compare_with_static(
    course: Course,
    trained: Trained,
    quality: Quality | None,
    static: Quality,
    *,
    simulated: tuple[Quality, Quality] | None,
    float_layers: Mapping[str, str],
    static_float_layers: Mapping[str, str],
) -> TrainingResult:
    """How training went, beside static quantization of the same model on the same data; warns if it was no better.

    `quality` is None when training left no int8 model, and so is `simulated`: both of them, QAT and static, with int8
    computed in float. Those decide, for kernels are chosen by time, and the same job must offer the same model. Where
    the two are as good, the static one is offered: it is nearer to the model that was sent, and needs no training the
    next time. Which layers each left in float is told, for static leaves those there that cost it most, and training
    takes them into int8 (docs/decisions/0016).
    """
    distilled = course.loss_name == "distillation"
    better = "static" if simulated is None else _better(*simulated, distilled=distilled)
    if quality is not None:
        _warn_about(course, trained, quality, static, better)
    held_back = course.data.held_back
    return TrainingResult(
        loss=course.loss_name,
        epochs=trained.epochs,
        best_epoch=trained.best_epoch,
        held_back_samples=0 if held_back is None else held_back.count,
        stopped=trained.stopped,
        resumed_after_epoch=trained.resumed_after_epoch,
        qat_metric=None if quality is None else quality.metric,
        qat_fidelity=[] if quality is None else quality.fidelity,
        static_metric=static.metric,
        static_fidelity=static.fidelity,
        finetuned_metric=trained.finetuned_metric,
        better=better,
        offered="qat" if better == "qat" else "static",
        qat_float_layers=dict(float_layers),
        static_float_layers=dict(static_float_layers),
    )


# --- taking up -------------------------------------------------------------------------------------------------------


def _earlier(course: Course, folder: JobFolder, fingerprint: str) -> Checkpoint | None:
    try:
        return read_checkpoint(folder.earlier_checkpoint, fingerprint)
    except CheckpointUnusable as error:
        course.tracker.log(f"An earlier attempt's checkpoint is of no use, {error}: training begins anew.")
        return None


def _take_up(quantized: Training, prepared: nn.Module, earlier: Checkpoint) -> int | None:
    """After how many epochs the training goes on; None when the checkpoint does not fit the network."""
    if earlier.phase == "qat":
        return len(quantized.curve.epochs) if quantized.resume(earlier) else None
    if earlier.trained is None or not fits(prepared, earlier.trained):
        return None
    quantized.take_finished(earlier.curves["qat"], earlier.trained)
    return len(quantized.curve.epochs)


# --- the float model beside it ---------------------------------------------------------------------------------------


def _train_float(
    course: Course, folder: JobFolder, done: Finished, *, earlier: Checkpoint | None, keep: Keep, advance: Advance
) -> Curve:
    network = copy.deepcopy(course.model.raised)
    for parameter in network.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    training = Training(course, network, "float", folder.tmp / "best_float.pt", before=done)
    if earlier is not None and earlier.phase == "float" and not training.resume(earlier):
        course.tracker.log("The float model's part of the checkpoint does not fit: its training begins anew.")
    return training.run(len(done.curve.epochs), keep, advance)


def _side_by_side(curve: Curve, float_curve: Curve | None) -> list[EpochResult]:
    metrics = {} if float_curve is None else {each.epoch: each.metric for each in float_curve.epochs}
    return [each.model_copy(update={"float_metric": metrics.get(each.epoch)}) for each in curve.epochs]


def _metric_of_best(curve: Curve | None) -> float | None:
    if curve is None or curve.best_epoch is None:
        return None
    return curve.epochs[curve.best_epoch - 1].metric


# --- the judgement ---------------------------------------------------------------------------------------------------


def _better(quality: Quality, static: Quality, *, distilled: bool) -> Literal["qat", "static", "same"]:
    """By the metric, where it tells them apart; else by SQNR, but not of a network that was trained to be another."""
    if quality.metric is not None and static.metric is not None:
        gain = static.metric.drop - quality.metric.drop
        noise = (
            _SAME_MSE_SHARE * static.metric.int8_value
            if quality.metric.name == "mse"
            else (_NOISE_SAMPLES - 0.5) / quality.samples
        )
        if abs(gain) > noise:
            return "qat" if gain > 0 else "static"
        if not distilled:
            return "same"
    gain_db = _comparable_db(quality) - _comparable_db(static)
    return "same" if abs(gain_db) < _SAME_SQNR_DB else "qat" if gain_db > 0 else "static"


def _comparable_db(quality: Quality) -> float:
    mean = mean_sqnr_db(quality.fidelity)
    return SQNR_LIMIT_DB if mean is None else mean


def _warn_about(course: Course, trained: Trained, quality: Quality, static: Quality, better: str) -> None:
    tracker, metric = course.tracker, quality.metric
    if better != "qat":
        rose = _rise_of_loss(trained)
        tracker.warn(
            "qat_not_better",
            f"{_told_not_better(quality, static, better)}{'' if rose is None else f' {rose}'}",
            "Submit the job with method static, or train for longer or with another learning rate."
            if rose is None
            else "Submit the job with method static, or with a lower qat.learning_rate.",
            evidence=_side_by_side_told(quality, static),
            suggestion=None if rose is None else _slower(course),
        )
    elif metric is not None and metric.drop < 0 and course.loss_name != "distillation":
        reached = trained.finetuned_metric
        tracker.warn(
            "qat_trained_further",
            "The int8 model is better than the float model because it was trained further, not because it is int8.",
            "Compare it with the float model trained for as long."
            if reached is not None
            else "Set qat.compare_with_float to true, to see what training alone gains.",
            evidence=None
            if reached is None
            else f"{metric.name}: sent {told_value(metric.name, metric.float_value)}, "
            f"trained further {told_value(metric.name, reached)}, QAT {told_value(metric.name, metric.int8_value)}.",
        )


def _told_not_better(quality: Quality, static: Quality, better: str) -> str:
    if better == "static":
        return "Static quantization, which needs no training, was better here: the artifact is the static model."
    nearer = "is nearer to the model that was sent and " if _comparable_db(static) > _comparable_db(quality) else ""
    return (
        f"QAT and static quantization cannot be told apart by {quality.samples} samples: the artifact is the static "
        f"model, which {nearer}needs no training."
    )


def _side_by_side_told(quality: Quality, static: Quality) -> str:
    told = []
    if quality.metric is not None and static.metric is not None:
        told.append(
            f"{quality.metric.name}: static {told_value(quality.metric.name, static.metric.int8_value)}, "
            f"QAT {told_value(quality.metric.name, quality.metric.int8_value)}"
        )
    decibels = [mean_sqnr_db(each.fidelity) for each in (static, quality)]
    both = ["equal" if each is None else f"{each:.1f} dB" for each in decibels]
    told.append(f"SQNR against the model as sent: static {both[0]}, QAT {both[1]}")
    return "; ".join(told) + "."


def _rise_of_loss(trained: Trained) -> str | None:
    """That training ended far above where it began, if it did: it was too fast, though it never exploded."""
    began = trained.first_loss
    if began is None or not trained.epochs or trained.epochs[-1].loss <= _RISEN * began:
        return None
    ended = trained.epochs[-1].loss
    return f"Training raised the loss, from {began:.4g} in its first step to {ended:.4g}: it was too fast."


def _slower(course: Course) -> Suggestion:
    lower = min(course.settings.learning_rate / 10, _FASTEST)
    return Suggestion(
        title=f"A learning rate of {lower:g}",
        patch={"qat": {"learning_rate": lower}},
        expected="Training stays near where it began: each step changes the weights by less.",
    )


def _warn_if_diverged(course: Course, curve: Curve) -> None:
    if curve.stopped != "diverged":
        return
    epoch = len(curve.epochs) + 1
    course.tracker.warn(
        "training_diverged",
        f"Training diverged in epoch {epoch}: the {course.loss_name} loss was no longer finite, or exploded. "
        + (
            f"The weights of epoch {curve.best_epoch} are kept."
            if curve.best_epoch is not None
            else "No epoch was finished: the artifact is the static model."
        ),
        "Lower qat.learning_rate, and check the labels and the scale of the inputs.",
        suggestion=_slower(course),
    )
