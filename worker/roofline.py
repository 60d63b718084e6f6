"""How many int8 multiply-accumulates a second this CPU does at its best: measured, with large products of matrices.

The peak of a roofline (Williams, Waterman and Patterson 2009): a model that reaches a tenth of it is held up by memory,
by operators that are no products, or by kernels that do not fit.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress

import torch

_SIZES = (256, 512, 1024)
_REPEATS = 3


def int8_peak_gmacs_per_second(max_seconds: float = 0.3) -> float | None:
    """The best of torch's two int8 products, int8 matrices and the kernels of quantized Linear, at several sizes.

    In 10⁹ a second, with the threads, the cores and the qengine that are set now; None where torch has neither product.
    """
    best, ends_at = 0.0, time.perf_counter() + max_seconds
    for size in _SIZES:
        macs = size**3 / 1e9
        for product in _products(size):
            if best and time.perf_counter() + (_REPEATS + 1) * macs / best > ends_at:
                break
            with suppress(RuntimeError):  # not on this CPU
                best = max(best, macs / min(_seconds(product) for _ in range(_REPEATS + 1)))
    return best or None


def _products(size: int) -> Iterator[Callable[[], object]]:
    left = torch.randint(-127, 128, (size, size), dtype=torch.int8)
    yield lambda: torch._int_mm(left, left)  # noqa: SLF001 - torch's only name for it
    with warnings.catch_warnings(), suppress(RuntimeError):
        warnings.simplefilter("ignore")  # that quantized tensors are deprecated
        weight = torch.quantize_per_tensor(left.float(), 1.0, 0, torch.qint8)
        values = torch.quantize_per_tensor(left.float(), 1.0, 128, torch.quint8)
        packed = torch.ops.quantized.linear_prepack(weight, None)
        yield lambda: torch.ops.quantized.linear(values, packed, 100.0, 128)


def _seconds(product: Callable[[], object]) -> float:
    began_at = time.perf_counter()
    product()
    return time.perf_counter() - began_at
