"""The peak that int8 is compared with is what products of int8 matrices reach here, by whichever of torch's two."""

from __future__ import annotations

import math

import pytest
import torch

from worker import roofline
from worker.roofline import int8_peak_gmacs_per_second


def test_a_peak_is_found_on_this_cpu() -> None:
    peak = int8_peak_gmacs_per_second()
    assert peak is not None
    assert math.isfinite(peak)
    assert peak > 0


def test_the_best_of_all_products_counts_and_larger_ones_only_while_there_is_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Products of a kind and a size take what they are told to: the second kind is four times as fast."""
    sizes: list[int] = []

    def products(size: int) -> list[float]:
        sizes.append(size)
        return [4.0 * size**3 / 1e9, size**3 / 1e9]

    monkeypatch.setattr(roofline, "_products", products)
    monkeypatch.setattr(roofline, "_seconds", lambda product: product)
    assert int8_peak_gmacs_per_second(max_seconds=1e6) == pytest.approx(1.0)
    assert sizes == [256, 512, 1024]


def test_a_cpu_without_one_product_has_the_other_and_without_both_no_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("not on this CPU")

    monkeypatch.setattr(torch, "_int_mm", refuse)
    assert (int8_peak_gmacs_per_second() or 0) > 0
    monkeypatch.setattr(torch, "quantize_per_tensor", refuse)
    assert int8_peak_gmacs_per_second() is None
