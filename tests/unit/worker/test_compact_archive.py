"""A deflated TorchScript archive loads as before, is smaller where weights are float16; equal ones stay equal."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from torch import nn

from worker.compact_archive import deflate


def test_float16_weights_take_little_more_than_half_and_compute_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(512, 512)
    with torch.no_grad():
        linear.weight.copy_(linear.weight.half())
    x = torch.randn(2, 512)
    torch.jit.save(torch.jit.trace(linear, (x,)), str(tmp_path / "a.pt"))
    shutil.copy(tmp_path / "a.pt", tmp_path / "b.pt")
    before = (tmp_path / "a.pt").stat().st_size
    (tmp_path / "scratch").mkdir()
    for name in ("a.pt", "b.pt"):
        deflate(tmp_path / name, tmp_path / "scratch")
        assert (tmp_path / name).stat().st_size < 0.65 * before
        assert torch.equal(torch.jit.load(tmp_path / name)(x), linear(x))
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()
    assert not list((tmp_path / "scratch").iterdir())
