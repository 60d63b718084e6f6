"""Train: the model learns with fake quantize in place, so that its weights settle where int8 can hold them."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from shared.errors import LabelsUnusable, ModelUnsupported, TrainingDiverged
from shared.job_report import EpochResult, Quality, TrainingResult
from shared.quantization_spec import QatSettings
from worker.datasets import Batch, Samples
from worker.inference import run_model
from worker.numerics import SQNR_LIMIT_DB
from worker.progress import ProgressTracker, StepProgress
from worker.quantization import freeze_batch_norm, freeze_observers
from worker.steps.evaluate import Yardstick, check_labels, evaluate, first_output, mean_sqnr_db
from worker.steps.load import LoadedModel

LossName = Literal["cross_entropy", "mse", "distillation"]

_SGD_MOMENTUM = 0.9
_SAME_SQNR_DB = 0.5


def choose_loss(
    model: LoadedModel, training: Samples, asked: Literal["auto", "cross_entropy", "mse", "distillation"]
) -> LossName:
    """Settle the loss: `auto` is cross_entropy for integer labels, mse for float ones, distillation without labels.

    Raises LabelsUnusable when the labels do not fit the loss, ModelUnsupported when no output has a gradient.
    """
    if asked == "distillation" or (asked == "auto" and not training.has_labels):
        outputs = run_model(model.raised, training.read(0, 1).inputs, model.batch)
        _require_float(any(output.is_floating_point() for output in outputs))
        return "distillation"
    hint = "Add `labels` that fit to the training data, or set qat.loss to distillation, which needs none."
    if not training.has_labels:
        raise LabelsUnusable(f"The loss {asked} needs labels, and the training data has none.", hint=hint)
    floats = training.read_labels(0, 1).is_floating_point()
    loss: LossName = asked if asked != "auto" else "mse" if floats else "cross_entropy"
    output = first_output(model, training)
    _require_float(output.is_floating_point())
    try:
        check_labels(training, output, "mse" if loss == "mse" else "top1")
    except LabelsUnusable as error:
        raise LabelsUnusable(f"Training data, loss {loss}: {error.message}", hint=error.hint or hint) from error
    return loss


def _require_float(is_float: bool) -> None:
    if not is_float:
        raise ModelUnsupported(
            "The model's output is not float: there is no gradient to train by.",
            hint="Return the logits first, before what is made of them, such as argmax, then export again.",
        )


def train(
    model: LoadedModel,
    prepared: nn.Module,
    training: Samples,
    settings: QatSettings,
    *,
    loss_name: LossName,
    yardstick: Yardstick,
    seed: int,
    tracker: ProgressTracker,
    advance: StepProgress,
) -> list[EpochResult]:
    """Train `prepared` in place and tell how each epoch went; its observers must have seen data already.

    Raises TrainingDiverged when the loss is not finite.
    """
    batch_size = model.batch.clamp(min(settings.batch_size, training.count))
    # A smaller last batch is left out: batch norm on a handful of samples does harm; shuffling brings them next time.
    steps_per_epoch = max(1, training.count // batch_size)
    total_steps = settings.epochs * steps_per_epoch
    observers_freeze_at = math.ceil(settings.freeze_observers_after * total_steps)
    # The statistics of a single sample are no statistics.
    batch_norm_freezes_at = math.ceil(settings.freeze_batch_norm_after * total_steps) if batch_size > 1 else 0
    optimizer = _optimizer(prepared, settings)
    # Freezing batch norm shocks the training; as the rate falls there is time to mend it (docs/decisions/0011).
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total_steps)
    shuffling = torch.Generator().manual_seed(seed)
    epochs = []
    step = 0
    for epoch in range(1, settings.epochs + 1):
        began_at = time.monotonic()
        loss_sum = 0.0
        prepared.train()
        for batch in _shuffled(training, batch_size, steps_per_epoch, shuffling):
            if step == observers_freeze_at:
                freeze_observers(prepared)
            # train(), at the start of an epoch, thaws batch norm.
            if step == batch_norm_freezes_at or (step > batch_norm_freezes_at and step % steps_per_epoch == 0):
                freeze_batch_norm(prepared)
            loss = _loss(model, prepared, batch, loss_name)
            value = loss.item()
            if not math.isfinite(value):
                raise TrainingDiverged(f"The {loss_name} loss became {value} in epoch {epoch}, step {step + 1}.")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimizer.step()
            decay.step()
            loss_sum += value
            step += 1
            advance(step, total_steps, f"Training: epoch {epoch} of {settings.epochs}, loss {value:.4g}")
        mean_loss = loss_sum / steps_per_epoch
        result = _epoch_result(model, prepared, yardstick, epoch=epoch, loss=mean_loss, began_at=began_at)
        epochs.append(result)
        tracker.metric(name="loss", value=result.loss, epoch=epoch)
        if yardstick.metric is not None:
            tracker.metric(name=yardstick.metric, value=result.metric, epoch=epoch)
        tracker.metric(name="sqnr_db", value=result.sqnr_db, epoch=epoch)
    return epochs


def compare_with_static(
    loss_name: LossName, epochs: list[EpochResult], quality: Quality, static: Quality, *, tracker: ProgressTracker
) -> TrainingResult:
    """How training went, beside static quantization of the same model on the same data; warns if it was no better."""
    better = _better(quality, static)
    if better != "qat":
        tracker.warn(
            "qat_not_better",
            f"Static quantization, which needs no training, was {'as good' if better == 'same' else 'better'} here.",
            "Submit the job with method static, or train for longer or with another learning rate.",
        )
    if quality.metric is not None and quality.metric.drop < 0 and loss_name != "distillation":
        tracker.warn(
            "qat_trained_further",
            "The int8 model is better than the float model because it was trained further, not because it is int8.",
            "Train the float model for as long before you compare.",
        )
    return TrainingResult(
        loss=loss_name,
        epochs=epochs,
        static_metric=static.metric,
        static_fidelity=static.fidelity,
        better=better,
    )


def _better(quality: Quality, static: Quality) -> Literal["qat", "static", "same"]:
    if quality.metric is not None and static.metric is not None:
        gain = static.metric.drop - quality.metric.drop
        return "same" if gain == 0 else "qat" if gain > 0 else "static"
    gain_db = _comparable_db(quality) - _comparable_db(static)
    return "same" if abs(gain_db) < _SAME_SQNR_DB else "qat" if gain_db > 0 else "static"


def _comparable_db(quality: Quality) -> float:
    mean = mean_sqnr_db(quality.fidelity)
    return SQNR_LIMIT_DB if mean is None else mean


def _epoch_result(
    model: LoadedModel, prepared: nn.Module, yardstick: Yardstick, *, epoch: int, loss: float, began_at: float
) -> EpochResult:
    # On a copy, whose observers are off: the ranges must not learn from evaluation data.
    frozen = copy.deepcopy(prepared)
    freeze_observers(frozen)
    frozen.eval()
    (quality,) = evaluate(model, [frozen], yardstick, lambda _done, _total: None)
    return EpochResult(
        epoch=epoch,
        loss=loss,
        metric=quality.metric.int8_value if quality.metric is not None else None,
        sqnr_db=mean_sqnr_db(quality.fidelity),
        seconds=time.monotonic() - began_at,
    )


def _shuffled(samples: Samples, batch_size: int, steps: int, generator: torch.Generator) -> Iterator[Batch]:
    order = torch.randperm(samples.count, generator=generator).tolist()
    for step in range(steps):
        yield samples.take(order[step * batch_size : (step + 1) * batch_size])


def _loss(model: LoadedModel, prepared: nn.Module, batch: Batch, name: LossName) -> Tensor:
    outputs = run_model(prepared, batch.inputs, model.batch)
    if name == "distillation":
        with torch.no_grad():
            reference = run_model(model.raised, batch.inputs, model.batch)
        return _noise_to_signal(reference, outputs)
    assert batch.labels is not None
    if name == "mse":
        return functional.mse_loss(outputs[0], batch.labels.to(outputs[0].dtype).reshape(outputs[0].shape))
    return functional.cross_entropy(outputs[0], batch.labels)


def _noise_to_signal(reference: list[Tensor], outputs: list[Tensor]) -> Tensor:
    """`‖float − quantized‖² / ‖float‖²`, mean over the float outputs: SQNR as a loss, whatever the outputs' scale.

    For logits it is the high-temperature limit of distillation by soft targets (Hinton et al. 2015, section 2.1).
    """
    ratios = [
        (expected - found).square().sum() / expected.square().sum().clamp_min(1e-12)
        for expected, found in zip(reference, outputs, strict=True)
        if expected.is_floating_point()
    ]
    return torch.stack(ratios).mean()


def _optimizer(prepared: nn.Module, settings: QatSettings) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in prepared.parameters() if parameter.requires_grad]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=settings.learning_rate, momentum=_SGD_MOMENTUM)
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=settings.learning_rate)
    return torch.optim.Adam(parameters, lr=settings.learning_rate)
