"""Masks: tensors of truth values, and the infinities that they leave behind."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.unit.worker.quantization.test_preparing import calibrated
from worker.quantization import LayerTrace, simulate


class Masked(nn.Module):
    """An image of which a mask, computed from it, leaves some."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3)
        self.second = nn.Conv2d(8, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.first(x)
        return self.second(torch.where(seen > 0, seen, torch.zeros_like(seen)))


@torch.no_grad()
def test_a_mask_that_arrives_at_a_layer_has_no_error() -> None:
    x = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    _, prepared, settled = calibrated(Masked(), x)
    shown: dict[str, LayerTrace] = {}
    simulate(prepared, settled).trace(x, visit=lambda trace: shown.update({trace.layer: trace}))
    assert "where" in shown
    assert [reference.shape for reference, _ in shown["where"].arriving] == [(8, 8, 6, 6)] * 2
    assert all(reference.is_floating_point() for trace in shown.values() for reference, _ in trace.arriving)
