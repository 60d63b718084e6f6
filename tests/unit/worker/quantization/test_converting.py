"""What is planned for int8 is int8 in the converted graph, what is not is float, and it computes what was simulated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from tests.unit.worker.quantization.test_planning import raised, spec, sqnr_db
from tests.unit.worker.quantization.test_preparing import calibrated
from worker.quantization import convert, prepare, prepare_qat, simulate
from worker.quantization.float_reasons import FloatReason
from worker.quantization.int8_modules import precision_of
from worker.quantization.planning import choose_plan
from worker.quantization.quantizers import quantized_weight


class Between(nn.Module):
    """An operator between two convolutions."""

    def __init__(self, between: Callable[[Tensor], Tensor], width: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.between = between
        self.second = nn.Conv2d(width, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.between(self.first(x)))


def mean(x: Tensor) -> Tensor:
    return x.mean((2, 3), keepdim=True)


def adaptive_avg_pool2d(x: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(x, 1)


def cat(x: Tensor) -> Tensor:
    return torch.cat([x, x.flip(1)], 1)


def relu(x: Tensor) -> Tensor:
    return torch.relu(x.transpose(2, 3))


def max_pool2d(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 2)


#: The operator, how many channels it gives, and how it is put in float; averages are by themselves.
FLOAT_BETWEEN: list[tuple[Callable[[Tensor], Tensor], int, list[dict[str, str]]]] = [
    (mean, 8, []), (adaptive_avg_pool2d, 8, []), (cat, 16, [{"op": "cat"}]), (relu, 8, [{"op": "relu"}]),
    (max_pool2d, 8, [{"op": "max_pool2d"}]),
]  # fmt: skip


class _Dtypes(fx.Interpreter):
    """Whether each operator gave quantized tensors, by its own name."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.quantized: dict[str, bool] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        name = str(n.target) if isinstance(n.target, str) else getattr(n.target, "__name__", str(n.target))
        if isinstance(result, Tensor):
            self.quantized[name.rpartition(".")[2]] = result.is_quantized
        return result


def quantized_operators(converted: fx.GraphModule, x: Tensor) -> dict[str, bool]:
    dtypes = _Dtypes(converted)
    dtypes.run(x)
    return dtypes.quantized


@pytest.mark.parametrize(("between", "width", "overrides"), FLOAT_BETWEEN)
@torch.no_grad()
def test_an_operator_left_in_float_between_int8_layers_is_float(
    between: Callable[[Tensor], Tensor], width: int, overrides: list[dict[str, str]]
) -> None:
    """Lowering in torch 2.13 would take it into int8, with the range of what goes into it."""
    x = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    model, prepared, settled = calibrated(Between(between, width), x, overrides=overrides)
    assert between.__name__ in settled.float_layers
    converted = convert(prepared, settled)
    is_int8 = quantized_operators(converted, x)
    assert not is_int8[between.__name__]
    assert is_int8["first"]
    assert is_int8["second"]
    assert sqnr_db(model(x)[0], converted(x)[0]) == pytest.approx(
        sqnr_db(model(x)[0], simulate(prepared, settled).run(x)[0]), abs=0.5
    )


@torch.no_grad()
def test_the_same_operator_is_int8_where_it_is_planned_so() -> None:
    """So that the test above sees what it looks for."""
    x = torch.randn(16, 3, 8, 8)
    for between, width in ((cat, 16), (relu, 8), (max_pool2d, 8)):
        _, prepared, settled = calibrated(Between(between, width), x)
        assert quantized_operators(convert(prepared, settled), x)[between.__name__]


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.left = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.right = nn.Conv2d(8, 8, 1)
        self.gate = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(self.left(x) + self.right(x))
        x = torch.cat([x, x * torch.sigmoid(self.gate(x))], 1)
        return self.head(x.amax((2, 3)))


@pytest.mark.parametrize("given_up", [
    ("stem",), ("left.0",), ("right",), ("add",), ("cat",), ("mul",), ("sigmoid",), ("gate",), ("head",),
    ("left.0", "add"), ("mul", "cat", "gate"), ("stem", "head"),
], ids="+".join)  # fmt: skip
@torch.no_grad()
def test_a_layer_given_up_after_calibration_is_float_and_the_kernels_compute_what_was_simulated(
    given_up: tuple[str, ...],
) -> None:
    x = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    model, prepared, settled = calibrated(Residual(), x)
    for layer in given_up:
        assert layer in settled.int8_layers
        settled = settled.without(layer, FloatReason("spared", "it costs the output too much"))
    converted = convert(prepared, settled)
    is_int8 = quantized_operators(converted, x)
    modules = dict(converted.named_modules())
    for layer in given_up:
        assert not is_int8.get(layer, False)
        assert precision_of(modules.get(layer)) == "float32"
    for layer in {"stem", "right", "gate", "head"}.difference(given_up):
        assert precision_of(modules[layer]) == "int8"
    wanted = model(x)[0]
    simulated = simulate(prepared, settled).run(x)[0]
    assert sqnr_db(wanted, converted(x)[0]) == pytest.approx(sqnr_db(wanted, simulated), abs=0.5)
    assert sqnr_db(wanted, simulated) > 25


@torch.no_grad()
def test_converting_leaves_the_prepared_graph_to_be_converted_again() -> None:
    x = torch.randn(8, 3, 8, 8)
    _, prepared, settled = calibrated(Residual(), x)
    first = convert(prepared, settled)(x)[0]
    convert(prepared, settled.without("add", FloatReason("spared", "tried")))
    assert torch.equal(convert(prepared, settled)(x)[0], first)


# --- weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("observer", ["per_channel_minmax", "minmax"])
@torch.no_grad()
def test_symmetric_weights_hold_the_greatest_of_every_channel_exactly(observer: str) -> None:
    """127 steps either way, where torch's 127.5 clips it by half a step: 0.4 % of it."""
    x = torch.randn(8, 3, 8, 8)
    model, prepared, settled = calibrated(Residual(), x, weight={"observer": observer})
    learned_plan = choose_plan(model, spec("qat", weight={"observer": observer}))
    learned = prepare_qat(model, learned_plan, (x,))
    learned(x)
    ends = (1, 2, 3) if "channel" in observer else (0, 1, 2, 3)
    greatest = model.get_submodule("right").weight.abs().amax(ends)
    for converted in (convert(prepared, settled), convert(learned, learned_plan)):
        weight = converted.get_submodule("right").weight()
        assert int(weight.int_repr().abs().max()) == 127
        assert torch.allclose(weight.dequantize().abs().amax(ends), greatest, rtol=1e-6, atol=0)
    layer = prepared.get_submodule("right")
    simulated = quantized_weight(layer, prepared.meta["_observed_graph_module_attrs"].node_name_to_qconfig["right"])
    assert simulated is not None
    assert torch.allclose(simulated.of(layer).abs().amax(ends), greatest, rtol=1e-6, atol=0)


@torch.no_grad()
def test_weights_keep_to_the_limits_that_were_asked_for() -> None:
    """Of that layer only; FX clamps at those of the dtype."""
    x = torch.randn(8, 3, 8, 8)
    _, prepared, settled = calibrated(
        Residual(), x, overrides=[{"layer": "right", "weight": {"quant_min": -4, "quant_max": 3}}]
    )
    converted = convert(prepared, settled)
    ints = converted.get_submodule("right").weight().int_repr()
    assert (int(ints.min()), int(ints.max())) == (-4, 3)
    assert int(converted.get_submodule("head").weight().int_repr().abs().max()) == 127


def test_a_bag_is_int8_unless_it_takes_the_maximum() -> None:
    class Bags(nn.Module):
        def __init__(self, mode: str) -> None:
            super().__init__()
            self.bag = nn.EmbeddingBag(10, 8, mode=mode)
            self.fc = nn.Linear(8, 64)

        def forward(self, words: Tensor) -> Tensor:
            return self.fc(self.bag(words))

    words = torch.randint(10, (3, 4))
    for mode, is_int8 in (("mean", True), ("max", False)):
        model = raised(Bags(mode), words)
        settled = choose_plan(model, spec("static"))
        prepared = prepare(model, settled, (words,))
        prepared(words)
        assert isinstance(convert(prepared, settled).get_submodule("bag"), nn.EmbeddingBag) is not is_int8


@torch.no_grad()
def test_a_layer_given_up_after_calibration_reads_what_nobody_quantized() -> None:
    """Another reader of the same tensor is in int8: its rounding is no business of the float layer."""

    class Forked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.left, self.right = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.left(x), self.right(x)

    x = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    model, prepared, settled = calibrated(Forked(), x)
    left, right = convert(prepared, settled.without("right", FloatReason("spared", "tried")))(x)
    wanted = model(x)
    assert torch.allclose(right, wanted[1], atol=1e-5)
    assert 20 < sqnr_db(wanted[0], left) < 60


class Patches(nn.Module):
    """An image cut into patches by reshaping alone, and a Linear that reads them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Linear(48, 16)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(x.shape[0], 3, 2, 4, 2, 4).permute(0, 2, 4, 1, 3, 5)
        return self.embed(rows.reshape(x.shape[0], 4, 48))


@torch.no_grad()
def test_what_reads_a_reshaped_input_is_int8() -> None:
    """The qconfig that torch has for a reshape observes nothing where nothing before it is observed."""
    x = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    _, prepared, settled = calibrated(Patches(), x)
    converted = convert(prepared, settled)
    assert precision_of(converted.get_submodule("embed")) == "int8"
    assert quantized_operators(converted, x)["embed"]
