"""Cross-layer equalization: the same function with more equal channels, and nothing where it does not apply."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from tests.unit.worker.quantization.test_planning import raised
from tests.unit.worker.quantization.transforms import assert_same, static_sqnr_db
from tests.zoo.models import FAMILIES, Family
from worker.quantization.equalizing import equalize

#: What equalization was made for.
PER_TENSOR = {"observer": "minmax"}


def unbalance(writer: nn.Module, reader: nn.Module, channel: int, factor: float) -> None:
    """Make one channel `factor` times as large, without changing what the network computes."""
    with torch.no_grad():
        writer.weight[channel] *= factor  # type: ignore[operator, index]
        writer.bias[channel] *= factor  # type: ignore[operator, index]
        column = reader.weight[:, channel] if reader.weight.shape[1] > 1 else reader.weight[channel]  # type: ignore[index, union-attr]
        column /= factor  # type: ignore[operator]


class Between(nn.Module):
    """A convolution, something, and a convolution or Linear that reads it."""

    def __init__(self, between: Callable[[Tensor], Tensor], reader: nn.Module, writer: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.writer = writer or nn.Conv2d(3, 6, 3)
        self.between = between
        self.reader = reader

    def forward(self, x: Tensor) -> Tensor:
        return self.reader(self.between(self.writer(x)))


POINTWISE = lambda: nn.Conv2d(6, 4, 1)  # noqa: E731 - a table of constructors
FOLLOWED = {
    "nothing": (lambda x: x, POINTWISE),
    "relu": (F.relu, POINTWISE),
    "leaky relu": (lambda x: F.leaky_relu(x, 0.2), POINTWISE),
    "prelu": (nn.PReLU(6), POINTWISE),
    "dropout": (nn.Dropout(), POINTWISE),
    "max pool": (lambda x: F.max_pool2d(x, 2), POINTWISE),
    "average pool": (lambda x: F.avg_pool2d(F.relu(x), 2, padding=1), POINTWISE),
    "padding": (lambda x: F.pad(x, (1, 2, 0, 1)), POINTWISE),
    "upsampling": (lambda x: F.interpolate(x, scale_factor=2.0, mode="nearest"), POINTWISE),
    "a slice of rows": (lambda x: x[:, :, 1:3], POINTWISE),
    "flatten": (lambda x: F.max_pool2d(F.relu(x), 3).flatten(1), lambda: nn.Linear(24, 4)),
    "view": (lambda x: x[..., 0].reshape(x.shape[0], -1), lambda: nn.Linear(36, 4)),
    "global average": (lambda x: F.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1), lambda: nn.Linear(6, 4)),
    "mean": (lambda x: x.mean((2, 3)), lambda: nn.Linear(6, 4)),
    "mean that keeps axes": (lambda x: x.mean((2, 3), keepdim=True), POINTWISE),
    "maximum": (lambda x: x.amax((2, 3)), lambda: nn.Linear(6, 4)),
    "channels last": (lambda x: x.permute(0, 2, 3, 1), lambda: nn.Linear(6, 4)),
    "tokens": (lambda x: x.flatten(2).transpose(1, 2)[:, 0], lambda: nn.Linear(6, 4)),
    "windows": (
        lambda x: torch.roll(x, (1, 1), (2, 3)).view(-1, 6, 2, 3, 2, 3).permute(0, 2, 4, 3, 5, 1),
        lambda: nn.Linear(6, 4),
    ),
    "depthwise": (F.relu, lambda: nn.Conv2d(6, 6, 3, groups=6)),
    "grouped": (F.relu, lambda: nn.Conv2d(6, 4, 3, groups=2)),
    "transposed": (F.relu, lambda: nn.ConvTranspose2d(6, 4, 2)),
    "transposed, grouped": (F.relu, lambda: nn.ConvTranspose2d(6, 4, 2, groups=2)),
}  # fmt: skip
NOT_FOLLOWED = {
    "relu6": (F.relu6, POINTWISE),
    "hardswish": (F.hardswish, POINTWISE),
    "silu": (F.silu, POINTWISE),
    "gelu": (F.gelu, POINTWISE),
    "elu": (F.elu, POINTWISE),
    "a constant": (lambda x: x + 1, POINTWISE),
    "padding with ones": (lambda x: F.pad(x, (1, 1), value=1.0), POINTWISE),
    "a residual connection": (lambda x: x + F.relu(x), POINTWISE),
    "padding of channels": (lambda x: F.pad(x, (0, 0, 0, 0, 1, 1)), lambda: nn.Conv2d(8, 4, 1)),
    "fewer channels": (lambda x: torch.cat([x[:, :3], x[:, :3]], 1), POINTWISE),
    "shuffled channels": (lambda x: F.channel_shuffle(x, 2), POINTWISE),
    "mean over channels": (lambda x: x.mean(1, keepdim=True).expand(-1, 6, -1, -1), POINTWISE),
    "a Linear over the width": (lambda x: x, lambda: nn.Linear(6, 4)),
    "channels taken apart": (lambda x: x.unflatten(1, (2, 3)).transpose(1, 2).flatten(1, 2), POINTWISE),
}


@pytest.mark.parametrize("case", FOLLOWED)
def test_channels_are_equalized_across(case: str) -> None:
    """The function is the same, and of a channel a thousand times as large the reader takes the square root over."""
    between, reader = FOLLOWED[case]
    network = Between(between, reader())
    x = torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        network.writer.weight[1] *= 1000
    module = raised(network, x)
    with torch.no_grad():
        wanted = module(x)
        equalized = equalize(module)
        assert_same(equalized.module(x), wanted)
        assert_same(equalized.module(x[:1]), tuple(output[: len(output) // 3] for output in wanted))
    assert equalized.pairs == (("writer", "reader"),)
    assert spread(equalized.module.get_submodule("writer")) < spread(module.get_submodule("writer")) / 10


@pytest.mark.parametrize("case", NOT_FOLLOWED)
def test_nothing_is_equalized_across(case: str) -> None:
    between, reader = NOT_FOLLOWED[case]
    x = torch.randn(3, 3, 8, 8)
    module = raised(Between(between, reader()), x)
    equalized = equalize(module)
    assert equalized.pairs == ()
    assert set(map(id, equalized.module.parameters())) == set(map(id, module.parameters()))


def spread(module: nn.Module) -> float:
    """The greatest channel's range over the least's."""
    ranges = module.get_parameter("weight").detach().flatten(1).abs().amax(1)
    return float(ranges.max() / ranges.min())


@pytest.mark.parametrize(
    "family", [family for family in FAMILIES if family.name not in ("lstm", "gru", "bert")], ids=lambda f: f.name
)
def test_the_zoo_computes_what_it_computed(family: Family) -> None:
    inputs = family.make_inputs(4, torch.Generator().manual_seed(3))
    network = family.build().train()
    network(*inputs)  # batch norm has statistics of its own now
    module = raised(network, *inputs)
    before = {name: parameter.clone() for name, parameter in module.named_parameters()}
    equalized = equalize(module)
    with torch.no_grad():
        assert_same(equalized.module(*inputs), module(*inputs))
    assert all(torch.equal(parameter, before[name]) for name, parameter in module.named_parameters())
    assert [node.meta["layer"] for node in equalized.module.graph.nodes if node.op != "output"] == [
        node.meta["layer"] for node in module.graph.nodes if node.op != "output"
    ]


EXPECTED_PAIRS = {
    "plain_cnn": {("0", "4"), ("4", "10")},
    "residual_shared_relu": {("conv1", "conv2")},
    "channel_shuffle": {("branch.0", "branch.3"), ("branch.3", "branch.5")},
    "encoder_decoder": {("bottom.0", "up")},
    "two_outputs": {("body.0", "classes"), ("body.0", "box")},
    "depthwise_relu6_hardswish": set(),
    "reused_convolution": set(),
    "tied_weights": set(),
}


@pytest.mark.parametrize("name", EXPECTED_PAIRS)
def test_the_pairs_of_the_zoo(name: str) -> None:
    """Batch norm belongs to its convolution; a layer that is called twice, and its neighbours, are left alone."""
    (family,) = (family for family in FAMILIES if family.name == name)
    inputs = family.make_inputs(2, torch.Generator().manual_seed(3))
    assert set(equalize(raised(family.build(), *inputs)).pairs) == EXPECTED_PAIRS[name]


class Separable(nn.Module):
    """Pointwise, depthwise, pointwise, with batch norm: what the paper's triples are for."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.expand = nn.Sequential(nn.Conv2d(3, 16, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.depthwise = nn.Sequential(nn.Conv2d(16, 16, 3, groups=16, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.project = nn.Conv2d(16, 8, 1)
        self(torch.randn(64, 3, 8, 8))  # in training mode: batch norm has statistics of its own now

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.depthwise(self.expand(x)))


def test_a_depthwise_triple_ends_at_the_formula_of_the_paper() -> None:
    """After r₁/s₁ = r₂·s₁/s₂ = r₃·s₂, all three ranges of a channel are (r₁·r₂·r₃)^⅓."""
    network = Separable()
    x = torch.randn(8, 3, 8, 8)
    module = raised(network, x)
    ranges = folded_ranges(module)
    equalized = folded_ranges(equalize(module).module)
    wanted = torch.stack(ranges).log().mean(0).exp()
    for found in equalized:
        torch.testing.assert_close(found, wanted, rtol=0.03, atol=0)  # it stops when no scale moves by 1 %


def folded_ranges(module: fx.GraphModule) -> list[Tensor]:
    """Per channel: what writes it, the depthwise convolution, what reads it; batch norm folded."""

    def gain(norm: nn.Module) -> Tensor:
        return (norm.weight / (norm.running_var + norm.eps).sqrt()).abs().detach()  # type: ignore[operator, union-attr]

    first, middle, last = (
        module.get_submodule(name).get_parameter("weight").detach().abs()
        for name in ("expand.0", "depthwise.0", "project")
    )
    return [
        first.flatten(1).amax(1) * gain(module.get_submodule("expand.1")),
        middle.flatten(1).amax(1) * gain(module.get_submodule("depthwise.1")),
        last.amax((0, 2, 3)),
    ]


@pytest.mark.parametrize("factor", [100.0, 0.01])
def test_int8_recovers_from_unequal_channels(factor: float) -> None:
    """Channels 100 times apart cost a per-tensor int8 model nearly all it has; equalization gives it back."""
    network = Separable().eval()
    x = torch.randn(64, 3, 8, 8)
    balanced = static_sqnr_db(raised(network, x), x, weight=PER_TENSOR)
    for channel in (1, 7, 9):
        unbalance(network.expand[1], network.depthwise[0], channel, factor)
        unbalance(network.depthwise[1], network.project, 15 - channel, factor)
    module = raised(network, x)
    broken, recovered = (
        static_sqnr_db(module, x, weight=PER_TENSOR),
        static_sqnr_db(equalize(module).module, x, weight=PER_TENSOR),
    )
    assert broken < balanced - 8
    assert recovered > balanced - 1


def test_dead_channels_and_great_biases_do_no_harm() -> None:
    """A channel without weights keeps its scale, and no bias becomes the one that sets the range."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    with torch.no_grad():
        network[0].weight[0] = 0.0  # type: ignore[operator, index] # writes nothing but its bias
        network[2].weight[:, 1] = 0.0  # type: ignore[operator, index] # is not read
        network[0].weight[2] *= 1e-7  # type: ignore[operator, index] # all but dead, with the bias it had
    x = torch.randn(4, 3, 8, 8)
    module = raised(network, x)
    equalized = equalize(module).module
    with torch.no_grad():
        assert_same(equalized(x), module(x))
    before, after = (m.get_submodule("0").get_parameter("bias").detach().abs() for m in (module, equalized))
    assert after.max() <= before.max() * 1.0001
    assert after[0] == before[0]
    assert after[1] == before[1]


def test_what_is_not_changed_is_shared_and_gradients_stay_as_asked() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.GELU(), nn.Conv2d(4, 4, 1))
    network[0].weight.requires_grad_(False)  # type: ignore[operator, union-attr]
    module = raised(network, torch.randn(2, 3, 8, 8))
    equalized = equalize(module).module
    assert equalized.get_parameter("4.weight") is module.get_parameter("4.weight")
    assert equalized.get_parameter("2.bias") is module.get_parameter("2.bias")
    wanted = {name: parameter.requires_grad for name, parameter in module.named_parameters()}
    assert {name: parameter.requires_grad for name, parameter in equalized.named_parameters()} == wanted
    assert not wanted["0.weight"]
    assert wanted["2.weight"]


def test_equalizing_twice_changes_next_to_nothing() -> None:
    module = raised(copy.deepcopy(Separable()), torch.randn(2, 3, 8, 8))
    once = equalize(module).module
    twice = equalize(once).module
    for name, parameter in once.named_parameters():
        torch.testing.assert_close(twice.get_parameter(name), parameter, rtol=0.02, atol=1e-6)
