"""What is counted of a layer, batch by batch, against figures taken from all batches at once."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from worker.layer_facts import Bounds, LayerAccumulator, LayerFacts
from worker.numerics import ErrorAccumulator, sqnr_db
from worker.quantization import LayerTrace, Quantizer


def values(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def facts(reference: Tensor, own: Tensor, bounds: Bounds | None = None, **more: object) -> LayerFacts:
    accumulator = LayerAccumulator("Conv2d", bounds, (), **more)  # type: ignore[arg-type]  # only `through`
    for some, made in zip(reference.split(3), own.split(3), strict=True):
        accumulator.update(LayerTrace("conv", some, made, made, ((some, made),), Quantizer(0.01, 0)))
    return accumulator.result()


def test_errors_of_batches_add_up_to_those_of_all() -> None:
    """Sums of float32 over a quarter of a million elements are off by 1e-6: 0.001 dB is far beyond that."""
    reference, noise = values(1, 10, 8, 5, 5), 0.01 * values(2, 10, 8, 5, 5)
    found = facts(reference, reference + noise)
    assert found.error.own_sqnr_db == pytest.approx(sqnr_db(reference, reference + noise), abs=1e-3)
    assert found.error.mse == pytest.approx(float(noise.square().mean()), rel=1e-4)
    expected = F.cosine_similarity(reference.flatten(), (reference + noise).flatten(), dim=0)
    assert found.error.cosine == pytest.approx(float(expected), abs=1e-6)


def test_equal_tensors_have_no_error_and_zero_ones_all() -> None:
    accumulator = ErrorAccumulator()
    accumulator.update(torch.zeros(4), torch.zeros(4))
    assert (accumulator.sqnr_db, accumulator.cosine, accumulator.mse) == (None, 1.0, 0.0)
    accumulator.update(torch.zeros(4), torch.ones(4))
    assert (accumulator.sqnr_db, accumulator.cosine, accumulator.mse) == (-200.0, 0.0, 0.5)


def test_elements_that_are_not_finite_are_left_out() -> None:
    accumulator = ErrorAccumulator()
    accumulator.update(torch.tensor([3.0, -math.inf, 4.0]), torch.tensor([3.0, -math.inf, 4.5]))
    assert accumulator.sqnr_db == pytest.approx(20.0)


def test_what_a_mask_makes_infinite_is_left_out_of_every_figure() -> None:
    reference = values(1, 9, 4)
    own = reference + 0.01 * values(2, 9, 4)
    masked = torch.zeros(9, 4, dtype=torch.bool)
    masked[::2, 1] = True
    found = facts(reference.masked_fill(masked, -math.inf), own.masked_fill(masked, -3.0))
    expected = facts(reference.masked_fill(masked, 0.0), own.masked_fill(masked, 0.0))
    assert found == expected
    assert math.isfinite(found.output.min)


def test_clipping_is_counted_at_both_ends_from_half_a_step_on() -> None:
    reference = torch.tensor([-1.2, -1.04, 0.0, 0.5, 1.04, 1.2, 1.3, 0.1]).reshape(8, 1, 1, 1)
    bounds = Bounds(low=-1.0, high=1.0, step=0.1, least=-1.0, greatest=1.25)
    cut = [0.2, 0.04, 0.04, 0.2, 0.3]
    clipped = facts(reference, reference + 1.0, bounds)
    assert clipped.cut_off_share == pytest.approx(sum(part * part for part in cut) / 8, rel=1e-5)
    found = clipped.output
    assert found.clipping is not None
    assert (found.clipping.below, found.clipping.above) == (1 / 8, 2 / 8)
    assert (
        found.outside_calibration == 1 / 8
    )  # of 1.3 and 1.2 only the former lies beyond what was seen and half a step


def test_a_channel_is_held_against_the_median_one() -> None:
    reference = values(1, 9, 7, 4, 4).clamp(-1, 1)
    reference[:, :, 0, 0] = 1.0
    reference[:, 4] *= 20
    found = facts(reference, reference).output
    assert (found.widest_channel, found.channel_ratio) == (4, pytest.approx(20.0))


def test_a_constant_error_a_channel_is_told_from_noise() -> None:
    reference = values(1, 64, 4, 6, 6)
    shift = torch.tensor([0.1, -0.1, 0.1, -0.1]).reshape(1, 4, 1, 1)
    assert facts(reference, reference + shift).mean_error_share == pytest.approx(1.0, abs=1e-3)
    noise = 0.1 * values(2, 64, 4, 6, 6)
    assert facts(reference, reference + noise).mean_error_share < 0.01
    assert facts(reference, reference + noise + shift).mean_error_share == pytest.approx(0.5, abs=0.03)


def test_the_felt_error_is_that_of_the_small_channels_behind_the_activation() -> None:
    reference = values(1, 12, 8, 5, 5)
    reference[:, 0] *= 1000
    own = reference + 0.5 * values(2, 12, 8, 5, 5)
    found = facts(reference, own)
    assert found.error.own_sqnr_db is not None
    assert found.felt_sqnr_db is not None
    assert found.error.own_sqnr_db > 50, "the large channel hides it"
    assert found.felt_sqnr_db == pytest.approx(10 * math.log10(8 / (7 * 0.25)), abs=0.3)
    cut = reference.clamp(min=-1.0)
    assert facts(reference.clamp(min=-30) - 20, (cut - 20).clamp(min=-21), through=F.silu).felt_sqnr_db != (
        facts(reference.clamp(min=-30) - 20, (cut - 20).clamp(min=-21)).felt_sqnr_db
    )


def test_what_silu_makes_next_to_zero_of_is_not_felt_to_be_cut_off() -> None:
    reference = 8 * values(1, 12, 8, 5, 5)
    bounds = Bounds(low=-4.0, high=40.0, step=0.1, least=-40.0, greatest=40.0)
    own = reference.clamp(-4.0, 40.0) + 0.1 * values(2, 12, 8, 5, 5)
    assert facts(reference, own, bounds).cut_off_share > 0.9
    assert facts(reference, own, bounds, through=F.silu).cut_off_share < 0.5


def test_the_histogram_counts_every_value_of_small_tensors() -> None:
    reference = values(1, 12, 8, 5, 5)
    found = facts(reference, reference)
    assert found.histogram is not None
    low, high, counts = found.histogram
    assert sum(counts) == reference.numel()
    assert low <= float(reference.min()) <= float(reference.max()) <= high
