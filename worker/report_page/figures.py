"""Numbers as an engineer reads them: few digits, a true minus sign, a word where there is no number."""

from __future__ import annotations

import math

NONE = "–"
EXACT = "exact"
"""Instead of an SQNR of two tensors that are equal."""

_GROUP = "\u202f"  # a narrow space that does not break
_UNIT = "\u00a0"


def decimal(value: float | None, digits: int = 1, none: str = NONE) -> str:
    """With a fixed number of decimals, so that a column aligns."""
    if value is None:
        return none
    if not math.isfinite(value):
        return _not_finite(value)
    if abs(value) >= 1e9:
        return _minus(f"{value:.3g}")
    return _minus(f"{value:,.{digits}f}".replace(",", _GROUP))


def significant(value: float | None, digits: int = 3, none: str = NONE) -> str:
    """With a number of digits that count: 0.00392, 12.0, 1.50e-07."""
    if value is None:
        return none
    if value == 0:
        return "0"
    return _minus(f"{value:#.{digits}g}".removesuffix(".")) if math.isfinite(value) else _not_finite(value)


def whole(value: int) -> str:
    """With its thousands apart."""
    return _minus(f"{value:,}".replace(",", _GROUP))


def decibels(value: float | None, none: str = EXACT) -> str:
    """`36.2 dB`."""
    return none if value is None else f"{decimal(value)}{_UNIT}dB"


def percent(share: float | None, digits: int = 1, none: str = NONE) -> str:
    """A share of 0..1 as `99.1 %`."""
    return none if share is None else f"{decimal(100 * share, digits)}{_UNIT}%"


def milliseconds(value: float | None) -> str:
    """`12.3 ms`."""
    return NONE if value is None else f"{significant(value)}{_UNIT}ms"


def seconds(value: float) -> str:
    """`1.25 s`, `3 min 20 s`."""
    if not math.isfinite(value) or value < 120:
        return f"{significant(value)}{_UNIT}s"
    minutes, rest = divmod(round(value), 60)
    return f"{whole(minutes)}{_UNIT}min {rest}{_UNIT}s"


def byte_size(count: int) -> str:
    """`512 B`, `44.7 MB`; a MB is a million bytes."""
    size = float(count)
    for unit in ("B", "kB", "MB"):
        if abs(size) < 1000:
            return f"{decimal(size, 0 if unit == 'B' else 1)}{_UNIT}{unit}"
        size /= 1000
    return f"{decimal(size)}{_UNIT}GB"


def interval(ends: tuple[float, float]) -> str:
    """Of ratios, such as `1.92 to 2.07`."""
    return " to ".join(decimal(end, 2) for end in ends)


def times(ratio: float | None) -> str:
    """`2.31×`."""
    return NONE if ratio is None else f"{decimal(ratio, 2)}×"


def size_change(ratio: float) -> str:
    """`3.90× smaller`, `1.05× larger`: of float over int8."""
    return f"{times(1 / ratio)} larger" if 0 < ratio < 1 else f"{times(ratio)} smaller"


def signed(value: float, digits: int = 1) -> str:
    """`+0.3`, `−0.3`."""
    return f"+{decimal(value, digits)}" if value >= 0 else decimal(value, digits)


def plural(count: int, noun: str) -> str:
    """`1 layer`, `2 layers`."""
    return f"{whole(count)}{_UNIT}{noun}{'' if count == 1 else 's'}"


def _minus(text: str) -> str:
    return text.replace("-", "−", 1) if text.startswith("-") else text


def _not_finite(value: float) -> str:
    return "NaN" if math.isnan(value) else "∞" if value > 0 else "−∞"
