"""Method dynamic, layer by layer: what is quantized, how well, what stays in float and why, and what the file gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from shared.errors import NothingToQuantize, SpecInvalid
from shared.quantization_spec import DynamicSpec, spec_adapter
from tests.unit.worker.quantization.test_planning import raised, sqnr_db
from worker.quantization import convert, dynamic_planning, freeze, plan, prepare, quantize_dynamic
from worker.quantization.bags import QuantizedBag
from worker.quantization.choosing_kernels import has_vnni
from worker.quantization.dynamic_planning import DynamicPlan, choose_dynamic_plan
from worker.quantization.dynamic_trying import without_wrong_kernels

MODEL = "mdl_0123456789abcdef"
WIDTH = 32
SEVEN_BIT_COST_DB = 7  # the floors were measured with full-range activations, which take VNNI


def spec(**settings: Any) -> DynamicSpec:
    checked = spec_adapter.validate_python({"method": "dynamic", "model": MODEL, **settings})
    assert isinstance(checked, DynamicSpec)
    return checked


def settled_plan(module: fx.GraphModule, **settings: Any) -> DynamicPlan:
    found = plan(module, spec(**settings))
    assert isinstance(found, DynamicPlan)
    return found


def spread_rows(module: nn.Module) -> nn.Module:
    """Rows of weights a hundred times apart: what a scale a matrix holds badly, and a scale a row does not."""
    with torch.no_grad():
        for weight in module.parameters():
            if weight.dim() == 2:
                weight.mul_(torch.logspace(-1, 1, weight.shape[0])[:, None])
    return module


def quantized_layers(module: nn.Module) -> set[str]:
    """The classes of torch.ao and of ours that stand in a quantized module."""
    return {type(layer).__name__ for layer in module.modules() if not type(layer).__module__.startswith("torch.nn")}


class Net(nn.Module):
    """A layer under test, then the mean over what is not the batch nor the width."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        result = self.layer(x)
        return result[0] if isinstance(result, tuple) else result


class Unrolled(nn.Module):
    """A cell over five steps, from a state of zeros."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> Tensor:
        state: Any = None
        for step in range(5):
            state = self.cell(x[:, step], state)
        return state[0] if isinstance(state, tuple) else state


class Tied(nn.Module):
    """An output layer that shares the embedding's weights."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, WIDTH)
        self.head = nn.Linear(WIDTH, 50, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.embedding(tokens)).mean(1))


def rows(samples: int) -> Tensor:
    return torch.randn(samples, WIDTH)


def steps(samples: int) -> Tensor:
    return torch.randn(samples, 5, WIDTH)


def tokens(samples: int) -> Tensor:
    return torch.randint(0, 50, (samples, 7))


@dataclass(frozen=True)
class Case:
    """A layer, what it becomes, and the least SQNR of its int8 form: about 3 dB below what was measured."""

    module: Callable[[], nn.Module]
    inputs: Callable[[int], Tensor]
    becomes: str
    floor_db: float


LAYERS = {
    "linear": Case(lambda: Net(nn.Linear(WIDTH, WIDTH)), rows, "Linear", 36),
    "lstm": Case(lambda: Net(nn.LSTM(WIDTH, WIDTH, 2, bidirectional=True, batch_first=True)), steps, "LSTM", 33),
    "lstm, no bias": Case(lambda: Net(nn.LSTM(WIDTH, WIDTH, bias=False, batch_first=True)), steps, "LSTM", 34),
    "gru": Case(lambda: Net(nn.GRU(WIDTH, WIDTH, 2, batch_first=True)), steps, "GRU", 31),
    "lstm cell": Case(lambda: Unrolled(nn.LSTMCell(WIDTH, WIDTH)), steps, "LSTMCell", 31),
    "lstm cell, no bias": Case(lambda: Unrolled(nn.LSTMCell(WIDTH, WIDTH, bias=False)), steps, "LSTMCell", 30),
    "gru cell": Case(lambda: Unrolled(nn.GRUCell(WIDTH, WIDTH)), steps, "GRUCell", 29),
    "rnn cell, tanh": Case(lambda: Unrolled(nn.RNNCell(WIDTH, WIDTH)), steps, "RNNCell", 28),
    "rnn cell, relu": Case(lambda: Unrolled(nn.RNNCell(WIDTH, 8, nonlinearity="relu")), steps, "RNNCell", 29),
    "embedding": Case(lambda: Net(nn.Embedding(50, WIDTH)), tokens, "Embedding", 43),
    "bag, sum": Case(lambda: Net(nn.EmbeddingBag(50, WIDTH, mode="sum")), tokens, "QuantizedBag", 43),
    "bag, mean": Case(lambda: Net(nn.EmbeddingBag(50, WIDTH)), tokens, "QuantizedBag", 43),
    "bag, padded": Case(lambda: Net(nn.EmbeddingBag(50, WIDTH, padding_idx=3)), tokens, "QuantizedBag", 43),
    "tied": Case(Tied, tokens, "Linear", 38),
}


@pytest.mark.parametrize("case", LAYERS.values(), ids=LAYERS)
def test_each_layer_holds_int8_and_the_file_gives_what_the_module_gives(case: Case, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = raised(spread_rows(case.module()), case.inputs(3))
    settled = settled_plan(module)
    quantized = quantize_dynamic(module, settled)
    torch.jit.save(freeze(quantized, (case.inputs(2),)), str(tmp_path / "int8.pt"))
    loaded = torch.jit.load(tmp_path / "int8.pt")
    assert case.becomes in quantized_layers(quantized)
    assert settled.float_layers == {}
    for samples in (1, 2, 64):
        inputs = case.inputs(samples)
        with torch.no_grad():
            assert torch.equal(loaded(inputs)[0], quantized(inputs)[0])
    with torch.no_grad():
        reached = sqnr_db(module(inputs)[0], quantized(inputs)[0])
    assert reached > case.floor_db - (0 if has_vnni() else SEVEN_BIT_COST_DB)


@pytest.mark.parametrize("name", ["linear", "lstm, no bias", "gru", "lstm cell", "gru cell", "rnn cell, relu"])
def test_float16_loses_next_to_nothing(name: str) -> None:
    """11 bits of mantissa: each weight is off by at most 2⁻¹¹, 66 dB below it."""
    case = LAYERS[name]
    torch.manual_seed(0)
    module = raised(spread_rows(case.module()), case.inputs(3))
    settled = settled_plan(module, precision="float16")
    quantized = quantize_dynamic(module, settled)
    frozen = freeze(quantized, (case.inputs(2),))
    inputs = case.inputs(64)
    assert settled.float16_layers == settled.int8_layers
    with torch.no_grad():
        assert sqnr_db(module(inputs)[0], quantized(inputs)[0]) > 60
        assert torch.equal(frozen(inputs)[0], quantized(inputs)[0])


def test_float16_leaves_tables_in_float_and_an_override_puts_one_in_int8() -> None:
    module = raised(Tied(), tokens(3))
    settled = settled_plan(module, precision="float16")
    assert "no float16 kernel for tables" in settled.float_layers["embedding"]
    assert settled.int8_layers == settled.float16_layers == {"head"}
    mixed = settled_plan(module, precision="float16", overrides=[{"layer": "embedding", "precision": "int8"}])
    assert mixed.int8_layers == {"embedding", "head"}
    assert mixed.float16_layers == {"head"}
    assert "Embedding" in quantized_layers(quantize_dynamic(module, mixed))


# --- what the weights become -----------------------------------------------------------------------------------------


def test_the_last_override_that_matches_decides() -> None:
    module = raised(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)), torch.randn(3, 8))
    overrides = [
        {"op": "Linear"},
        {"layer": "2", "weight": {"observer": "minmax"}},
        {"layer": "0", "precision": "int8"},
    ]
    quantized = quantize_dynamic(module, settled_plan(module, overrides=overrides))
    assert quantized.get_submodule("0").weight().qscheme() is torch.per_channel_affine
    assert quantized.get_submodule("2").weight().qscheme() is torch.per_tensor_affine
    back = settled_plan(module, overrides=[*overrides, {"layer": "0"}])
    assert back.int8_layers == {"2"}
    assert back.float_layers == {"0": "overridden: layer 0"}


@pytest.mark.parametrize(
    "qscheme", ["per_channel_symmetric", "per_tensor_symmetric", "per_channel_affine", "per_tensor_affine"]
)
def test_every_qscheme_of_weights_runs_and_is_as_asked(qscheme: str) -> None:
    """Weights with a mean far from zero: an affine scheme has a zero point, and twice the resolution."""
    torch.manual_seed(0)
    linear = nn.Linear(64, 64)
    with torch.no_grad():
        linear.weight.copy_(torch.rand(64, 64))
    module, x = raised(nn.Sequential(linear), torch.randn(3, 64)), torch.randn(64, 64)
    settled = settled_plan(module, overrides=[{"layer": "0", "weight": {"qscheme": qscheme}}])
    quantized = quantize_dynamic(module, settled)
    weight = quantized.get_submodule("0").weight()
    per_channel, affine = "per_channel" in qscheme, "affine" in qscheme
    assert weight.is_quantized
    assert (weight.qscheme() is torch.per_channel_affine) == per_channel  # torch calls both affine
    zero_points = weight.q_per_channel_zero_points() if per_channel else torch.tensor(weight.q_zero_point())
    assert bool(zero_points.any()) == affine
    with torch.no_grad():
        assert sqnr_db(module(x)[0], quantized(x)[0]) > 30


def test_limits_of_weights_are_kept() -> None:
    module = raised(nn.Sequential(nn.Linear(16, 16)), torch.randn(3, 16))
    settled = settled_plan(module, weight={"quant_min": -8, "quant_max": 7})
    values = quantize_dynamic(module, settled).get_submodule("0").weight().int_repr()
    assert values.min() >= -8
    assert values.max() == 7


def test_activations_have_eight_bits_where_the_cpu_holds_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """5 dB in theory, from 127 to 255 steps: about 4 measured, for the weights err too."""
    torch.manual_seed(0)
    module, x = raised(nn.Sequential(nn.Linear(256, 256)), torch.randn(3, 256)), torch.randn(64, 256)
    reached = {}
    for vnni in (True, False):
        monkeypatch.setattr(dynamic_planning, "has_vnni", lambda vnni=vnni: vnni)
        settled = choose_dynamic_plan(module, spec())
        assert settled.resolved()["plan"]["reduce_range"] is not vnni
        reached[vnni] = sqnr_db(module(x)[0], quantize_dynamic(module, settled)(x)[0])
    assert reached[True] > reached[False] + 3 or not has_vnni()


@pytest.mark.parametrize("name", ["lstm cell", "rnn cell, tanh"])
def test_a_cell_that_is_called_often_is_stored_once(name: str, tmp_path: Path) -> None:
    width = 128
    cell = {"lstm cell": nn.LSTMCell, "rnn cell, tanh": nn.RNNCell}[name](width, width)
    module = raised(Unrolled(cell), torch.randn(3, 5, width))
    quantized = quantize_dynamic(module, settled_plan(module))
    torch.jit.save(freeze(quantized, (torch.randn(2, 5, width),)), str(tmp_path / "int8.pt"))
    weight_bytes = sum(weight.numel() for weight in cell.parameters() if weight.dim() == 2)
    assert weight_bytes < (tmp_path / "int8.pt").stat().st_size < 2 * weight_bytes


def test_the_float_model_is_left_as_it_was() -> None:
    module = raised(Unrolled(nn.LSTMCell(8, 8, bias=False)), torch.randn(3, 5, 8))
    x = torch.randn(4, 5, 8)
    before = module(x)[0]
    quantize_dynamic(module, settled_plan(module))
    assert torch.equal(module(x)[0], before)
    assert not any("bias" in name for name, _ in module.named_parameters())


# --- bags ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("padding", [None, 2])
@pytest.mark.parametrize("last_offset", [False, True])
def test_bags_of_any_length_are_what_torch_gives(mode: str, padding: int | None, last_offset: bool) -> None:
    """Empty ones too, and one that holds nothing but padding, whose row is not zero."""
    torch.manual_seed(0)
    bag = nn.EmbeddingBag(9, 8, mode=mode, include_last_offset=last_offset)
    bag.padding_idx = padding
    holder = QuantizedBag(bag)
    indices = torch.tensor([1, 2, 3, 2, 2, 8, 7, 2])
    offsets = torch.tensor([0, 3, 3, 5, *([8] if last_offset else [])])
    with torch.no_grad():
        assert torch.allclose(holder(indices, offsets), bag(indices, offsets), atol=0.05)  # rows err by 1/255 of 5
        if mode == "sum":
            weights = torch.rand(8)
            wanted = bag(indices, offsets, weights)
            assert torch.allclose(holder(indices.int(), offsets.int(), weights), wanted, atol=0.05)


@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_static_quantizes_bags_too_and_not_as_sums(mode: str) -> None:
    """FX took a mean for a sum: −1 dB. Floor 4 dB below what was measured."""
    torch.manual_seed(0)
    module = raised(nn.Sequential(nn.EmbeddingBag(50, WIDTH, mode=mode), nn.Linear(WIDTH, 8), nn.ReLU()), tokens(3))
    asked = spec_adapter.validate_python({"method": "static", "model": MODEL, "calibration": "dst_0123456789abcdef"})
    settled = plan(module, asked)
    prepared = prepare(module, settled, (tokens(2),))
    inputs = tokens(64)
    prepared(inputs)
    converted = convert(prepared, settled)
    assert "QuantizedBag" in quantized_layers(converted)
    with torch.no_grad():
        assert sqnr_db(module(inputs)[0], converted(inputs)[0]) > 36


def test_a_maximum_over_a_bag_stays_in_float() -> None:
    module = raised(nn.Sequential(nn.EmbeddingBag(50, 8, mode="max"), nn.Linear(8, 4)), tokens(3))
    settled = settled_plan(module)
    assert settled.int8_layers == {"1"}
    assert "maximum" in settled.float_layers["0"]


# --- what stays in float, and what is refused ------------------------------------------------------------------------


def test_rnn_and_convolutions_stay_in_float_with_their_reasons() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(4, 8, 3)
            self.rnn = nn.RNN(8, 8, batch_first=True)
            self.fc = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.rnn(self.conv(x).transpose(1, 2))[0][:, -1])

    settled = settled_plan(raised(Mixed(), torch.randn(3, 4, 10)))
    assert settled.int8_layers == {"fc"}
    assert "use method static" in settled.float_layers["conv"]
    assert "none for nn.RNN" in settled.float_layers["rnn"]
    conv, rnn, fc = 8 * 8 * 4 * 3, 8 * (64 + 64), 8 * 4  # one sample: 8 steps of 8 channels
    assert settled.float_macs_share == pytest.approx((conv + rnn) / (conv + rnn + fc))
    assert settled.convolution_macs_share == pytest.approx(conv / (conv + rnn + fc))
    assert settled.resolved()["plan"]["float_macs_share"] == settled.float_macs_share


@pytest.mark.parametrize(("override", "message"), [
    ({"layer": "fc", "activation": {"observer": "minmax"}}, r"overrides\[0\]\.activation has nothing to set"),
    ({"layer": "conv", "precision": "int8"}, "use method static"),
    ({"layer": "fc", "weight": {"observer": "minmax", "qscheme": "per_channel_affine"}}, "contradict"),
    ({"layer": "fc", "weight": {"quant_min": 127}}, "not below"),
    ({"layer": "fd"}, "Near it: fc"),
])  # fmt: skip
def test_what_dynamic_cannot_do_is_refused(override: dict[str, Any], message: str) -> None:
    class Net2(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(4, 8, 3)
            self.fc = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.conv(x).mean(-1))

    module = raised(Net2(), torch.randn(3, 4, 10))
    with pytest.raises(SpecInvalid, match=message):
        plan(module, spec(overrides=[override]))


def test_nothing_but_convolutions_is_for_static() -> None:
    with pytest.raises(NothingToQuantize, match="use method static"):
        plan(raised(nn.Sequential(nn.Conv1d(4, 8, 3)), torch.randn(3, 4, 10)), spec())


def test_float16_needs_kernels_that_this_torch_may_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    module = raised(nn.Sequential(nn.Linear(8, 8)), torch.randn(3, 8))
    monkeypatch.setattr(torch.backends, "quantized", SimpleNamespace(supported_engines=["qnnpack"]))
    with pytest.raises(SpecInvalid, match="float16"):
        choose_dynamic_plan(module, spec(precision="float16"))


def test_a_kernel_that_computes_something_else_is_found_and_left_in_float(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel of bags sums where a mean is asked: without what is done around it, the layer must not be offered."""
    torch.manual_seed(0)
    module = raised(nn.Sequential(nn.EmbeddingBag(50, 8), nn.Linear(8, 4)), tokens(3))
    chosen = choose_dynamic_plan(module, spec())
    monkeypatch.setattr(QuantizedBag, "forward", lambda self, indices, offsets, _=None: self.rows(indices, offsets))
    tried = without_wrong_kernels(module, chosen, (tokens(2),))
    assert tried.int8_layers == {"1"}
    assert "kernel is wrong" in tried.float_layers["0"]


def test_a_kernel_that_fails_leaves_its_layer_in_float(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("no such kernel\nbecause")

    torch.manual_seed(0)
    module = raised(nn.Sequential(nn.EmbeddingBag(50, 8), nn.Linear(8, 4)), tokens(3))
    monkeypatch.setattr(QuantizedBag, "forward", refuse)
    tried = without_wrong_kernels(module, choose_dynamic_plan(module, spec()), (tokens(2),))
    assert tried.float_layers["0"] == "its int8 form fails: no such kernel"


def test_a_linear_whose_products_cancel_out_is_not_called_wrong() -> None:
    """It errs by more than its output, which is next to nothing: so it was with made-up integers, all of them one."""
    torch.manual_seed(0)
    linear = nn.Linear(32, 1)
    with torch.no_grad():
        linear.weight.sub_(linear.weight.mean() - 1e-6)
        linear.bias.zero_()
    inputs = torch.ones(4, 32) + 1e-3 * torch.randn(4, 32)
    module = raised(nn.Sequential(linear), inputs)
    chosen = choose_dynamic_plan(module, spec())
    wanted, found = linear(inputs), quantize_dynamic(module, chosen)(inputs)[0]
    assert (wanted - found).norm() > wanted.norm()
    assert without_wrong_kernels(module, chosen, (inputs,)) == chosen
