"""The mean error of each channel goes into the bias, and can be taken out again."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn

from tests.unit.worker.quantization.test_planning import sqnr_db
from tests.unit.worker.quantization.test_preparing import calibrated
from worker.quantization import Plan, bias_corrections, convert, correct_biases, has_corrected_biases, simulate
from worker.quantization.float_reasons import FloatReason

#: A tenth of all values is beyond the range at either end: they are clipped, and the mean moves.
CLIPPING = {"observer": "percentile", "percentile": 90}


class Clipped(nn.Module):
    """A convolution with a bias, one without, one that is fused with its activation, and a Linear."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
        self.plain = nn.Conv2d(8, 8, 3, bias=False)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.sigmoid(self.plain(self.stem(x))).amax((2, 3)))


LAYERS = ("stem.0", "plain", "head")
Case = tuple[fx.GraphModule, fx.GraphModule, Plan, Tensor]


@pytest.fixture
def case() -> Case:
    x = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(1)).exp()  # all positive, with a long tail
    return *calibrated(Clipped(), x, activation=CLIPPING), x


def biases(prepared: fx.GraphModule) -> dict[str, Tensor | None]:
    found = {}
    for layer in LAYERS:
        module = prepared.get_submodule(layer)
        bias = (module[0] if isinstance(module, nn.Sequential) else module).bias
        found[layer] = None if bias is None else bias.detach().clone()
    return found


def float_outputs(prepared: fx.GraphModule, settled: Plan, x: Tensor) -> dict[str, Tensor]:
    """What every layer gives before its activation, in float."""
    found: dict[str, Tensor] = {}

    def meet(node: fx.Node, reference: Tensor, int8: Tensor) -> Tensor:
        found[str(node.target)] = reference
        return int8

    simulate(prepared, settled).amend(x, meet=meet)
    return found


def shifts(prepared: fx.GraphModule, settled: Plan, wanted: dict[str, Tensor], x: Tensor) -> dict[str, float]:
    """By how much the mean of a channel is off at most, of every layer."""
    found: dict[str, float] = {}

    def meet(node: fx.Node, _: Tensor, int8: Tensor) -> Tensor:
        difference = int8 - wanted[str(node.target)]
        channels = difference.movedim(1, -1) if difference.dim() == 4 else difference
        found[str(node.target)] = float(channels.flatten(0, -2).mean(0).abs().max())
        return int8

    simulate(prepared, settled).amend(x, meet=meet)
    return found


@torch.no_grad()
def test_the_mean_shift_of_every_channel_is_gone_on_the_data_that_it_was_measured_on(case: Case) -> None:
    """A tenth is left at most: of what went in, nothing but the rounding of sums."""
    _, prepared, settled, x = case
    wanted = float_outputs(prepared, settled, x)
    before = shifts(prepared, settled, wanted, x)
    assert min(before.values()) > 1e-3
    correct_biases(prepared, bias_corrections(prepared, settled, [(x,)]))
    after = shifts(prepared, settled, wanted, x)
    assert all(after[layer] < before[layer] / 10 for layer in LAYERS)


@torch.no_grad()
def test_over_several_batches_it_is_their_mean(case: Case) -> None:
    """A first layer's shift depends on no other's: that of halves is that of the whole."""
    _, prepared, settled, x = case
    whole = bias_corrections(prepared, settled, [(x,)])
    halves = bias_corrections(prepared, settled, [(half,) for half in x.chunk(4)])
    assert torch.allclose(halves["stem.0"], whole["stem.0"], atol=1e-5)
    assert {layer: shift.shape for layer, shift in whole.items()} == {"stem.0": (8,), "plain": (8,), "head": (5,)}


@torch.no_grad()
def test_the_kernels_take_the_corrections_and_come_nearer_to_float(case: Case) -> None:
    """A layer without a bias has one then."""
    model, prepared, settled, x = case
    wanted = model(x)[0]
    plain_db = sqnr_db(wanted, convert(prepared, settled)(x)[0])
    correct_biases(prepared, bias_corrections(prepared, settled, [(x,)]))
    corrected = convert(prepared, settled)
    assert sqnr_db(wanted, corrected(x)[0]) > plain_db + 1
    assert corrected.get_submodule("plain").bias() is not None
    simulated = simulate(prepared, settled).run(x)[0]
    assert sqnr_db(wanted, corrected(x)[0]) == pytest.approx(sqnr_db(wanted, simulated), abs=0.5)


@torch.no_grad()
def test_measuring_changes_nothing_and_restoring_gives_back_every_bit(case: Case) -> None:
    _, prepared, settled, x = case
    before, output = biases(prepared), simulate(prepared, settled).run(x)[0]
    corrections = bias_corrections(prepared, settled, [(x,)])
    assert _equal(biases(prepared), before)
    kept = correct_biases(prepared, corrections)
    assert not _equal(biases(prepared), before)
    kept.restore()
    assert _equal(biases(prepared), before)
    assert torch.equal(simulate(prepared, settled).run(x)[0], output)


@torch.no_grad()
def test_a_layer_that_goes_to_float_has_its_own_bias_again(case: Case) -> None:
    """The correction was measured for int8: in float it would be the error. With all in float none is left."""
    model, prepared, settled, x = case
    before = biases(prepared)
    correct_biases(prepared, bias_corrections(prepared, settled, [(x,)]))
    assert torch.allclose(simulate(prepared, settled).run(x, int8=())[0], model(x)[0], atol=1e-5)

    without = settled.without("head", FloatReason("spared", "tried")).without("plain", FloatReason("spared", "tried"))
    converted = convert(prepared, without)
    for layer in ("plain", "head"):
        bias, expected = converted.get_submodule(layer).bias, before[layer]
        assert bias is None if expected is None else torch.equal(bias, expected)
    wanted = model(x)[0]
    simulated = simulate(prepared, without).run(x)[0]
    assert sqnr_db(wanted, converted(x)[0]) == pytest.approx(sqnr_db(wanted, simulated), abs=0.5)


@torch.no_grad()
def test_where_a_layer_is_not_rounded_there_are_corrections_of_their_own(case: Case) -> None:
    """A range that is wide for most of its channels: what rounding does to them, the head was corrected for."""
    _, prepared, settled, x = case
    unrounded = simulate(prepared, settled).layers_before({torch.sigmoid})
    assert unrounded == {"plain"}
    assert simulate(prepared, settled).layers_before({torch.tanh}) == frozenset()
    assert not has_corrected_biases(prepared)
    correct_biases(prepared, bias_corrections(prepared, settled, [(x,)]))
    assert has_corrected_biases(prepared)

    found: dict[str, Tensor] = {}

    def meet(node: fx.Node, reference: Tensor, int8: Tensor) -> Tensor:
        found[str(node.target)] = (reference - int8).mean([at for at in range(int8.dim()) if at != 1])
        return int8

    simulate(prepared, settled, unrounded).amend(x, meet=meet)
    more = bias_corrections(prepared, settled, [(x,)], unrounded=unrounded)
    assert torch.allclose(more["stem.0"], torch.zeros(8), atol=1e-6), "nothing before it is another"
    assert torch.allclose(more["head"], found["head"], atol=1e-6)
    assert more["head"].abs().max() > 1e-4
    rounded = simulate(prepared, settled).run(x)[0]
    assert not torch.equal(simulate(prepared, settled, unrounded).run(x)[0], rounded)


@torch.no_grad()
def test_layers_in_float_and_tables_are_not_corrected() -> None:
    torch.manual_seed(0)
    words = torch.randint(10, (16, 4))
    module = nn.Sequential(nn.Embedding(10, 16), nn.Linear(16, 64), nn.Linear(64, 64))
    _, prepared, settled = calibrated(module, words, activation=CLIPPING)
    assert "0" in settled.int8_layers
    assert set(bias_corrections(prepared, settled, [(words,)])) == {"1", "2"}
    assert set(bias_corrections(prepared, settled.without("2", FloatReason("spared", "tried")), [(words,)])) == {"1"}


def _equal(one: dict[str, Tensor | None], other: dict[str, Tensor | None]) -> bool:
    return all(
        other[layer] is None if bias is None else other[layer] is not None and torch.equal(bias, other[layer])
        for layer, bias in one.items()
    )
