"""Equal int8 weights and qparams, equal hash; anything else, another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tests.unit.worker.quantization.test_planning import raised, spec
from tests.unit.worker.quantization.test_preparing import calibrated
from worker.quantization import convert, quantize_dynamic, weights_digest
from worker.quantization.dynamic_planning import choose_dynamic_plan


class Network(nn.Module):
    """With an addition, whose qparams belong to no module, and a constant in 16 bits."""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.fc = nn.Linear(192, 5)
        self.register_buffer("scale", torch.ones(1, dtype=torch.bfloat16))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc((self.conv(x) + x).flatten(1)) * self.scale.float()


X = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def static_digest(module: nn.Module, x: Tensor = X, qengine: str | None = None) -> str:
    _, prepared, settled = calibrated(module, x)
    digest = weights_digest(convert(prepared, settled if qengine is None else replace(settled, qengine=qengine)))
    torch.backends.quantized.engine = settled.qengine
    return digest


def dynamic_digest(module: nn.Module) -> str:
    model = raised(module, X[:2])
    return weights_digest(quantize_dynamic(model, choose_dynamic_plan(model, spec("dynamic"))))


@pytest.mark.parametrize("digest", [static_digest, dynamic_digest])
def test_the_same_model_has_the_same_hash(digest: Callable[[nn.Module], str]) -> None:
    assert digest(Network()) == digest(Network())
    assert len(digest(Network())) == 64


@pytest.mark.parametrize("digest", [static_digest, dynamic_digest])
def test_one_weight_that_is_another_integer_changes_it(digest: Callable[[nn.Module], str]) -> None:
    changed = Network()
    with torch.no_grad():
        changed.fc.weight[0, 0] += 0.1 * changed.fc.weight[0].abs().max()
    assert digest(changed) != digest(Network())


def test_a_weight_that_rounds_to_the_same_integer_does_not() -> None:
    changed = Network()
    with torch.no_grad():
        row = changed.fc.weight[0]
        middle = int((row.abs() - row.abs().max() / 2).abs().argmin())
        step = float(row.abs().max()) / 127
        row[middle] = step * round(float(row[middle]) / step)
    assert not torch.equal(changed.fc.weight, Network().fc.weight)
    assert dynamic_digest(changed) == dynamic_digest(Network())


def test_another_range_of_an_activation_changes_it() -> None:
    """Even if only the addition has it."""
    assert static_digest(Network(), 1.5 * X) != static_digest(Network())


def test_the_kernels_that_pack_the_weights_do_not() -> None:
    engines = [name for name in ("onednn", "x86", "fbgemm") if name in torch.backends.quantized.supported_engines]
    assert len(engines) > 1
    assert len({static_digest(Network(), qengine=name) for name in engines}) == 1
