"""Losses: which one fits the labels and the output, refused before training where none does, and how it is computed."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from shared.errors import LabelsUnusable, ModelUnsupported
from worker.datasets import Batch, Samples, batches
from worker.inference import run_model
from worker.steps.evaluate import check_labels, first_output
from worker.steps.load import LoadedModel

LossName = Literal["cross_entropy", "mse", "distillation"]

_HINT = "Add `labels` that fit to the training data, or set qat.loss to distillation, which needs none."
_SLICE = 4096


def choose_loss(
    model: LoadedModel, training: Samples, asked: Literal["auto", "cross_entropy", "mse", "distillation"]
) -> LossName:
    """Settle the loss: `auto` is cross_entropy for integer labels, mse for float ones, distillation without labels.

    Raises LabelsUnusable when the labels do not fit the loss or the output, ModelUnsupported when no output has a
    gradient.
    """
    if asked == "distillation" or (asked == "auto" and not training.has_labels):
        outputs = run_model(model.raised, training.read(0, 1).inputs, model.batch)
        _require_float(any(output.is_floating_point() for output in outputs))
        return "distillation"
    if not training.has_labels:
        raise LabelsUnusable(f"The loss {asked} needs labels, and the training data has none.", hint=_HINT)
    floats = training.read_labels(0, 1).is_floating_point()
    loss: LossName = asked if asked != "auto" else "mse" if floats else "cross_entropy"
    output = first_output(model.reference, training)
    _require_float(output.is_floating_point())
    if loss == "cross_entropy" and (output.ndim != 2 or output.shape[1] < 2):
        raise LabelsUnusable(
            f"Training data, loss cross_entropy: it compares class labels with an output of shape (samples, classes); "
            f"this model gives {_shape(output)}.",
            hint="Give a float label for each output value and set qat.loss to mse, or set it to distillation.",
        )
    try:
        check_labels(training, output, "mse" if loss == "mse" else "top1")
    except LabelsUnusable as error:
        message = error.message.replace("top1 needs", "cross_entropy needs")
        raise LabelsUnusable(f"Training data, loss {loss}: {message}", hint=error.hint) from error
    return loss


def loss_of(model: LoadedModel, network: nn.Module, batch: Batch, name: LossName) -> Tensor:
    """The mean loss of the network's outputs over the samples of a batch."""
    return _compare(model, run_model(network, batch.inputs, model.batch), batch, name)


def losses_and_hits(model: LoadedModel, network: nn.Module, samples: Samples, name: LossName) -> tuple[float, float]:
    """The mean loss over all samples, and for cross_entropy the share classified rightly, else 0; no gradients."""
    loss_sum, hits = 0.0, 0
    with torch.inference_mode():
        for batch in batches(samples, model.batch_size):
            outputs = run_model(network, batch.inputs, model.batch)
            loss_sum += batch.size * float(_compare(model, outputs, batch, name))
            if name == "cross_entropy":
                assert batch.labels is not None
                hits += int((outputs[0].argmax(1) == batch.labels).sum())
    return loss_sum / samples.count, hits / samples.count


def loss_of_zeros(model: LoadedModel, samples: Samples, name: LossName) -> float:
    """The loss of a network that answers zero to everything: what training may not end far above.

    `ln(classes)` for cross_entropy, the mean square of the labels for mse, 1 for distillation.
    """
    if name == "distillation":
        return 1.0
    if name == "cross_entropy":
        return math.log(first_output(model.reference, samples).shape[1])
    slices = range(0, samples.count, _SLICE)
    squares = [samples.read_labels(i, min(i + _SLICE, samples.count)).double().square() for i in slices]
    return float(sum(each.sum() for each in squares)) / sum(each.numel() for each in squares)


def _compare(model: LoadedModel, outputs: list[Tensor], batch: Batch, name: LossName) -> Tensor:
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


def _require_float(is_float: bool) -> None:
    if not is_float:
        raise ModelUnsupported(
            "The model's output is not float: there is no gradient to train by.",
            hint="Return the logits first, before what is made of them, such as argmax, then export again.",
        )


def _shape(output: Tensor) -> str:
    return f"({', '.join(['samples', *(str(size) for size in output.shape[1:])])})"
