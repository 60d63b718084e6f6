"""Where observers stand, what they are told, and what is taken into a kernel."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.ao.quantization import MinMaxObserver  # noqa: TID251 - what it is built of
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from tests.unit.worker.quantization.test_planning import raised, spec, sqnr_db
from worker.quantization import (
    LayerTrace,
    Plan,
    choosing_kernels,
    convert,
    learn_scales,
    prepare,
    prepare_qat,
    simulate,
)
from worker.quantization.planning import choose_plan
from worker.quantization.ranging import CappedFakeQuantize, RangeObserver

FULL_RANGE = {"reduce_range": False, "observer": "minmax"}
#: What a clamp of whatever kind is called in a graph.
CLAMPS = {"relu6", "ReLU6", "hardtanh", "Hardtanh", "clamp", "clip"}


class StemReLU6(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu6(self.conv(x))


class LinearReLU6(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(8, 16)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu6(self.linear(x))


class AddClamp(nn.Module):
    """Clamped at 6, as the others are, by another operator."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv(x) + x).clamp(0, 6.0)


#: Inputs that go far beyond 6 on either side.
CASES = [
    (StemReLU6, "conv", (16, 3, 8, 8)), (LinearReLU6, "linear", (64, 8)), (AddClamp, "add", (16, 3, 8, 8)),
]  # fmt: skip


def inputs(*shape: int) -> Tensor:
    return 9 * torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def calibrated(module: nn.Module, x: Tensor, **settings: Any) -> tuple[fx.GraphModule, fx.GraphModule, Plan]:
    """The raised, the prepared and calibrated module, and the plan, which was not tried out."""
    model = raised(module, x[:2])
    settled = choose_plan(model, spec("static", qengine="onednn", **settings))
    prepared = prepare(model, settled, (x[:2],))
    with torch.no_grad():
        prepared(x)
    return model, prepared, settled


def operators(module: fx.GraphModule) -> set[str]:
    return {
        type(module.get_submodule(str(node.target))).__name__
        if node.op == "call_module"
        else getattr(node.target, "__name__", str(node.target))
        for node in module.graph.nodes
    }


def observers(prepared: fx.GraphModule) -> dict[str, RangeObserver]:
    """Each observer by the layer whose output it sees; that of an input by the placeholder's name."""
    modules = dict(prepared.named_modules(remove_duplicate=False))
    groups = prepared.meta["octavo_groups"]
    return {
        groups.get(str(source.meta.get("layer", "")), source.name): observer
        for node in prepared.graph.nodes
        if node.op == "call_module" and isinstance(observer := modules[str(node.target)], RangeObserver)
        for source in node.all_input_nodes
    }


# --- clamps ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("module", "layer", "shape"), CASES)
@torch.no_grad()
def test_a_clamp_is_taken_into_the_kernel_that_saturates_there(
    module: type[nn.Module], layer: str, shape: tuple[int, ...]
) -> None:
    """No clamp is left, nothing exceeds its end, and the output is what float gives: 8 bits over 0 to 6 make 40 dB."""
    x = inputs(*shape)
    model, prepared, settled = calibrated(module(), x, activation=FULL_RANGE)
    assert settled.settings_of(layer).cap == 6
    converted = convert(prepared, settled)
    assert operators(model) & CLAMPS
    assert not operators(converted) & CLAMPS
    wanted, found = model(x)[0], converted(x)[0]
    assert float(wanted.max()) == 6
    assert float(found.max()) == pytest.approx(6, rel=1e-6)
    assert float(found.min()) == 0
    assert sqnr_db(wanted, found) > 30
    simulated = simulate(prepared, settled).run(x)[0]
    assert sqnr_db(wanted, simulated) == pytest.approx(sqnr_db(wanted, found), abs=0.5)


@pytest.mark.parametrize(("module", "layer", "shape"), CASES)
@torch.no_grad()
def test_what_is_calibrated_afterwards_is_float_capped_too(
    module: type[nn.Module], layer: str, shape: tuple[int, ...]
) -> None:
    """The graph being calibrated computes what the float model does, although its clamp is a ReLU."""
    x = inputs(*shape)
    model, prepared, _ = calibrated(module(), x, activation=FULL_RANGE)
    assert torch.allclose(prepared(x)[0], model(x)[0], atol=1e-5)
    assert observers(prepared)[layer].range() == (0.0, 6.0)


def test_what_a_cap_takes_off_has_no_gradient() -> None:
    quantize = CappedFakeQuantize(MinMaxObserver, 0, 255, dtype=torch.quint8)  # what follows a ReLU
    quantize.cap = 6
    x = torch.tensor([1.0, 5.0, 6.5, 100.0], requires_grad=True)
    quantized = quantize(x)
    assert torch.allclose(quantized, torch.tensor([1.0, 5.0, 6.0, 6.0]), atol=6 / 255)
    quantized.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize("learnable", [False, True])
@pytest.mark.parametrize(("module", "layer", "shape"), CASES)
def test_a_clamp_that_is_trained_is_taken_in_as_well_and_int8_is_what_fake_quantize_was(
    module: type[nn.Module], layer: str, shape: tuple[int, ...], *, learnable: bool
) -> None:
    x = inputs(*shape)
    model = raised(module(), x[:2])
    qat = {"learnable_scales": learnable}
    settled = choose_plan(model, spec("qat", qengine="onednn", activation=FULL_RANGE, qat=qat))
    assert settled.settings_of(layer).cap == 6
    prepared = prepare_qat(model, settled, (x[:2],)).eval()
    assert not operators(prepared) & CLAMPS
    with torch.no_grad():
        prepared(x)
    if learnable:
        learn_scales(prepared)
    with torch.no_grad():
        trained = prepared(x)[0]
        wanted, found = model(x)[0], convert(prepared, settled)(x)[0]
    assert float(wanted.max()) == pytest.approx(float(trained.max()), rel=1e-5) == 6
    assert sqnr_db(wanted, trained) > 30
    assert sqnr_db(trained, found) > 50


@pytest.mark.parametrize(("module", "layer", "shape"), CASES)
@pytest.mark.parametrize("activation", [
    {"reduce_range": True}, {"quant_max": 200}, {"qscheme": "per_tensor_symmetric"},
])  # fmt: skip
@torch.no_grad()
def test_where_the_end_of_the_range_is_not_where_kernels_saturate_the_clamp_stays(
    module: type[nn.Module], layer: str, shape: tuple[int, ...], activation: dict[str, Any]
) -> None:
    """Kernels saturate at 255, whatever they are told: the output would pass the end."""
    x = inputs(*shape)
    model, prepared, settled = calibrated(module(), x, activation=FULL_RANGE | activation)
    assert settled.settings_of(layer).cap is None
    converted = convert(prepared, settled)
    assert operators(converted) & CLAMPS
    wanted, found = model(x)[0], converted(x)[0]
    assert float(found.max()) <= 6 * (1 + 1 / 64)  # half a step of seven bits
    assert sqnr_db(wanted, found) > 15


@torch.no_grad()
def test_the_input_of_a_capped_layer_is_not_capped() -> None:
    """The images that a stem with ReLU6 reads may well exceed 6: they were clipped there once."""
    x = inputs(16, 3, 8, 8)
    _, prepared, settled = calibrated(StemReLU6(), x, activation=FULL_RANGE)
    seen = observers(prepared)
    assert (seen["x"].cap, seen["conv"].cap) == (None, 6)
    assert seen["x"].range() == (float(x.min()), float(x.max()))
    traces: dict[str, LayerTrace] = {}
    simulate(prepared, settled).trace(x, visit=lambda trace: traces.update({trace.layer: trace}))
    quantizer = traces["conv"].quantizer
    assert quantizer is not None
    assert quantizer.range == pytest.approx((0, 6))


@torch.no_grad()
def test_the_clamp_of_a_layer_in_float_stays() -> None:
    x = inputs(16, 3, 8, 8)
    _, prepared, settled = calibrated(
        nn.Sequential(StemReLU6(), nn.Conv2d(8, 4, 1)), x, activation=FULL_RANGE, overrides=[{"layer": "0.conv"}]
    )
    assert operators(convert(prepared, settled)) & CLAMPS


# --- what observers are told -----------------------------------------------------------------------------------------


class Gated(nn.Module):
    """`first` is read by SiLU alone, `second` by SiLU and by the product."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.third = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(F.silu(self.first(x)))
        return self.third(x * F.silu(x))


def test_an_observer_looks_through_an_activation_that_alone_reads_its_layer() -> None:
    x = torch.randn(4, 4, 8, 8)
    _, prepared, _ = calibrated(Gated(), x)
    through = {layer: observer.through for layer, observer in observers(prepared).items()}
    assert (through["x"], through["first"], through["second"]) == (None, "silu", None)


def test_an_override_reaches_the_observers_of_its_layers_only_and_the_last_match_wins() -> None:
    x = torch.randn(4, 4, 8, 8)
    overrides = [
        {"op": "Conv2d", "activation": {"observer": "moving_average_minmax"}},
        {
            "layer": "third",
            "activation": {"observer": "percentile", "percentile": 75, "qscheme": "per_tensor_symmetric"},
        },
        {"layer": "first", "weight": {"observer": "minmax"}},
    ]
    _, prepared, settled = calibrated(Gated(), x, overrides=overrides, activation={"observer": "minmax"})
    seen = observers(prepared)
    assert {layer: observer.rule for layer, observer in seen.items() if layer in ("first", "second", "third")} == {
        "first": "minmax",
        "second": "moving_average_minmax",
        "third": "percentile",
    }
    assert (seen["third"].percentile, seen["third"].qscheme) == (75, torch.per_tensor_symmetric)
    assert (seen["second"].percentile, seen["second"].qscheme) == (99.99, torch.per_tensor_affine)
    converted = convert(prepared, settled)
    assert {layer: converted.get_submodule(layer).weight().qscheme() for layer in ("first", "second", "third")} == {
        "first": torch.per_tensor_affine,
        "second": torch.per_channel_affine,
        "third": torch.per_channel_affine,
    }


@pytest.mark.parametrize(("reduce_range", "asked", "found"), [
    (False, None, 255), (True, None, 127), (False, 100, 100), (True, 100, 100), ("auto", 200, 127),
])  # fmt: skip
def test_the_greatest_integer_is_the_one_asked_for_or_that_of_seven_bits(
    monkeypatch: pytest.MonkeyPatch, reduce_range: bool | str, asked: int | None, found: int
) -> None:
    """Torch halves what is asked for."""
    monkeypatch.setattr(choosing_kernels, "has_vnni", lambda: False)  # what `auto` asks
    activation = {"reduce_range": reduce_range, "quant_max": asked}
    _, prepared, _ = calibrated(LinearReLU6(), inputs(64, 8), activation=activation)
    assert {observer.quant_max for observer in observers(prepared).values()} == {found}


def test_a_layer_that_the_policy_leaves_in_float_is_int8_where_that_is_asked() -> None:
    """The small head of a network with layer norm."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(16, 64), nn.LayerNorm(64), nn.Linear(64, 64), nn.Linear(64, 4))
    x = torch.randn(16, 16)
    kinds = {}
    for overrides in ([], [{"layer": "3", "precision": "int8"}]):
        _, prepared, settled = calibrated(module, x, overrides=overrides)
        kinds[bool(overrides)] = type(convert(prepared, settled).get_submodule("3"))
    assert kinds[False] is nn.Linear
    assert kinds[True].__module__.startswith("torch.ao.nn.quantized")


class PrunedConv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)))


class PrunedLinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.norm = nn.Linear(8, 4), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.linear(x))
        return out


@pytest.mark.parametrize(("network", "shape"), [(PrunedConv, (16, 3, 8, 8)), (PrunedLinear, (64, 8))])
def test_channels_that_batch_norm_switches_off_are_trained_without_a_nan_and_stay_off(
    network: type[nn.Module], shape: tuple[int, ...]
) -> None:
    model = network()
    norm = model.norm
    assert isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d))
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.0, -0.0, 1e-12, -2.0]))
        norm.bias.copy_(torch.tensor([0.5, 0.0, 0.1, 0.2]))
    x = inputs(*shape)
    graph = raised(model, x)
    prepared = prepare_qat(graph, choose_plan(graph, spec("qat")), (x[:2],))
    with torch.no_grad():
        (before,), (after,) = graph(x), prepared.eval()(x)
    assert sqnr_db(before, after) > 30
    assert torch.equal(after[:, :3], after[:1, :3].expand_as(after[:, :3]))  # whatever the input
    (trained,) = prepared.train()(x)
    trained.square().sum().backward()
    gradients = [each.grad for each in prepared.parameters()]
    assert all(gradient is not None and bool(gradient.isfinite().all()) for gradient in gradients)
