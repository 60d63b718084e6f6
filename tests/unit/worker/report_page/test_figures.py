"""Numbers are short, signed with a minus sign, and never Python's nan, inf or None."""

from __future__ import annotations

import math

import pytest

from worker.report_page import figures


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (figures.decimal(1234567.891, 2), "1\u202f234\u202f567.89"),
        (figures.decimal(-0.25, 2), "−0.25"),
        (figures.decimal(1e300), "1e+300"),
        (figures.decimal(None), "–"),
        (figures.significant(0.003921), "0.00392"),
        (figures.significant(12.0), "12.0"),
        (figures.significant(104.4), "104"),
        (figures.significant(-1.5e-7), "−1.50e-07"),
        (figures.significant(0.0), "0"),
        (figures.significant(math.nan), "NaN"),
        (figures.significant(-math.inf), "−∞"),
        (figures.decibels(36.24), "36.2\u00a0dB"),
        (figures.decibels(None), "exact"),
        (figures.decibels(math.inf), "∞\u00a0dB"),
        (figures.percent(0.9912), "99.1\u00a0%"),
        (figures.percent(None), "–"),
        (figures.byte_size(512), "512\u00a0B"),
        (figures.byte_size(44_712_300), "44.7\u00a0MB"),
        (figures.byte_size(3 * 10**9), "3.0\u00a0GB"),
        (figures.seconds(200.4), "3\u00a0min 20\u00a0s"),
        (figures.seconds(1.25), "1.25\u00a0s"),
        (figures.times(2.314), "2.31×"),
        (figures.signed(-0.3), "−0.3"),
        (figures.signed(0.3), "+0.3"),
        (figures.plural(1, "layer"), "1\u00a0layer"),
        (figures.plural(2000, "layer"), "2\u202f000\u00a0layers"),
    ],
)
def test_figures_are_written_as_an_engineer_reads_them(shown: str, expected: str) -> None:
    assert shown == expected
