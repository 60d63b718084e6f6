"""One observer, one pass over the data, any rule."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.ao.quantization import HistogramObserver  # noqa: TID251 - what ours is held against
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from worker.quantization.ranging import _BINS, RangeObserver, Rule, settle_rule

SAMPLES = 20_000
RULES: tuple[Rule, ...] = ("minmax", "histogram", "percentile", "moving_average_minmax")


def observer(rule: Rule = "histogram", **settings: Any) -> RangeObserver:
    return RangeObserver(rule, dtype=torch.quint8, **settings)


def observed(values: Tensor, rule: Rule = "histogram", batches: int = 4, **settings: Any) -> RangeObserver:
    found = observer(rule, **settings)
    for batch in values.chunk(batches):
        found(batch)
    return found


def quantized(values: Tensor, qparams: tuple[Tensor, Tensor]) -> Tensor:
    scale, zero_point = qparams
    return torch.fake_quantize_per_tensor_affine(values, float(scale), int(zero_point), 0, 255)


def mse(values: Tensor, qparams: tuple[Tensor, Tensor]) -> float:
    return float((quantized(values, qparams) - values).square().mean())


def draw(kind: str) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(SAMPLES, generator=generator)
    if kind == "laplace":
        uniform = torch.rand(SAMPLES, generator=generator) - 0.5
        return -uniform.sign() * (1 - 2 * uniform.abs()).clamp(min=1e-7).log()
    return {"normal": normal, "relu": normal.relu(), "shifted relu": (normal - 1).relu(), "cube": normal**3}[kind]


# --- rules -----------------------------------------------------------------------------------------------------------


def test_batch_after_batch_the_least_and_greatest_are_those_of_one_pass() -> None:
    values = draw("laplace")
    assert observed(values, "minmax", 7).range() == observed(values, "minmax", 1).range()
    assert observed(values, "minmax", 7).range() == (float(values.min()), float(values.max()))


@pytest.mark.parametrize("kind", ["normal", "laplace", "relu", "shifted relu", "cube"])
def test_the_histograms_range_costs_no_more_than_torchs(kind: str) -> None:
    """Measured squared error of the data itself; 2 % for the width of a bin."""
    values = draw(kind)
    theirs = HistogramObserver(dtype=torch.quint8)
    for batch in values.chunk(4):
        theirs(batch)
    assert mse(values, observed(values).calculate_qparams()) <= 1.02 * mse(values, theirs.calculate_qparams())


@pytest.mark.parametrize("kind", ["laplace", "cube"])
def test_no_other_end_costs_less_than_the_histograms(kind: str) -> None:
    """Clipping and rounding are weighed as they cost: within 1 %, for the candidates are 256 ends."""
    values = draw(kind).abs()
    found = mse(values, observed(values).calculate_qparams())
    ends = float(values.max()) * torch.linspace(0.02, 1, 200)
    least = min(mse(values, (end / 255, torch.tensor(0))) for end in ends)
    assert found <= 1.01 * least


def test_the_histogram_clips_where_that_costs_less() -> None:
    values = torch.cat([draw("normal"), torch.tensor([40.0])])
    clipped, whole = observed(values), observed(values, "minmax")
    assert clipped.range()[1] < 40 == whole.range()[1]
    assert mse(values, clipped.calculate_qparams()) < mse(values, whole.calculate_qparams())


@pytest.mark.parametrize("percentile", [90.0, 99.0, 99.9])
def test_a_percentile_leaves_out_what_it_says_at_either_end(percentile: float) -> None:
    """Up to what lies in one bin: here 0.3 % of the values at most."""
    values = draw("normal")
    low, high = observed(values, "percentile", 1, percentile=percentile).range()
    beyond = 1 - percentile / 100
    assert float((values < low).float().mean()) == pytest.approx(beyond, abs=0.003)
    assert float((values > high).float().mean()) == pytest.approx(beyond, abs=0.003)
    assert low > float(values.min())
    assert high < float(values.max())


def test_the_hundredth_percentile_is_all_that_was_seen() -> None:
    values = draw("laplace")
    assert observed(values, "percentile", percentile=100.0).range() == observed(values, "minmax").range()


def test_a_moving_average_forgets() -> None:
    found = observer("moving_average_minmax", averaging_constant=0.5)
    for least, greatest in ((-1.0, 1.0), (-3.0, 5.0), (-3.0, 5.0)):
        found(torch.tensor([least, greatest]))
    assert found.range() == (-2.5, 4.0)


def test_the_rule_may_be_chosen_when_all_was_seen() -> None:
    values = draw("cube")
    found = observed(values, "auto")
    for rule in RULES:
        settle_rule(nn.Sequential(found), rule)
        assert found.range() == observed(values, rule).range()


def test_a_rule_that_was_asked_for_stays() -> None:
    asked, left_open = observer("percentile"), observer("auto")
    settle_rule(nn.ModuleList([asked, left_open]), "minmax")
    assert (asked.rule, left_open.rule) == ("percentile", "minmax")
    settle_rule(nn.ModuleList([asked, left_open]), "histogram")
    assert (asked.rule, left_open.rule) == ("percentile", "histogram")


# --- looking behind --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "function"), [("silu", F.silu), ("gelu", F.gelu), ("hardswish", F.hardswish)])
def test_through_an_activation_its_error_is_what_counts(name: str, function: Any) -> None:
    """Such as the long negative tail that SiLU flattens: there is nothing to hold."""
    values = torch.cat([4 * draw("normal") - 8, draw("normal").abs()])
    plain, through = observer(), observer()
    through.through = name
    for batch in values.chunk(4):
        plain(batch)
        through(batch)

    def error_behind(found: RangeObserver) -> float:
        return float((function(quantized(values, found.calculate_qparams())) - function(values)).square().mean())

    assert error_behind(through) < 0.8 * error_behind(plain)
    assert through.range()[0] > plain.range()[0]


def test_a_cap_stands_for_the_clamp_that_the_kernel_makes() -> None:
    found = observer("minmax")
    found.cap = 6.0
    assert found(torch.tensor([-1.0, 5.0, 9.0])).tolist() == [-1.0, 5.0, 6.0]
    assert found.range() == (-1.0, 6.0)


# --- odd data --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
def test_nothing_seen_is_an_empty_range(rule: Rule) -> None:
    found = observer(rule)
    assert found.range() == (0.0, 0.0)
    found(torch.empty(0, 3))
    found(torch.full((2,), -math.inf))
    assert not found.saw_something
    assert found.range() == (0.0, 0.0)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("constant", [0.0, 3.0, -3.0, 1e-8, 1e8])
def test_a_constant_is_held(rule: Rule, constant: float) -> None:
    """Within half a step, and the step is a 255th of it."""
    values = torch.full((64,), constant)
    scale, zero_point = observed(values, rule).calculate_qparams()
    assert bool(scale > 0)
    found = quantized(values, (scale, zero_point))
    assert torch.allclose(found, values, rtol=0.6 / 255, atol=float(torch.finfo(torch.float32).eps))


@pytest.mark.parametrize("rule", RULES)
def test_minus_infinity_in_a_mask_is_left_out(rule: Rule) -> None:
    values = draw("normal")
    masked = torch.where(torch.arange(SAMPLES) % 5 == 0, -math.inf, values)
    finite = torch.where(masked.isfinite(), values, values[1])
    low, high = observed(masked, rule).range()
    assert math.isfinite(low)
    assert math.isfinite(high)
    assert min(finite) <= low < -2
    assert 2 < high <= max(finite)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("sign", [1, -1])
def test_one_sign_only_takes_all_steps_from_zero_on(rule: Rule, sign: int) -> None:
    """The far end is held, zero is the other end."""
    values = sign * (draw("normal").abs() + 2)
    scale, zero_point = observed(values, rule).calculate_qparams()
    assert int(zero_point) == (0 if sign > 0 else 255)
    assert float(scale) * 255 == pytest.approx(float(values.abs().max()), rel=0.25)
    assert mse(values, (scale, zero_point)) < float(scale) ** 2 / 6


def test_a_symmetric_range_is_weighed_as_it_is_held() -> None:
    """Its step is that of the greater end: clipping the lesser one gains nothing, so that it is not done."""
    values = torch.cat([draw("normal"), 6 + draw("normal")])
    found = observed(values, qscheme=torch.per_tensor_symmetric)
    scale, zero_point = found.calculate_qparams()
    assert int(zero_point) == 128
    best = min(
        mse(values, (torch.tensor(end / 127.5), torch.tensor(128))) for end in torch.linspace(4, 12, 200).tolist()
    )
    assert mse(values, (scale, zero_point)) <= 1.02 * best


# --- streaming -------------------------------------------------------------------------------------------------------


def test_a_histogram_that_grows_loses_no_value() -> None:
    found = observer()
    for factor in (1, 3, 0.5, 20, 400):
        found(factor * draw("normal"))
    assert float(found.counts.sum()) == pytest.approx(5 * SAMPLES, rel=1e-9)
    assert float(found.bounds[0]) <= float(found.min_val)
    assert float(found.bounds[1]) >= float(found.max_val)


def test_what_grew_over_many_batches_finds_the_range_that_one_pass_finds() -> None:
    values = draw("laplace").sort(stable=True).values
    outwards = values[(torch.arange(SAMPLES) - SAMPLES // 2).abs().argsort()]  # each batch is wider than the last
    grown, at_once = observed(outwards, batches=50), observed(outwards, batches=1)
    assert mse(values, grown.calculate_qparams()) <= 1.02 * mse(values, at_once.calculate_qparams())


def test_it_holds_the_same_number_of_bytes_however_much_it_saw() -> None:
    def held_bytes(found: RangeObserver) -> int:
        return sum(buffer.numel() * buffer.element_size() for buffer in found.buffers())

    few, many = observer(), observed(draw("cube"), batches=40)
    few(torch.randn(4))
    assert held_bytes(few) == held_bytes(many) < 10 * _BINS


def test_its_state_can_be_kept_and_put_back() -> None:
    found = observed(draw("cube"), "histogram")
    other = observer("histogram")
    other.load_state_dict(found.state_dict())
    assert other.range() == found.range()
