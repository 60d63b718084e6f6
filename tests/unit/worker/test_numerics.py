"""Fidelity and metrics against figures worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from worker.closeness import SQNR_LIMIT_DB
from worker.numerics import (
    FidelityAccumulator,
    LabelVariance,
    MetricAccumulator,
    MetricName,
    ModelFidelity,
    accuracy_drop,
    sqnr_db,
    surely_lost_db,
)


def fidelity(*batches: tuple[list[object], list[object]]) -> FidelityAccumulator:
    accumulator = FidelityAccumulator("y")
    for reference, candidate in batches:
        accumulator.update(torch.tensor(reference), torch.tensor(candidate))
    return accumulator


def test_sqnr_is_twenty_log_ten_of_the_norm_ratio() -> None:
    # ‖f‖ = 5, ‖f − q‖ = 0.5: 20·log10(10) = 20 dB.
    assert fidelity(([[3.0, 4.0]], [[3.0, 4.5]])).sqnr_db == pytest.approx(20.0)


def test_sqnr_sums_over_batches_rather_than_averaging_them() -> None:
    # signal 25 + 75, noise 0.25 + 0.75: 10·log10(100) = 20 dB, whatever the batches.
    whole = fidelity(([[3.0, 4.0], [5.0, math.sqrt(50)]], [[3.0, 4.5], [5.0 + math.sqrt(0.75), math.sqrt(50)]]))
    parts = fidelity(([[3.0, 4.0]], [[3.0, 4.5]]), ([[5.0, math.sqrt(50)]], [[5.0 + math.sqrt(0.75), math.sqrt(50)]]))
    assert whole.sqnr_db == pytest.approx(20.0, abs=1e-4)
    assert parts.sqnr_db == pytest.approx(whole.sqnr_db)


def test_equal_outputs_have_no_sqnr_and_full_cosine() -> None:
    result = fidelity(([[1.0, 2.0]], [[1.0, 2.0]])).result()
    assert result.sqnr_db is None
    assert result.cosine == pytest.approx(1.0)


def test_a_zero_float_output_against_noise_is_as_far_off_as_can_be_told() -> None:
    assert fidelity(([[0.0, 0.0]], [[0.0, 1e-3]])).sqnr_db == -SQNR_LIMIT_DB


def test_cosine_is_the_mean_over_samples() -> None:
    # orthogonal 0, opposite −1, parallel 1, both zero 1, one zero 0: mean 0.2.
    reference = [[1.0, 0.0], [1.0, 1.0], [1.0, 2.0], [0.0, 0.0], [0.0, 0.0]]
    candidate = [[0.0, 1.0], [-2.0, -2.0], [2.0, 4.0], [0.0, 0.0], [1.0, 0.0]]
    assert fidelity((reference, candidate)).result().cosine == pytest.approx(0.2)


def test_agreement_is_the_share_of_equal_arg_max() -> None:
    reference = [[1.0, 2.0], [3.0, 1.0], [0.0, 5.0]]
    candidate = [[0.0, 9.0], [1.0, 2.0], [0.0, 1.0]]
    assert fidelity((reference, candidate)).result().agreement == pytest.approx(2 / 3)


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 3, 2)])
def test_agreement_is_null_for_outputs_without_classes(shape: tuple[int, ...]) -> None:
    accumulator = FidelityAccumulator("y")
    accumulator.update(torch.ones(shape), torch.ones(shape))
    assert accumulator.result().agreement is None


@pytest.mark.parametrize(("dtype", "agreement"), [(torch.int64, 0.5), (torch.bool, 0.75)])
def test_discrete_outputs_agree_or_do_not(dtype: torch.dtype, agreement: float) -> None:
    """7 and 8 are as different as 7 and 1: no noise, no angle, whatever the shape and the batches."""
    accumulator = FidelityAccumulator("y")
    accumulator.update(torch.tensor([[7, 7]]).to(dtype), torch.tensor([[7, 8]]).to(dtype))
    accumulator.update(torch.tensor([[0, 1]]).to(dtype), torch.tensor([[1, 1]]).to(dtype))
    result = accumulator.result()
    assert result.discrete
    assert (result.sqnr_db, result.cosine, result.agreement) == (None, None, agreement)


def test_a_model_with_a_signal_and_a_choice_is_weighed_by_the_signal() -> None:
    model = ModelFidelity(["y", "class"])
    model.update([torch.tensor([[3.0, 4.0]]), torch.tensor([1])], [torch.tensor([[3.0, 4.5]]), torch.tensor([0])])
    found = model.closeness()
    assert [each.output for each in model.results()] == ["y", "class"]
    assert found.sqnr_db == pytest.approx(20.0)
    assert found.agreement == 0.0


def test_elements_masked_alike_with_infinity_are_left_out() -> None:
    accumulator = fidelity(([[3.0, 4.0, -math.inf]], [[3.0, 4.5, -math.inf]]))
    assert accumulator.sqnr_db == pytest.approx(20.0)


def test_nan_in_the_candidate_alone_is_as_far_off_as_can_be_told() -> None:
    assert fidelity(([[3.0, 4.0]], [[3.0, math.nan]])).sqnr_db == -SQNR_LIMIT_DB


def test_large_outputs_are_added_a_few_samples_at_a_time_with_the_same_result() -> None:
    generator = torch.Generator().manual_seed(0)
    reference = torch.randn(3, 1 << 19, generator=generator)
    candidate = reference + 0.01 * torch.randn(3, 1 << 19, generator=generator)
    noise = (reference.double() - candidate.double()).norm()
    expected = 20 * math.log10(reference.double().norm() / noise)
    assert sqnr_db(reference, candidate) == pytest.approx(expected)


def test_a_scalar_output_counts_as_one_sample() -> None:
    assert sqnr_db(torch.tensor(10.0), torch.tensor(11.0)) == pytest.approx(20.0)


def test_top1_counts_the_arg_max() -> None:
    metric = MetricAccumulator("top1")
    metric.update(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1]))
    metric.update(torch.tensor([[0.3, 0.7]]), torch.tensor([1]))
    assert metric.value() == pytest.approx(2 / 3)


def test_top5_counts_labels_among_the_five_highest() -> None:
    metric = MetricAccumulator("top5")
    metric.update(torch.tensor([[6.0, 5.0, 4.0, 3.0, 2.0, 1.0]] * 2), torch.tensor([4, 5]))
    assert metric.value() == pytest.approx(0.5)


def test_mse_is_the_mean_over_elements_and_reshapes_labels() -> None:
    metric = MetricAccumulator("mse")
    metric.update(torch.tensor([[1.0], [3.0]]), torch.tensor([2.0, 5.0]))
    assert metric.value() == pytest.approx((1 + 4) / 2)


@pytest.mark.parametrize(("name", "drop"), [("top1", 0.25), ("top5", 0.25), ("mse", -0.25)])
def test_a_positive_drop_is_worse(name: MetricName, drop: float) -> None:
    assert accuracy_drop(name, 0.75, 0.5) == drop


def test_noise_is_told_apart_only_beyond_chance() -> None:
    """Twice the noise on every sample is 3 dB for sure; on one sample of 32 it may be chance, and so it is with few."""
    noise = torch.rand(32, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 1e-3
    one_sample = noise.clone()
    one_sample[0] = noise.sum()
    assert surely_lost_db([noise, 2 * noise], [noise, noise]) == pytest.approx(3.01, abs=0.01)
    assert surely_lost_db([one_sample], [noise]) < 0.01
    assert surely_lost_db([noise], [2 * noise]) == pytest.approx(-3.01, abs=0.01)
    assert surely_lost_db([2 * noise[:7]], [noise[:7]]) == 0
    assert surely_lost_db([noise * 1e-9], [noise * 1e-12]) < 0.01


def test_relative_noise_is_by_sample() -> None:
    f = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1.0, torch.inf], [1.0, 2.0]])
    q = torch.tensor([[3.0, 4.5], [1.0, 0.0], [1.0, torch.inf], [1.0, torch.nan]])
    assert FidelityAccumulator("x").update(f, q).tolist() == [0.01, 0.0, 0.0, 1e20]
    assert FidelityAccumulator("x").update(torch.tensor([1, 2]), torch.tensor([1, 3])).tolist() == [0.0, 0.0]


def test_the_variance_of_labels_is_that_about_the_mean_of_each_value() -> None:
    """Two values a sample, a thousand apart: that they differ from each other is nothing to explain."""
    labels = torch.randn(50, 2, generator=torch.Generator().manual_seed(0)) + torch.tensor([1e3, 2e3])
    variance = LabelVariance()
    for batch in labels.split(16):
        variance.update(batch)
    assert variance.value() == pytest.approx(float(labels.double().var(0, correction=0).mean()), rel=1e-9)


def test_what_is_not_finite_in_float_is_counted_and_says_nothing_of_kernels() -> None:
    """Of ten samples one is masked in both alike, one NaN in float alone, one infinite in int8 alone."""
    f = torch.ones(10, 4)
    f[0, 1] = -math.inf
    f[1, 2] = math.nan
    q = f.nan_to_num(nan=1.0, neginf=-math.inf)
    q[2, 3] = math.inf
    fidelity = FidelityAccumulator("y")
    noise = fidelity.update(f, q)
    assert noise.tolist()[:2] == [0.0, 0.0]
    assert noise[2] > 1e15
    found = fidelity.result()
    assert found.sqnr_db == -200.0
    assert (found.float_not_finite, found.float_is_nan, found.not_finite_elsewhere) == (0.2, True, 0.1)
    small = torch.full((20,), 1e-4, dtype=torch.float64)
    small[3] = 1e20
    assert surely_lost_db([small], [small]) == pytest.approx(0, abs=0.01)
    right = small.clone()
    right[3] = 1e-4
    wrong = torch.full((20,), 1e20, dtype=torch.float64)
    assert surely_lost_db([wrong], [right]) > 100
    worse = small.clone()
    worse[4:] *= 4
    assert surely_lost_db([worse], [small]) > 3, "the samples that are left tell"
