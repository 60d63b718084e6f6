"""Losses that fit, and those that do not, refused before any training."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from shared.errors import LabelsUnusable, ModelUnsupported
from worker.datasets import InMemorySamples
from worker.inference import batch_range
from worker.quantization import input_specs, raise_program
from worker.steps.load import LoadedModel
from worker.steps.losses import _noise_to_signal, choose_loss, loss_of_zeros, losses_and_hits

Asked = Literal["auto", "cross_entropy", "mse", "distillation"]


def loaded(network: nn.Module, x: Tensor) -> LoadedModel:
    program = torch.export.export(network.eval(), (x[:2],), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    specs = tuple(input_specs(program))
    return LoadedModel(raise_program(program), specs, ("output",), batch_range(specs), 4)


X = torch.arange(24, dtype=torch.float32).reshape(8, 3) / 24
CLASSES = torch.arange(8) % 5


class Decides(nn.Module):
    """An integer output."""

    def forward(self, x: Tensor) -> Tensor:
        return x.argmax(1)


class Image(nn.Module):
    """An output of four axes."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, None, :, None] * 2


@pytest.mark.parametrize(
    ("labels", "asked", "expected"),
    [
        (CLASSES, "auto", "cross_entropy"),
        (torch.rand(8, 5), "auto", "mse"),
        (None, "auto", "distillation"),
        (CLASSES, "distillation", "distillation"),
        (torch.eye(8, 5).long(), "mse", "mse"),
    ],
)
def test_the_loss_follows_the_labels(labels: Tensor | None, asked: Asked, expected: str) -> None:
    assert choose_loss(loaded(nn.Linear(3, 5), X), InMemorySamples((X,), labels), asked) == expected


@pytest.mark.parametrize(
    ("network", "labels", "asked", "message"),
    [
        (Image(), CLASSES, "auto", r"cross_entropy: .* this model gives \(samples, 1, 3, 1\)"),
        (nn.Linear(3, 1), CLASSES, "auto", r"cross_entropy: .* this model gives \(samples, 1\)"),
        (nn.Linear(3, 5), CLASSES, "mse", "the model gives 5 values a sample, the labels have 1"),
        (nn.Linear(3, 5), torch.rand(8, 4), "auto", "the model gives 5 values a sample, the labels have 4"),
        (nn.Linear(3, 5), torch.rand(8, 5), "cross_entropy", "cross_entropy needs integer class labels"),
        (nn.Linear(3, 5), torch.full((8,), 5), "auto", "8 labels are not among the model's 5 classes"),
        (nn.Linear(3, 5), torch.tensor([0, 1, 2, 3, 4, -1, 0, 1]), "auto", "the first is -1, of sample 5"),
        (nn.Linear(3, 5), None, "mse", "needs labels, and the training data has none"),
    ],
)
def test_labels_that_do_not_fit_are_refused_with_the_numbers(
    network: nn.Module, labels: Tensor | None, asked: Asked, message: str
) -> None:
    with pytest.raises(LabelsUnusable, match=message) as raised:
        choose_loss(loaded(network, X), InMemorySamples((X,), labels), asked)
    assert raised.value.hint


@pytest.mark.parametrize("asked", ["auto", "mse", "distillation"])
def test_a_model_without_a_float_output_cannot_be_trained(asked: Asked) -> None:
    with pytest.raises(ModelUnsupported, match="gradient"):
        choose_loss(loaded(Decides(), X), InMemorySamples((X,), CLASSES), asked)


def test_distillation_is_the_noise_to_signal_ratio() -> None:
    """A noise of a tenth of the signal in one output and none in the other: (0.01 + 0) / 2; integers do not count."""
    reference = [torch.tensor([[3.0, 4.0]]), torch.ones(1, 2), torch.ones(1, dtype=torch.int64)]
    outputs = [torch.tensor([[3.0, 4.5]]), torch.ones(1, 2), torch.zeros(1, dtype=torch.int64)]
    assert float(_noise_to_signal(reference, outputs)) == pytest.approx(0.005)


def test_the_loss_of_zeros_is_that_of_a_network_that_answers_nothing() -> None:
    network = nn.Linear(3, 5)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    model = loaded(network, X)
    targets = torch.rand(8, 5)
    of_classes, of_values = InMemorySamples((X,), CLASSES), InMemorySamples((X,), targets)
    assert loss_of_zeros(model, of_classes, "cross_entropy") == pytest.approx(math.log(5))
    assert losses_and_hits(model, model.raised, of_classes, "cross_entropy")[0] == pytest.approx(math.log(5))
    assert loss_of_zeros(model, of_values, "mse") == pytest.approx(float(targets.square().mean()))
    assert losses_and_hits(model, model.raised, of_values, "mse")[0] == pytest.approx(float(targets.square().mean()))


def test_hits_and_loss_are_over_samples_and_not_over_batches() -> None:
    """Eight samples in batches of four, and of three: the same mean."""
    model = loaded(nn.Linear(3, 5), X)
    samples = InMemorySamples((X,), CLASSES)
    with torch.inference_mode():
        logits = model.raised(X)[0]
    expected = float(nn.functional.cross_entropy(logits, CLASSES)), float((logits.argmax(1) == CLASSES).float().mean())
    for size in (4, 3):
        sized = LoadedModel(model.raised, model.inputs, model.outputs, model.batch, size)
        assert losses_and_hits(sized, sized.raised, samples, "cross_entropy") == pytest.approx(expected, rel=1e-5)
