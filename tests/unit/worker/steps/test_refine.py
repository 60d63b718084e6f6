"""What is settled after calibration, on networks made so that the right choice is known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from tests.unit.worker.quantization.test_planning import raised, spec
from worker.closeness import Closeness
from worker.datasets import InMemorySamples, batches
from worker.inference import batch_range
from worker.numerics import sqnr_db
from worker.quantization import Plan, layer_macs, prepare, simulate
from worker.quantization.loading import InputSpec
from worker.quantization.planning import choose_plan
from worker.quantization.raising import interface
from worker.steps.held_back import divide
from worker.steps.load import LoadedModel
from worker.steps.refine import Refined, _is_near, refine

WIDTH = 64


def loaded(module: nn.Module, x: Tensor) -> LoadedModel:
    model = raised(module, x[:2])
    specs: tuple[InputSpec, ...] = interface(model).inputs
    return LoadedModel(model, specs, ("output",), batch_range(specs), 32)


def refined(module: nn.Module, x: Tensor, **settings: Any) -> tuple[Refined, fx.GraphModule]:
    """A module calibrated on these samples but those held back, refined; biases only if that is asked for."""
    settings = {"qengine": "onednn", "recovery": {"bias_correction": False}} | settings
    model, asked = loaded(module, x), spec("static", **settings)
    settled: Plan = choose_plan(model.raised, asked)
    observed, held_back = divide(InMemorySamples((x,), None), model.batch_size)
    prepared = prepare(model.raised, settled, (x[:2],))
    with torch.no_grad():
        for batch in batches(observed, model.batch_size):
            prepared(*batch.inputs)
    found = refine(model, prepared, settled, asked, observed=observed, held_back=held_back)
    return found, prepared


# --- ranges ----------------------------------------------------------------------------------------------------------


class Mlp(nn.Module):
    """Two Linears; what is read first may be clamped to ±4, which is all that normal values need."""

    def __init__(self, *, clamps: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.clamps = clamps
        self.first, self.last = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x.clamp(-4, 4) if self.clamps else x)))


def normal(count: int = 512, outlier: float | None = None) -> Tensor:
    """Normal samples; in one that is not held back, one value is an outlier."""
    x = torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(1))
    if outlier is not None:
        x[0, 0] = outlier
    return x


def chosen(found: Refined) -> str:
    (rule,) = [trial.observer for trial in found.ranges if trial.chosen]
    return rule


def measured_db(found: Refined) -> dict[str, float]:
    return {trial.observer: trial.sqnr_db for trial in found.ranges if trial.sqnr_db is not None}


def test_all_that_was_seen_is_the_range_where_clipping_gains_nothing() -> None:
    found, prepared = refined(Mlp(clamps=False), normal())
    assert chosen(found) == "minmax"
    assert set(measured_db(found)) == {"minmax", "histogram", "percentile"}
    assert found.plan.settings.activation.observer == "minmax"
    assert {module.rule for module in prepared.modules() if hasattr(module, "rule")} == {"minmax"}


def test_a_rule_that_clips_is_taken_where_it_gains_on_what_was_held_back_and_on_what_was_seen() -> None:
    """The outlier is clamped by the network itself: it only widens the range."""
    found, prepared = refined(Mlp(clamps=True), normal(outlier=1000.0))
    db = measured_db(found)
    assert chosen(found) == max(db, key=db.__getitem__) != "minmax"
    assert db[chosen(found)] > db["minmax"] + 10
    assert found.plan.settings.activation.observer == chosen(found)
    assert {module.rule for module in prepared.modules() if hasattr(module, "rule")} == {chosen(found)}


def test_a_rule_that_clips_is_not_taken_where_it_loses_what_was_seen() -> None:
    """The outlier counts, and only chance kept it out of what is held back."""
    found, _ = refined(Mlp(clamps=False), normal(outlier=1000.0))
    db = measured_db(found)
    assert max(db.values()) > db["minmax"] + 5
    assert chosen(found) == "minmax"


def test_a_rule_that_was_asked_for_is_not_tried_against_others() -> None:
    found, prepared = refined(Mlp(clamps=True), normal(outlier=1000.0), activation={"observer": "minmax"})
    assert found.ranges == []
    assert {module.rule for module in prepared.modules() if hasattr(module, "rule")} == {"minmax"}


# --- biases ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("toggle", [False, True, "auto"])
@pytest.mark.parametrize("percentile", [90, 100])
def test_biases_are_corrected_as_asked_and_the_report_says_what_it_gave(toggle: bool | str, percentile: float) -> None:
    """Where a tenth is clipped at either end `auto` corrects what that shifts; where nothing is, the gain decides."""
    found, prepared = refined(
        Mlp(clamps=False), normal().abs(), recovery={"bias_correction": toggle},
        activation={"observer": "percentile", "percentile": percentile},
    )  # fmt: skip
    before = Mlp(clamps=False).first.bias
    now = next(iter(prepared.get_submodule("first"))).bias
    if toggle is False:
        assert found.recovery == []
        assert torch.equal(now, before)
        return
    (result,) = found.recovery
    assert (result.name, result.asked, result.layers) == ("bias_correction", "on" if toggle is True else "auto", 2)
    assert result.without_sqnr_db is not None
    assert result.with_sqnr_db is not None
    gains = result.with_sqnr_db >= result.without_sqnr_db + 0.1
    assert result.applied == (toggle is True or gains)
    assert torch.equal(now, before) == (not result.applied)
    if percentile == 90:
        assert result.with_sqnr_db > result.without_sqnr_db + 0.5


def test_biases_are_judged_on_what_the_observers_saw_and_not_on_the_few_held_back() -> None:
    """Those held back are scaled to nothing, so that no bias shows in them; clipping shifts the others."""
    x = normal().abs()
    _, held_back = divide(InMemorySamples((torch.arange(len(x))[:, None].float(),), None), 32)
    few = held_back.read(0, held_back.count).inputs[0].flatten().long()
    x[few] = 0.0
    found, _ = refined(
        Mlp(clamps=False), x, recovery={"bias_correction": "auto"},
        activation={"observer": "percentile", "percentile": 90},
    )  # fmt: skip
    (result,) = found.recovery
    assert result.applied
    assert result.with_sqnr_db is not None
    assert result.without_sqnr_db is not None
    assert result.with_sqnr_db > result.without_sqnr_db + 0.5


# --- layers ----------------------------------------------------------------------------------------------------------


class OutlierBeforeTheHead(nn.Module):
    """What the head reads has one channel a thousand times as large, which the head's weights make up for."""

    scale: Tensor

    def __init__(self, trunk_kernel: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Conv2d(4, 16, trunk_kernel)
        self.head = nn.Linear(16, 8)
        scale = torch.ones(16, 1, 1)
        scale[0] = 1e-3
        self.register_buffer("scale", scale)
        with torch.no_grad():
            self.head.weight[:, 0] *= 1e-3

    def forward(self, x: Tensor) -> Tensor:
        return self.head((torch.relu(self.trunk(x)) / self.scale).mean((2, 3)))


def images(side: int = 8) -> Tensor:
    return torch.randn(64, 4, side, side, generator=torch.Generator().manual_seed(1))


def test_the_layer_that_ruins_the_output_stays_in_float() -> None:
    """It costs 10 dB and more, and is a hundredth of the arithmetic."""
    found, _ = refined(OutlierBeforeTheHead(3), images(), activation={"observer": "minmax"})
    assert "head" not in found.plan.int8_layers
    assert "trunk" in found.plan.int8_layers
    assert "in int8 it cost the output" in found.plan.float_layers["head"]
    assert "% of the arithmetic" in found.plan.float_layers["head"]


def test_a_layer_that_was_asked_for_in_int8_stays_so_whatever_it_costs() -> None:
    found, _ = refined(
        OutlierBeforeTheHead(3), images(), activation={"observer": "minmax"},
        overrides=[{"layer": "head", "precision": "int8"}],
    )  # fmt: skip
    assert "head" in found.plan.int8_layers


def test_no_more_than_a_tenth_of_the_arithmetic_is_left_in_float() -> None:
    """The same head behind a trunk of so little that it is a third of all."""
    module, x = OutlierBeforeTheHead(1), images(2)
    macs = layer_macs(loaded(module, x).raised)
    assert macs["head"] > 0.1 * sum(macs.values())
    found, _ = refined(module, x, activation={"observer": "minmax"})
    assert {"head", "trunk"} <= found.plan.int8_layers


class OutlierBeforeGroups(nn.Module):
    """A convolution in groups is ruined: what it reads has one channel a thousand times as large."""

    scale: Tensor

    def __init__(self, groups: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Conv2d(4, 16, 3)
        self.grouped = nn.Conv2d(16, 16, 1, groups=groups)
        self.head = nn.Linear(16, 8)
        scale = torch.ones(16, 1, 1)
        scale[0] = 1e-3
        self.register_buffer("scale", scale)
        with torch.no_grad():
            self.grouped.weight[: 16 // groups, 0] *= 1e-3

    def forward(self, x: Tensor) -> Tensor:
        means = (torch.relu(self.trunk(x)) / self.scale).mean((2, 3), keepdim=True)
        return self.head(torch.relu(self.grouped(means)).flatten(1))


@pytest.mark.parametrize(("groups", "spared"), [(8, True), (16, False)])
def test_a_depthwise_layer_is_charged_for_what_it_moves(groups: int, *, spared: bool) -> None:
    """Either is little of the arithmetic; but a depthwise one left in float costs time for all that goes through it."""
    module = OutlierBeforeGroups(groups)
    macs = layer_macs(loaded(module, images()).raised)
    assert macs["grouped"] < 0.1 * sum(macs.values())
    found, _ = refined(module, images(), activation={"observer": "minmax"})
    assert ("grouped" in found.plan.float_layers) is spared


@pytest.mark.parametrize(
    ("unseen", "agreement_seen", "near"),
    [((31.0, 0.5), 0.0, True), ((25.0, 1.0), 1.0, True), ((25.0, 1.0), 0.97, False), ((19.0, 1.0), 1.0, False)],
)
def test_between_20_and_30_db_the_same_classes_of_many_samples_are_near_enough(
    unseen: tuple[float, float], agreement_seen: float, near: bool
) -> None:
    """That the few held back agree proves nothing."""
    assert _is_near(Closeness(*unseen), lambda: Closeness(25.0, agreement_seen)) is near


def test_where_int8_is_near_float_nothing_is_left_in_float() -> None:
    found, _ = refined(Mlp(clamps=False), normal(64), activation={"observer": "minmax"})
    assert found.plan.float_layers == {}


class RawFeatures(nn.Module):
    """Reads features on scales from 0.01 to 30,000, each with weights that make it count as much as any other."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Linear(6, 64), nn.Linear(64, 64), nn.Linear(64, 4)
        self.scales = torch.tensor([0.01, 1.0, 10.0, 300.0, 3e3, 3e4])
        with torch.no_grad():
            self.a.weight.div_(self.scales)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.relu(self.b(torch.relu(self.a(x)))))

    def samples(self, count: int) -> Tensor:
        return torch.randn(count, 6) * self.scales


def test_biases_are_corrected_for_the_layers_that_are_int8_in_the_end() -> None:
    """The first layer stays in float, and what it cost in int8 is corrected nowhere."""
    module = RawFeatures()
    x, unseen = module.samples(512), module.samples(256)
    found_db = {}
    for asked in (False, "auto"):
        found, prepared = refined(module, x, recovery={"bias_correction": asked})
        assert "a" in found.plan.float_layers
        found_db[asked] = sqnr_db(module(unseen), simulate(prepared, found.plan).run(unseen)[0]) or 0.0
    assert found_db["auto"] > found_db[False] - 0.5
