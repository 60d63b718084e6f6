"""Weights that a program computes from its own tensors become tensors, and the layers that take them modules."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812 - its name everywhere
from torch.nn.utils import parametrizations, parametrize, spectral_norm, weight_norm

from tests.unit.worker.quantization.test_raising import exported, raised_and_verified
from worker.quantization import raise_program

ROW, IMAGE = (8,), (4, 8, 8)


class Symmetric(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.triu() + x.triu(1).transpose(-1, -2)


class Standardized(nn.Conv2d):
    """A convolution whose `forward` standardizes its weight."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight / weight.std((1, 2, 3), keepdim=True), self.bias)


class Adapted(nn.Linear):
    """A Linear with a product of two narrow matrices added to its weight."""

    def __init__(self) -> None:
        super().__init__(8, 8)
        self.down, self.up = nn.Parameter(torch.randn(2, 8)), nn.Parameter(torch.randn(8, 2))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight + self.up @ self.down, self.bias)


class Holding(nn.Module):
    """A network of one layer, named `layer`, and an activation."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.layer(x))


def symmetric() -> nn.Module:
    layer = nn.Linear(8, 8)
    parametrize.register_parametrization(layer, "weight", Symmetric())
    return layer


COMPUTED: dict[str, tuple[Callable[[], nn.Module], type[nn.Module]]] = {
    "weight norm": (lambda: parametrizations.weight_norm(nn.Conv2d(4, 6, 3)), nn.Conv2d),
    "older weight norm": (lambda: weight_norm(nn.Linear(8, 6)), nn.Linear),
    "spectral norm": (lambda: parametrizations.spectral_norm(nn.Conv2d(4, 6, 3)), nn.Conv2d),
    "older spectral norm": (lambda: spectral_norm(nn.Linear(8, 6)), nn.Linear),
    "orthogonal": (lambda: parametrizations.orthogonal(nn.Linear(8, 6)), nn.Linear),
    "a parametrization of one's own": (symmetric, nn.Linear),
    "standardized in forward": (lambda: Standardized(4, 6, 3), nn.Conv2d),
    "an adapter": (Adapted, nn.Linear),
}  # fmt: skip


@pytest.mark.parametrize("name", COMPUTED)
def test_a_layer_with_a_computed_weight_becomes_a_plain_one_under_its_own_name(name: str) -> None:
    make, kind = COMPUTED[name]
    torch.manual_seed(0)
    raised = raised_and_verified(exported(Holding(make()), IMAGE if kind is nn.Conv2d else ROW))
    assert [str(node.target) for node in raised.graph.nodes if node.op == "call_module"] == ["layer"]
    layer = raised.get_submodule("layer")
    assert type(layer) is kind
    assert {each for each, _ in raised.named_parameters()} == {"layer.weight", "layer.bias"}, "the originals are gone"
    assert all(parameter.requires_grad for parameter in layer.parameters()), "QAT trains it"


class Twice(nn.Module):
    """One computed weight that two layers share, while one layer takes what it was computed from."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        halved = self.layer.weight / 2
        found: Tensor = self.layer(F.linear(F.linear(x, halved), halved))
        return found


def test_a_shared_computed_weight_stays_one_and_what_it_was_computed_from_stays_where_it_is_read() -> None:
    raised = raised_and_verified(exported(Twice(), ROW))
    weights = [raised.get_submodule(str(node.target)).weight for node in calls(raised)]
    assert weights[0] is weights[1]
    assert weights[2] is not weights[0]
    assert "layer" in {str(node.target) for node in calls(raised)}


class Noisy(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight + torch.rand_like(self.weight))


class Conditioned(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * x.mean())


class Blown(nn.Module):
    """A matrix of one number: the file would grow by four million."""

    def __init__(self) -> None:
        super().__init__()
        self.number = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.number.expand(2**19, 8))


@pytest.mark.parametrize("module", [Noisy(8, 8), Conditioned(8, 8), Blown()])
def test_what_is_random_or_depends_on_an_input_or_grows_without_measure_stays_computed(module: nn.Module) -> None:
    raised = raise_program(exported(module, ROW))
    assert not calls(raised)
    assert sum(tensor.numel() for tensor in (*raised.parameters(), *raised.buffers())) <= 64


class Positions(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.arange(8).float().sqrt()


def test_a_constant_that_is_no_weight_stays_computed() -> None:
    raised = raised_and_verified(exported(Positions(), ROW))
    assert not list(raised.buffers())


def calls(raised: fx.GraphModule) -> list[fx.Node]:
    return [node for node in raised.graph.nodes if node.op == "call_module"]
