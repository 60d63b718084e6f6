"""Learnable scales: the gradient is the paper's, and int8 has the scale that was learned."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.ao.quantization import MinMaxObserver, PerChannelMinMaxObserver  # noqa: TID251 - what it is built of

from worker.quantization.learnable_scales import (
    LearnableFakeQuantize,
    fold_factor,
    keep_scales_positive,
    learn_scales,
)

WEIGHT: dict[str, Any] = {"dtype": torch.qint8, "quant_min": -4, "quant_max": 3, "is_weight": True}


def round_through(x: Tensor) -> Tensor:
    return x + (x.round() - x).detach()


def written_out(x: Tensor, scale: Tensor, low: int, high: int, gradient_scale: float) -> Tensor:
    """Equations 1 to 3 of the paper by automatic differentiation alone."""
    scale = scale * gradient_scale + (scale - scale * gradient_scale).detach()
    return round_through((x / scale).clamp(low, high)) * scale


def test_a_weights_scale_has_the_gradient_of_the_paper_channel_by_channel() -> None:
    torch.manual_seed(0)
    weight = torch.randn(5, 4, 3)
    quantize = LearnableFakeQuantize(PerChannelMinMaxObserver, qscheme=torch.per_channel_symmetric, **WEIGHT)
    quantize(weight)
    quantize.start_learning(weight)
    toward = torch.randn(5, 4, 3)
    (quantize(weight) * toward).sum().backward()
    scale = quantize.scale.detach().clone().requires_grad_()
    expected = written_out(weight, scale[:, None, None], -4, 3, 1 / math.sqrt(12 * 3))
    (expected * toward).sum().backward()
    torch.testing.assert_close(quantize.scale.grad, scale.grad, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(quantize(weight), expected, rtol=0, atol=1e-6)


def test_an_activations_gradient_counts_the_values_of_one_sample() -> None:
    """A batch twice as large, of the same samples: the gradient of the mean loss is the same."""
    torch.manual_seed(0)
    x = torch.rand(8, 6) * 2
    gradients = []
    for batch in (x, torch.cat([x, x])):
        quantize = LearnableFakeQuantize(
            MinMaxObserver, 0, 255, is_weight=False, dtype=torch.quint8, qscheme=torch.per_tensor_affine
        )
        quantize(x)
        quantize.start_learning(None)
        quantize(batch).square().sum(1).mean().backward()
        assert quantize.scale.grad is not None
        gradients.append(float(quantize.scale.grad))
    assert gradients[0] == pytest.approx(gradients[1], rel=1e-5)
    assert gradients[0] != 0


def test_until_it_learns_it_is_the_observers_scale() -> None:
    x = torch.linspace(-1, 3, 100)[:, None]
    quantize = LearnableFakeQuantize(
        MinMaxObserver, 0, 255, is_weight=False, dtype=torch.quint8, qscheme=torch.per_tensor_affine
    )
    quantize(x)
    scale, zero_point = quantize.calculate_qparams()
    assert float(scale) == pytest.approx(4 / 255)
    assert int(zero_point) == 64
    quantize.disable_observer()
    quantize(10 * x)
    assert torch.equal(quantize.calculate_qparams()[0], scale)


def test_it_starts_from_the_better_of_the_observed_and_the_papers_scale() -> None:
    """An outlier makes the observed scale of its channel useless at 3 bits; evenly spread values are best observed."""
    torch.manual_seed(0)
    weight = torch.stack([torch.randn(200), torch.linspace(-1, 1, 200)])
    weight[0, 0] = 100
    quantize = LearnableFakeQuantize(PerChannelMinMaxObserver, qscheme=torch.per_channel_symmetric, **WEIGHT)
    quantize(weight)
    observed = quantize.scale.clone()
    quantize.start_learning(weight)
    paper = 2 * weight[0].abs().mean() / math.sqrt(3)
    errors = [
        float((written_out(weight[0], each, -4, 3, 1) - weight[0]).square().sum()) for each in (observed[0], paper)
    ]
    started = quantize.scale.detach()
    assert float(started[0]) == pytest.approx(float(paper if errors[1] < errors[0] else observed[0]))
    assert float(started[1]) == pytest.approx(float(observed[1]))


def test_a_step_too_far_leaves_the_scale_positive() -> None:
    scale = nn.Parameter(torch.tensor([-1.0, 2.0]))
    keep_scales_positive([scale])
    assert 0 < float(scale[0]) < 1e-6
    assert float(scale[1]) == 2


def test_all_scales_of_a_network_learn_from_then_on_and_observers_see_no_more() -> None:
    layer = nn.Linear(4, 4)
    layer.weight_fake_quant = LearnableFakeQuantize(
        PerChannelMinMaxObserver, qscheme=torch.per_channel_symmetric, **WEIGHT
    )
    layer.weight_fake_quant(layer.weight)
    learn_scales(layer)
    assert isinstance(layer.weight_fake_quant.scale, nn.Parameter)
    assert not int(layer.weight_fake_quant.observer_enabled)
    state = layer.state_dict()
    assert state["weight_fake_quant.scale"].shape == (4,)


class FoldedConvolution(nn.Module):
    """As `torch.ao` makes them: the weight is quantized with batch norm folded into it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 18))
        self.bn = nn.BatchNorm1d(4)
        self.bn.weight.data.copy_(torch.tensor([1.0, -2.0, 0.5, 0.0]))
        self.weight_fake_quant = LearnableFakeQuantize(
            PerChannelMinMaxObserver, qscheme=torch.per_channel_symmetric, **WEIGHT
        )

    def folded(self) -> Tensor:
        return self.weight * fold_factor(self.bn)[:, None]

    def integers(self) -> Tensor:
        """What conversion would make of it."""
        steps = self.weight_fake_quant(self.folded()) / self.weight_fake_quant.calculate_qparams()[0][:, None]
        torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-4)
        whole: Tensor = steps.round().detach()
        return whole


def test_behind_a_convolution_the_learned_scale_follows_the_batch_norm_that_is_folded() -> None:
    """Statistics that change every channel's folded weight leave its integers as they are."""
    torch.manual_seed(0)
    layer = FoldedConvolution()
    layer.weight_fake_quant(layer.folded())
    learn_scales(layer)
    begun = layer.integers()
    assert layer.bn.running_var is not None
    layer.bn.running_var.copy_(torch.tensor([9.0, 0.1, 4.0, 2.0]))
    assert torch.equal(layer.integers(), begun)
    assert len(begun[0].unique()) > 4  # type: ignore[no-untyped-call]  # torch leaves it untyped
    assert not begun[3].any()


def test_a_gradient_is_that_of_quantizing_the_convolutions_own_weight() -> None:
    torch.manual_seed(0)
    layer = FoldedConvolution()
    layer.weight_fake_quant(layer.folded())
    learn_scales(layer)
    toward = torch.randn(3, 18)  # the gradient of a channel that is switched off is another matter
    learnt = [layer.weight, layer.weight_fake_quant.scale, layer.bn.weight]
    found = torch.autograd.grad((layer.weight_fake_quant(layer.folded())[:3] * toward).sum(), learnt)
    factor = fold_factor(layer.bn)[:3, None]
    own = layer.weight[:3] * factor.sign().detach()
    written = written_out(own, layer.weight_fake_quant.scale[:3, None], -4, 3, 1 / math.sqrt(18 * 3))
    expected = torch.autograd.grad((written * factor.abs() * toward).sum(), learnt)
    for each, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(each, wanted, rtol=1e-4, atol=1e-5)
