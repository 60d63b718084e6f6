"""int8 in float is what right kernels of method dynamic give, and one that gives something else is found."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.ao.nn.quantized import dynamic as nnqd  # noqa: TID251 - whose kernels are spoilt

from tests.unit.worker.quantization.test_dynamic import settled_plan
from tests.unit.worker.quantization.test_planning import raised
from worker.quantization import quantize_dynamic
from worker.quantization.dynamic_reference import departing_dynamic_layers, dynamic_in_float, without_departing

WIDTH = 24


class Whole(nn.Module):
    """A recurrent layer's outputs, and its last states."""

    def __init__(self, layer: nn.LSTM | nn.GRU) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        outputs, last = self.layer(x if self.layer.batch_first else x.transpose(0, 1))
        return (outputs, *last) if isinstance(last, tuple) else (outputs, last)


class Single(nn.Module):
    """A layer that gives one tensor, or a cell."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        found = self.layer(x)
        return found if isinstance(found, tuple) else (found,)


def rows() -> Tensor:
    return torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(1))


def sequences() -> Tensor:
    return torch.randn(5, 7, WIDTH, generator=torch.Generator().manual_seed(1))


def indices() -> Tensor:
    return torch.randint(0, 40, (5, 7), generator=torch.Generator().manual_seed(1))


LAYERS: dict[str, tuple[Any, Tensor]] = {
    "linear": (lambda: Single(nn.Linear(WIDTH, 16)), rows()),
    "linear_without_bias": (lambda: Single(nn.Linear(WIDTH, 16, bias=False)), sequences()),
    "lstm": (lambda: Whole(nn.LSTM(WIDTH, 16, num_layers=2, bidirectional=True, batch_first=True)), sequences()),
    "gru": (lambda: Whole(nn.GRU(WIDTH, 16, num_layers=2, bidirectional=True)), sequences()),
    "lstm_cell": (lambda: Single(nn.LSTMCell(WIDTH, 16)), rows()),
    "gru_cell": (lambda: Single(nn.GRUCell(WIDTH, 16)), rows()),
    "rnn_cell": (lambda: Single(nn.RNNCell(WIDTH, 16, nonlinearity="relu")), rows()),
    "table": (lambda: Single(nn.Embedding(40, 16)), indices()),
    "bag": (lambda: Single(nn.EmbeddingBag(40, 16, mode="mean", padding_idx=3)), indices()),
}


#: Tables have no float16 kernel.
CASES = [(kind, "int8") for kind in LAYERS] + [(kind, "float16") for kind in LAYERS if kind not in ("table", "bag")]


@pytest.mark.parametrize(("kind", "precision"), CASES)
def test_int8_in_float_is_what_the_kernels_give(kind: str, precision: str) -> None:
    torch.manual_seed(0)
    make, x = LAYERS[kind]
    module = raised(make(), x)
    quantized = quantize_dynamic(module, settled_plan(module, precision=precision))
    in_float = dynamic_in_float(module, quantized)
    with torch.no_grad():
        exact, wanted, found = (each(x) for each in (module, in_float, quantized))
    for unquantized, reference, kernel in zip(exact, wanted, found, strict=True):
        assert torch.allclose(reference, kernel, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(unquantized, kernel, rtol=1e-4, atol=1e-5)
    assert departing_dynamic_layers(module, quantized, in_float, x) == []


def test_a_kernel_that_saturates_is_found_and_its_layer_left_in_float(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its greatest sums are cut off: far less than its whole output, and more than rounding."""
    torch.manual_seed(0)
    module = raised(nn.Sequential(nn.Embedding(40, WIDTH), nn.Linear(WIDTH, 16)), indices())
    settled = settled_plan(module)
    quantized = quantize_dynamic(module, settled)
    right = nnqd.Linear.forward
    monkeypatch.setattr(nnqd.Linear, "forward", lambda self, x: right(self, x).clamp(-1, 1))
    departing = departing_dynamic_layers(module, quantized, dynamic_in_float(module, quantized), indices())
    assert departing == ["1"]
    kept = without_departing(module, settled, departing)
    assert kept.int8_layers == {"0"}
    assert "1 dB further from float" in kept.float_layers["1"]
    assert kept.float_macs_share == 1.0
