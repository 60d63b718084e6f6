"""Top-1 of two tools on the same samples: what a difference is worth."""

from __future__ import annotations

import paired
import pytest


def test_the_interval_is_clopper_and_pearsons() -> None:
    """8 of 10, from the tables: 0.4439 to 0.9748."""
    low, high = paired.share_interval(8, 10)
    assert low == pytest.approx(0.44390, abs=1e-4)
    assert high == pytest.approx(0.97479, abs=1e-4)


def test_the_ends_of_a_share_of_nothing_and_of_all_are_nought_and_one() -> None:
    assert paired.share_interval(0, 5)[0] == 0.0
    assert paired.share_interval(5, 5)[1] == 1.0


def test_only_samples_that_differ_tell_the_tools_apart() -> None:
    pairing = paired.Pairing.of("110100", "111000")
    assert (pairing.samples, pairing.only_ours, pairing.only_theirs) == (6, 1, 1)
    assert pairing.above_points == 0.0


@pytest.mark.parametrize(("worse", "beyond_noise"), [(1, False), (5, False), (6, True), (20, True)])
def test_below_beyond_noise_is_what_mcnemars_exact_test_says(worse: int, beyond_noise: bool) -> None:
    """Of 5 samples that differ all in their favour the test's p is 2 / 2**5 = 0.0625; of 6 it is 0.031."""
    pairing = paired.Pairing(samples=500, only_ours=0, only_theirs=worse)
    assert pairing.above_points == pytest.approx(-worse / 5)
    assert pairing.surely_below is beyond_noise
    assert not pairing.surely_above


def test_the_same_answers_differ_by_nothing() -> None:
    pairing = paired.Pairing.of("10110", "10110")
    assert pairing.interval_points == (0.0, 0.0)
    assert not pairing.surely_below


def test_families_are_added_up() -> None:
    both = paired.Pairing(500, 1, 2) + paired.Pairing(500, 0, 2)
    assert both == paired.Pairing(1000, 1, 4)
