"""Two tools on the same samples: whether one answers more of them right, or the difference is noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import comb

_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Pairing:
    """Our right answers beside theirs: only samples that one has right and the other wrong tell the tools apart."""

    samples: int
    only_ours: int
    only_theirs: int

    @classmethod
    def of(cls, ours: str, theirs: str) -> Pairing:
        """Of the same samples in the same order, a digit each: 1 for right, 0 for wrong."""
        pairs = list(zip(ours, theirs, strict=True))
        return cls(len(pairs), pairs.count(("1", "0")), pairs.count(("0", "1")))

    @property
    def above_points(self) -> float:
        """How far our top-1 is above theirs, in percentage points."""
        return 100 * (self.only_ours - self.only_theirs) / self.samples

    @property
    def interval_points(self) -> tuple[float, float]:
        """The 95 % interval of that; it leaves out zero exactly where McNemar's exact test calls the tools different.

        Given that `n` samples tell them apart, ours are a binomial draw of `n`: Clopper and Pearson's interval of its
        share `p` (1934) becomes `n (2 p - 1)` of all samples. No such sample tells nothing apart: the interval is zero.
        """
        differing = self.only_ours + self.only_theirs
        if differing == 0:
            return 0.0, 0.0
        low, high = share_interval(self.only_ours, differing)
        return 100 * differing * (2 * low - 1) / self.samples, 100 * differing * (2 * high - 1) / self.samples

    @property
    def surely_above(self) -> bool:
        """Whether ours has more right beyond noise."""
        return self.interval_points[0] > 0

    @property
    def surely_below(self) -> bool:
        """Whether theirs has more right beyond noise."""
        return self.interval_points[1] < 0

    def __add__(self, other: Pairing) -> Pairing:
        """Both sets of samples together."""
        return Pairing(
            self.samples + other.samples, self.only_ours + other.only_ours, self.only_theirs + other.only_theirs
        )


def share_interval(found: int, of: int) -> tuple[float, float]:
    """The 95 % interval of a binomial share (Clopper and Pearson): ends where a tail as far out has 2.5 %."""
    tail = (1 - _CONFIDENCE) / 2
    low = 0.0 if found == 0 else _crossing(lambda share: at_least(found, of, share) < tail)
    high = 1.0 if found == of else _crossing(lambda share: 1 - at_least(found + 1, of, share) > tail)
    return low, high


def at_least(found: int, of: int, share: float) -> float:
    """The probability of so many successes or more in `of` draws."""
    return sum(comb(of, count) * share**count * (1 - share) ** (of - count) for count in range(found, of + 1))


def _crossing(is_below: Callable[[float], bool]) -> float:
    """The share up to which this holds."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if is_below(middle) else (low, middle)
    return low
