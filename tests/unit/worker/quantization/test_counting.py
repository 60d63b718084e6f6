"""Multiply-accumulates: half of the operations that torch's own counter finds, and the formulas where it has none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional as F  # noqa: N812 - its name everywhere
from torch.utils.flop_counter import FlopCounterMode

from worker.quantization import raise_program
from worker.quantization.counting import depthwise_elements, float_share, layer_macs

SAMPLES = 3


class Lambda(nn.Module):
    def __init__(self, function: Callable[..., Any], *modules: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.layers = nn.ModuleList(modules)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.layers)


def attention(x: Tensor) -> Tensor:
    heads = x.reshape(-1, 5, 2, 4).transpose(1, 2)
    return F.scaled_dot_product_attention(heads, heads[:, :, :3], heads[:, :, :3])


COUNTED = {
    "linear": (nn.Linear(8, 5), (8,)),
    "linear on steps": (nn.Linear(8, 5), (7, 8)),
    "conv1d": (nn.Conv1d(4, 6, 3, stride=2), (4, 11)),
    "conv2d, grouped and dilated": (nn.Conv2d(4, 6, 3, dilation=2, groups=2, padding=1), (4, 9, 9)),
    "conv2d, depthwise": (nn.Conv2d(4, 4, 3, groups=4), (4, 9, 9)),
    "conv3d": (nn.Conv3d(2, 3, 2), (2, 4, 4, 4)),
    "conv_transpose1d": (nn.ConvTranspose1d(4, 6, 3, stride=2), (4, 9)),
    "conv_transpose2d": (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1), (4, 5, 6)),
    "conv_transpose2d, grouped": (nn.ConvTranspose2d(4, 6, 3, groups=2), (4, 5, 6)),
    "matmul": (Lambda(lambda x: x @ x.transpose(1, 2)), (5, 8)),
    "matmul of heads": (Lambda(lambda x: torch.matmul(x.softmax(-1), x[:, :, :, :4].transpose(2, 3))), (2, 5, 4)),
    "einsum": (Lambda(lambda x, layer: torch.einsum("bld, fd -> blf", x, layer.weight), nn.Linear(8, 5)), (7, 8)),
    "einsum of heads": (Lambda(lambda x: torch.einsum("bhqd,bhkd->bhqk", x, x)), (2, 5, 4)),
    "einsum with dots": (Lambda(lambda x, layer: torch.einsum("...d,fd", x, layer.weight), nn.Linear(8, 5)), (7, 8)),
    "attention": (Lambda(attention), (5, 8)),
    "convolutions and a head": (
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4)), (3, 8, 8),
    ),
}  # fmt: skip


def macs_of(module: nn.Module, *shape: int, dynamic: bool = True) -> dict[str, int]:
    shapes = ({0: Dim.DYNAMIC},) if dynamic else None
    program = torch.export.export(module.eval(), (torch.randn(SAMPLES, *shape),), dynamic_shapes=shapes)
    return layer_macs(raise_program(program))


@pytest.mark.parametrize("dynamic", [True, False], ids=["dynamic batch", "fixed batch"])
@pytest.mark.parametrize("name", COUNTED)
def test_it_is_half_of_the_operations_that_torch_counts(name: str, dynamic: bool) -> None:
    module, shape = COUNTED[name]
    # The math kernel is what torch can count inside of attention.
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        module.eval()(torch.randn(SAMPLES, *shape))
    assert sum(macs_of(module, *shape, dynamic=dynamic).values()) * SAMPLES * 2 == counter.get_total_flops() > 0


@pytest.mark.parametrize(("module", "expected"), [
    (nn.LSTM(8, 6, batch_first=True), 5 * 4 * (6 * 8 + 6 * 6)),
    (nn.LSTM(8, 6, 2, bidirectional=True, batch_first=True), 5 * 2 * 4 * (6 * 8 + 6 * 6 + 6 * 12 + 6 * 6)),
    (nn.LSTM(8, 6, proj_size=2, batch_first=True), 5 * (4 * (6 * 8 + 6 * 2) + 6 * 2)),
    (nn.GRU(8, 6, batch_first=True), 5 * 3 * (6 * 8 + 6 * 6)),
    (nn.RNN(8, 6, batch_first=True), 5 * (6 * 8 + 6 * 6)),
])  # fmt: skip
def test_a_recurrent_layer_meets_its_matrices_once_a_step(module: nn.Module, expected: int) -> None:
    """Each gate has a matrix for the input and one for the state; torch's counter knows none of these operators."""
    (count,) = macs_of(Lambda(lambda x, layer: layer(x)[0], module), 5, 8).values()
    assert count == expected


@pytest.mark.parametrize(("cell", "gates"), [(nn.LSTMCell(8, 6), 4), (nn.GRUCell(8, 6), 3), (nn.RNNCell(8, 6), 1)])
def test_each_call_of_a_cell_is_a_layer_of_its_own(cell: nn.Module, gates: int) -> None:
    def twice(x: Tensor, cell: nn.Module) -> Tensor:
        state = cell(x[:, 1], cell(x[:, 0]))
        return state[0] if isinstance(state, tuple) else state

    counts = macs_of(Lambda(twice, cell), 2, 8)
    assert list(counts.values()) == [gates * (6 * 8 + 6 * 6)] * 2


def test_layers_bear_their_names_and_a_look_up_costs_nothing() -> None:
    module = nn.Sequential(nn.Embedding(10, 8), nn.Linear(8, 4), nn.ReLU())
    program = torch.export.export(module, (torch.zeros(3, 5, dtype=torch.int64),))
    assert layer_macs(raise_program(program)) == {"1": 5 * 8 * 4}


def test_the_share_in_float_is_what_the_other_layers_compute() -> None:
    assert float_share({"a": 30, "b": 10}, {"b"}) == 0.75
    assert float_share({"a": 30, "b": 10}, {"a", "b"}) == 0
    assert float_share({}, set()) == 0


def test_a_depthwise_convolution_moves_what_goes_in_and_what_comes_out() -> None:
    network = nn.Sequential(
        nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8), nn.Conv2d(8, 8, 1, groups=2)
    )
    raised = raise_program(torch.export.export(network.eval(), (torch.zeros(3, 4, 8, 8),)))
    assert depthwise_elements(raised) == {"1": 8 * 8 * 8 + 8 * 4 * 4}


@pytest.mark.parametrize("equation", ["bld,bld->bld", "bld,bld->lbd", "bld->dbl"])
def test_an_einsum_that_sums_nothing_up_counts_nothing(equation: str) -> None:
    operands = equation.count(",") + 1
    assert macs_of(Lambda(lambda x: torch.einsum(equation, *[x] * operands)), 5, 8) == {}
