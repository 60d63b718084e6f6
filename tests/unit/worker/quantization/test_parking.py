"""Weights wait in a file, leave memory, and come back to the bit."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from worker.quantization import parked

MIB = 1024**2


def network(layers: int) -> tuple[nn.Sequential, list[nn.Linear]]:
    """4 MiB of weights a layer."""
    linear = [nn.Linear(1024, 1024) for _ in range(layers)]
    return nn.Sequential(*linear), linear


def resident_mib() -> float:
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def test_memory_is_given_back_and_every_bit_returns() -> None:
    (module, layers), x = network(16), torch.randn(2, 1024)
    with torch.no_grad():
        wanted = module(x)
    held, first = resident_mib(), layers[0].weight
    with parked(module):
        assert resident_mib() < held - 60
        with pytest.raises(RuntimeError):
            module(x)
    assert layers[0].weight is first
    with torch.no_grad():
        assert torch.equal(module(x), wanted)


def test_what_another_module_holds_too_stays_in_use() -> None:
    module, layers = network(8)
    other = nn.Sequential(layers[0], nn.Linear(1024, 1024))
    with parked(module, beside=[other]):
        other(torch.randn(2, 1024))
        assert layers[1].weight.numel() == 0


def test_views_of_one_storage_return_together() -> None:
    module, layers = network(8)
    layers[1].weight = nn.Parameter(layers[0].weight.t())
    wanted = layers[0].weight.detach().clone()
    with parked(module):
        pass
    assert torch.equal(layers[0].weight, wanted)
    assert torch.equal(layers[1].weight, wanted.t())


def test_a_small_module_is_left_alone() -> None:
    module, _ = network(2)
    with parked(module):
        module(torch.randn(2, 1024))


def test_weights_return_after_a_failure() -> None:
    module, layers = network(8)
    wanted = layers[3].bias.detach().clone()
    with pytest.raises(ZeroDivisionError), parked(module):
        raise ZeroDivisionError
    assert torch.equal(layers[3].bias, wanted)
