"""Faults planted in small networks: the first finding names layer and cause, and its patch recovers the output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from shared.job_report import KernelTrial, RangeTrial, ReportWarning, Suggestion
from shared.quantization_spec import spec_adapter
from tests.unit.worker.findings.conftest import Inputs, MakeCase, patched
from worker.findings import find, ranges
from worker.quantization import choosing_kernels, in_float

LESS_CALIBRATION, SAMPLES = 128, 192


def images(count: int, seed: int) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def smooth_images(count: int, seed: int) -> Tensor:
    coarse = torch.randn(count, 3, 2, 2, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size=(8, 8), mode="bilinear")


def rows(count: int, seed: int, width: int = 16) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


class Stack(nn.Module):
    """Three convolutions and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.third = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 16, 3)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.third(F.relu(self.second(F.relu(self.first(x))))))
        return self.head(x.mean((2, 3)))


class Residual(Stack):
    """The same, with the second convolution in a branch."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        x = F.relu(self.third(x + F.pad(F.relu(self.second(x)), (1, 1, 1, 1))))
        return self.head(x.mean((2, 3)))


class Silu(nn.Module):
    """Convolutions with SiLU between the first two: no scale can be moved through it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.third = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.third(F.relu(self.second(F.silu(self.first(x)))))


class Normed(nn.Module):
    """A residual branch that a LayerNorm starts, as in transformers: only its Linears are int8."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.widen, self.narrow = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16)
        self.last = nn.LayerNorm(16)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x + self.narrow(F.gelu(self.widen(self.norm(x)))))


class Branch(nn.Module):
    """A Linear of the input `extra`, which may be all zero, added to the main path before a LayerNorm."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.main, self.side, self.norm = nn.Linear(16, 16), nn.Linear(16, 16, bias=False), nn.LayerNorm(16)

    def forward(self, x: Tensor, extra: Tensor) -> Tensor:
        return self.norm(self.main(x) + F.relu(self.side(extra)))


class Tiny(nn.Module):
    """A Linear that computes with very small numbers, made large again afterwards."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.small, self.norm = nn.Linear(16, 16), nn.Linear(16, 16, bias=False), nn.LayerNorm(16)
        with torch.no_grad():
            self.small.weight.mul_(1e-9)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.small(self.first(x)) * 1e9)


class Scales(nn.Module):
    """A Linear whose output grows with what the last input says, by up to 1000, before a LayerNorm evens it out."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.scaled, self.norm = nn.Linear(16, 16), nn.Linear(16, 16, bias=False), nn.LayerNorm(16)

    def forward(self, x: Tensor) -> Tensor:
        size = torch.exp(3.4 * x[:, -1:].clamp(-1, 1))
        return self.norm(self.scaled(self.first(x) * size))


class ReadTwice(nn.Module):
    """A convolution of great mean and small spread, whose output a batch norm reads, and the caller too."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.next = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)
        with torch.no_grad():
            self.conv.weight.mul_(0.5)
            self.conv.bias.add_(50)  # type: ignore[union-attr]  # it has one
            self.norm.running_mean.add_(50)  # type: ignore[union-attr]  # likewise
            self.norm.running_var.mul_(0.1)  # type: ignore[union-attr]  # likewise

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        made = self.conv(x)
        return self.next(F.relu(self.norm(made))), made


def outlier_relu() -> nn.Module:
    stack = Stack()
    with torch.no_grad():
        stack.first.weight[3] *= 100
        stack.first.bias[3] *= 100  # type: ignore[index]  # it has one
        stack.second.weight[:, 3] /= 100
    return stack


def outlier_silu() -> nn.Module:
    module = Silu()
    with torch.no_grad():
        module.first.weight[3] *= 100
        module.second.weight[:, 3] /= 100
    return module


def outlier_norm() -> nn.Module:
    module = Normed()
    with torch.no_grad():
        module.norm.weight[:2] *= 80
        module.widen.weight[:, :2] /= 80
    return module


def different_channels() -> nn.Module:
    module = Silu()
    with torch.no_grad():
        module.first.weight[5] = 0
        module.first.weight[5, 0, 1, 1], module.first.weight[5, 0, 1, 2] = 4, -4
    return module


def glitched(x: Tensor) -> Tensor:
    x = x.clone()
    x[::64, 0, 0, 0] = 200
    return x


def growing_logits() -> nn.Module:
    """The first 8 and the last 8 features cancel in the logits, unless they differ: see GROWING_Y."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    with torch.no_grad():
        for linear in (module[0], module[2]):
            linear.weight.copy_(torch.eye(16))
            linear.bias.fill_(3.0)
        module[4].weight.copy_(torch.cat([torch.ones(4, 8), -torch.ones(4, 8)], 1) + 0.1 * torch.randn(4, 16))
    return module


def growing(inputs: Tensor) -> Tensor:
    """Every fourth sample has features that no longer cancel, none of them greater than they were."""
    inputs = inputs.clamp(-2, 2)
    inputs[::4, :8] = inputs[::4, :8].abs()
    inputs[::4, 8:] = -inputs[::4, 8:].abs()
    return inputs


X, Y = (images(LESS_CALIBRATION, 1),), (images(SAMPLES, 2),)
RX, RY = (rows(LESS_CALIBRATION, 1),), (rows(SAMPLES, 2),)
BRANCH_X = (*RX, torch.zeros(LESS_CALIBRATION, 16))
BRANCH_Y = (*RY, 3 * rows(SAMPLES, 3))
SMOOTH = ((smooth_images(LESS_CALIBRATION, 1),), (smooth_images(SAMPLES, 2),))
GROWING_X, GROWING_Y = (RX[0].clamp(-2, 2),), (growing(*RY),)
OFF = {"cross_layer_equalization": False, "smooth_quant": False, "bias_correction": False}
MINMAX = {"observer": "minmax"}


@dataclass(frozen=True)
class Fault:
    """A network, what it is calibrated and evaluated on, what is asked; and the finding expected."""

    code: str
    layer: str | None  #: any when None
    gain_db: float  #: what the patch gains at least
    build: Callable[[], nn.Module]
    calibration: Inputs
    evaluation: Inputs
    spec: dict[str, Any]


HARSH_PERCENTILE = {"layer": "second", "activation": {"observer": "percentile", "percentile": 60}}
FAULTS = [
    Fault("outlier_channel", "first", 8, outlier_silu, X, Y, {}),
    Fault("outliers_stretch", "first", 6, Stack, (glitched(*X),), Y, {"activation": MINMAX}),
    Fault("range_clips", "second", 6, Stack, X, Y, {"overrides": [HARSH_PERCENTILE]}),
    Fault("unseen_branch", "side", 8, Branch, BRANCH_X, BRANCH_Y, {}),
    Fault("calibration_too_narrow", "first", 8, Stack, (X[0] * 0.25,), Y, {}),
    Fault("zero_scale", "small", 10, Tiny, RX, RY, {}),
    Fault("saturating_head", "4", 6, growing_logits, GROWING_X, GROWING_Y, {}),
    Fault("unfused", "conv", 6, ReadTwice, X, Y, {}),
    Fault("weights_per_tensor", "first", 6, different_channels, *SMOOTH, {"weight": MINMAX}),
    Fault("symmetric_activation", None, 1.5, Stack, X, Y, {"activation": {"qscheme": "per_tensor_symmetric"}}),
    Fault("few_levels", None, 8, Stack, X, Y, {"activation": {"quant_max": 15}}),
    Fault("few_levels", None, 8, Stack, X, Y, {"weight": {"quant_min": -7, "quant_max": 7}}),
    Fault("few_levels", None, 8, Silu, X, Y, {"activation": {"quant_max": 15, "observer": "histogram"}}),
    Fault("sensitive_layer", "scaled", 8, Scales, RX, RY, {}),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.code)
def test_the_first_finding_is_the_planted_fault_and_its_patch_recovers(make_case: MakeCase, fault: Fault) -> None:
    case = make_case(fault.build(), fault.calibration, fault.evaluation, **fault.spec)
    found = find(case)
    assert found, f"nothing found at {case.base_db:.1f} dB"
    first = found[0]
    assert first.code == fault.code, told(found)
    assert fault.layer is None or first.layer == fault.layer, told(found)
    assert first.evidence
    assert first.suggestion is not None
    after = make_case(fault.build(), fault.calibration, fault.evaluation, **patched(case, first.suggestion.patch))
    assert after.base_db >= case.base_db + fault.gain_db, f"{case.base_db:.1f} dB to {after.base_db:.1f} dB: {first}"
    assert (fault.code, first.layer) not in [(warning.code, warning.layer) for warning in find(after)]


def test_a_rule_that_was_measured_to_be_better_than_minmax_is_not_told_to_clip(make_case: MakeCase) -> None:
    case = make_case(Stack(), X, Y, overrides=[HARSH_PERCENTILE])
    tried = [RangeTrial(observer="percentile", sqnr_db=20.0, chosen=True)]
    for minmax_db, clips in ((10.0, False), (30.0, True)):
        ranges_tried = [*tried, RangeTrial(observer="minmax", sqnr_db=minmax_db, chosen=False)]
        codes = [warning.code for warning in find(replace(case, ranges=ranges_tried))]
        assert ("range_clips" in codes) == clips


@pytest.mark.parametrize(
    ("build", "inputs", "means"),
    [(outlier_relu, (X, Y), "cross_layer_equalization"), (outlier_norm, (RX, RY), "smooth_quant")],
)
def test_a_channel_that_could_be_evened_out_is_told_with_the_means(
    make_case: MakeCase, build: Any, inputs: tuple[Inputs, Inputs], means: str
) -> None:
    """The recipe carries these means out; here the patch is only read."""
    first = find(make_case(build(), *inputs, recovery=OFF))[0]
    assert first.code == "outlier_channel"
    assert first.suggestion is not None
    assert first.suggestion.patch == {"recovery": {means: True}}


class BranchAndLogits(nn.Module):
    """A branch that calibration never sees, and logits of which it sees none of the great ones."""

    def __init__(self) -> None:
        super().__init__()
        self.branch, self.logits = Branch(), growing_logits()

    def forward(self, x: Tensor, extra: Tensor) -> tuple[Tensor, Tensor]:
        return self.branch(x, extra), self.logits(x)


def test_of_what_calibration_did_not_see_only_the_first_is_told(make_case: MakeCase) -> None:
    """The head clips as well, and may do so for what came before: it is told once calibration sees the branch."""
    calibration, evaluation = (*GROWING_X, BRANCH_X[1]), (*GROWING_Y, 0.1 * BRANCH_Y[1])
    head = {"overrides": [{"layer": "logits.4", "precision": "int8"}]}
    case = make_case(BranchAndLogits(), calibration, evaluation, **head)
    assert [found.warning.layer for found in ranges.saturating_head(case)] == ["logits.4"]
    assert [(warning.code, warning.layer) for warning in find(case)] == [("unseen_branch", "branch.side")]
    seen = (*GROWING_X, 0.1 * 3 * rows(LESS_CALIBRATION, 4))
    assert find(make_case(BranchAndLogits(), seen, evaluation, **head))[0].code == "saturating_head"


def test_a_dead_layer_is_told_before_all_that_a_good_model_could_gain(make_case: MakeCase) -> None:
    """Nothing can be patched: the float model is dead there too."""
    stack = Residual()
    with torch.no_grad():
        stack.second.bias.fill_(-50)  # type: ignore[union-attr]  # it has one
    first = find(make_case(stack, X, Y))[0]
    assert (first.code, first.layer, first.suggestion) == ("dead_layer", "second", None)
    assert "relu" in first.message
    assert first.hint


def test_an_island_that_an_override_made_is_told_with_the_override_that_removes_it(make_case: MakeCase) -> None:
    case = make_case(Stack(), X, Y, overrides=[{"layer": "second", "precision": "float32"}])
    first = find(case)[0]
    assert (first.code, first.layer) == ("float_island", "second")
    assert first.suggestion is not None
    after = make_case(Stack(), X, Y, **patched(case, first.suggestion.patch))
    assert after.layers["second"].precision == "int8"
    assert len(after.analysis.boundaries) == len(case.analysis.boundaries) - 2
    assert "float_island" not in [warning.code for warning in find(after)]


def test_a_layer_that_a_suggestion_put_in_float_is_not_suggested_for_int8_again(make_case: MakeCase) -> None:
    case = make_case(Stack(), X, Y, overrides=[{"layer": "second", "precision": "float32"}])
    assert "float_island" in [warning.code for warning in find(case)]
    assert "float_island" not in [warning.code for warning in find(replace(case, is_revision=True))]
    by_op = make_case(Stack(), X, Y, overrides=[{"layer": "sec*", "precision": "float32"}])
    assert "float_island" in [warning.code for warning in find(replace(by_op, is_revision=True))]


def test_an_island_comes_behind_what_quality_is_to_be_gained(make_case: MakeCase) -> None:
    case = make_case(
        Stack(), X, Y, overrides=[{"layer": "second", "precision": "float32"}], activation={"quant_max": 63}
    )
    assert not case.is_poor
    codes = [warning.code for warning in find(case)]
    assert "few_levels" in codes
    assert codes[-1] == "float_island"


def test_what_a_step_told_stands_by_its_weight_and_what_follows_from_it_is_not_said(make_case: MakeCase) -> None:
    """Of a network of convolutions method dynamic leaves most in float: static is the patch, and comes first."""
    case = make_case(Stack(), X, Y, method="dynamic")
    assert "mostly_float" in [warning.code for warning in find(case)]
    patch = Suggestion(title="Use method static", patch={"method": "static"})
    no_labels = ReportWarning(code="no_labels", message="The data has no labels.")
    in_float = ReportWarning(code="convolutions_in_float", message="Convolutions stay in float.", suggestion=patch)
    found = [warning.code for warning in find(case, [no_labels, in_float])]
    assert (found[0], found[-1]) == ("convolutions_in_float", "no_labels")
    assert "mostly_float" not in found


def test_a_head_that_is_all_there_is_in_int8_is_sent_to_ranges_found_at_run_time(make_case: MakeCase) -> None:
    """Without it in int8 there is no job; dynamic has no range at its output that could clip."""
    others = [{"layer": name, "precision": "float32"} for name in ("0", "2")] + [{"layer": "4", "precision": "int8"}]
    case = make_case(growing_logits(), GROWING_X, GROWING_Y, overrides=others)
    found = {warning.code: warning for warning in find(case)}
    suggestion = found["saturating_head"].suggestion
    assert suggestion is not None
    assert suggestion.patch == {"method": "dynamic"}
    after = make_case(growing_logits(), GROWING_X, GROWING_Y, **patched(case, suggestion.patch))
    assert after.base_db > case.base_db + 6


def test_a_small_layer_alone_in_int8_is_told_with_the_override_that_frees_it(make_case: MakeCase) -> None:
    others = [{"layer": name, "precision": "float32"} for name in ("first", "second", "third", "relu*", "mean")]
    found = {warning.code: warning for warning in find(make_case(Stack(), X, Y, overrides=others))}
    assert found["int8_island"].layer == "head"
    assert found["int8_island"].suggestion is None, "without it nothing would be left in int8"
    assert found["mostly_float"].layer is None


class Recurrent(nn.Module):
    """A GRU over four steps of a row, and a Linear on the last."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.GRU(RX[0].shape[1] // 4, 32, batch_first=True)
        self.head = nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen: torch.Tensor = self.head(self.encoder(x.unflatten(1, (4, -1)))[0][:, -1])
        return seen


def test_a_recurrent_model_left_in_float_is_told_to_use_dynamic_and_then_is_in_int8(make_case: MakeCase) -> None:
    case = make_case(Recurrent(), RX, RY)
    found = {warning.code: warning for warning in find(case)}
    suggestion = found["mostly_float"].suggestion
    assert suggestion is not None
    assert suggestion.patch == {"method": "dynamic"}
    after = make_case(Recurrent(), RX, RY, **patched(case, suggestion.patch))
    assert {layer.name: layer.precision for layer in after.layers.values() if layer.weight_bytes} == {
        "encoder": "int8", "head": "int8",
    }  # fmt: skip
    assert "mostly_float" not in [warning.code for warning in find(after)]


def test_a_constant_error_is_told_where_bias_correction_was_turned_off(make_case: MakeCase) -> None:
    """Every weight lies just below the middle of two steps and rounds down, on inputs of a great mean."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(16, 64), nn.Linear(64, 8))
    with torch.no_grad():
        module[0].bias.fill_(4.0)
        steps = torch.randint(-60, 60, (8, 64)) + 0.49
        steps[:, 0] = 127
        module[1].weight.copy_(steps / 1000)
    found = {w.code: w for w in find(make_case(module, RX, RY, recovery=OFF))}
    assert found["bias_shift"].layer == "1"
    assert found["bias_shift"].suggestion is not None
    assert found["bias_shift"].suggestion.patch == {"recovery": {"bias_correction": True}}
    assert "bias_shift" not in [w.code for w in find(make_case(module, RX, RY))], "there it was tried"


@pytest.mark.parametrize(
    ("asked", "patch"),
    [
        ({"activation": {"reduce_range": True}}, {"activation": {"reduce_range": None}}),
        ({"qengine": "fbgemm"}, {"qengine": None}),
        ({"weight": {"qscheme": "per_channel_affine"}}, {"weight": {"qscheme": None}}),
        ({"overrides": [{"layer": "second", "weight": {"qscheme": "per_channel_affine"}}]}, None),
        ({}, None),
        ({"qengine": "fbgemm", "activation": {"reduce_range": False}}, None),
    ],
    ids=str,
)
def test_what_costs_a_bit_is_named_with_what_gives_it_back(
    make_case: MakeCase, monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any], patch: dict[str, Any] | None
) -> None:
    monkeypatch.setattr(choosing_kernels, "has_vnni", lambda: True)
    case = make_case(Stack(), X, Y, **asked)
    found = {warning.code: warning for warning in find(case)}.get("reduce_range_needless")
    assert (found is not None) == bool(case.resolved["activation"]["reduce_range"])
    assert (None if found is None or found.suggestion is None else found.suggestion.patch) == patch
    if patch is not None:
        after = make_case(Stack(), X, Y, **patched(case, patch))
        assert not after.resolved["activation"]["reduce_range"]
        assert after.base_db > case.base_db + 1


def test_seven_bits_are_needless_only_where_the_kernels_hold_eight(make_case: MakeCase) -> None:
    case = make_case(Stack(), X, Y, activation={"reduce_range": True})
    trials = [
        KernelTrial(
            qengine="onednn", sqnr_db=30.0, reference_sqnr_db=30.0, latency_ms=None, saturates=wrong, chosen=not wrong
        )
        for wrong in (False, True)
    ]
    cases = [replace(case, kernels=[trial]) for trial in trials] + [replace(case, holds_full_range=False)]
    assert ["reduce_range_needless" in [w.code for w in find(each)] for each in cases] == [True, False, False]


@pytest.mark.parametrize("which", ["weight", "activation"])
def test_a_layer_whose_integers_an_override_took_is_given_back_the_settings_of_the_others(
    make_case: MakeCase, which: str
) -> None:
    limits = {"weight": {"quant_min": -7, "quant_max": 7}, "activation": {"quant_max": 15}}[which]
    case = make_case(Stack(), X, Y, overrides=[{"layer": "second", which: limits}])
    found = next(warning for warning in find(case) if warning.code == "few_levels")
    assert found.suggestion is not None
    after = make_case(Stack(), X, Y, **patched(case, found.suggestion.patch))
    assert after.base_db == make_case(Stack(), X, Y).base_db


def test_a_dynamic_job_tells_the_limits_that_its_weights_were_given(make_case: MakeCase) -> None:
    module = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8))
    case = make_case(module, RX, RY, method="dynamic", weight={"quant_min": -8, "quant_max": 7})
    weight = case.qparams("0", "weight")
    assert weight is not None
    assert (weight.quant_min, weight.quant_max, weight.observer) == (-8, 7, "per_channel_minmax")
    found = next(warning for warning in find(case) if warning.code == "few_levels")
    assert found.suggestion is not None
    after = make_case(module, RX, RY, **patched(case, found.suggestion.patch))
    assert after.base_db >= case.base_db + 15


def test_a_good_model_is_left_alone(make_case: MakeCase) -> None:
    case = make_case(nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU()), RX, RY)
    assert case.base_db > 30
    assert [warning for warning in find(case) if warning.code != "sensitive_layer"] == []


def test_every_suggestion_is_a_spec_that_the_api_takes(make_case: MakeCase) -> None:
    """Applied to the spec of the job, layer names with glob characters included."""
    case = make_case(outlier_silu(), X, Y)
    for warning in find(case):
        if warning.suggestion is not None:
            spec_adapter.validate_python(patched(case, warning.suggestion.patch))
    assert in_float("blocks[0].fc*") == {"overrides": [{"layer": "blocks[[]0].fc[*]", "precision": "float32"}]}


def told(found: list[ReportWarning]) -> str:
    return "\n".join(f"{warning.code} {warning.layer}: {warning.message} {warning.evidence}" for warning in found)
