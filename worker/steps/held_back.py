"""Calibration samples held back from the observers: what choices between int8 models are measured on.

A choice measured on what the observers have seen would favour whatever clips nothing that they saw.
"""

from __future__ import annotations

import math

from worker.datasets import Samples, Subset

_EVERY = 8
_MOST_SAMPLES = 64
_FEWEST_SAMPLES = 16  # to hold any back
_BLOCKS = 64  # what is held back is spread over the data, whose order may mean something
_FEWEST_BLOCKS = 8


def divide(samples: Samples, batch_size: int) -> tuple[Samples, Samples]:
    """What the observers see first, and what is held back from them: an eighth, at most 64 samples.

    Of fewer than 16 samples none can be spared: both are all of them.
    """
    if samples.count < _FEWEST_SAMPLES:
        return samples, samples
    block = max(1, min(batch_size, samples.count // _BLOCKS, _MOST_SAMPLES // _FEWEST_BLOCKS))
    # The last of every eight blocks; where that were too many, of as many more as leaves 64.
    every = max(_EVERY, math.ceil(samples.count / _MOST_SAMPLES))
    held_back = [index for index in range(samples.count) if index // block % every == every - 1]
    if not held_back:
        return samples, samples
    kept = set(held_back)
    return Subset(samples, [index for index in range(samples.count) if index not in kept]), Subset(samples, held_back)


def spread(samples: Samples, most: int) -> Samples:
    """At most this many of the samples, evenly spread over them."""
    return Subset(samples, list(range(0, samples.count, math.ceil(samples.count / most))))
