"""What makes a measurement doubtful, each with its cause in words: in the samples, and in what the machine did.

The thresholds are for the figure that matters, a ratio of medians in a few per cent: what moves less than that is left
unsaid.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from shared.latency_report import Doubt
from worker.candidate_names import candidate_name
from worker.latency_statistics import Samples, block_length
from worker.machine_state import Disturbance

MAX_IQR = 0.10  # of the median, as torch.utils.benchmark warns
_MAX_DRIFT = 0.05  # between the medians of the first and the last third
_STANDARD_ERRORS = 3.0  # beyond which a drift is no chance
_MODES_APART = 0.05
_MODES_CLEARLY_APART = 5.0  # Ashman's D: 2.7 for a normal distribution cut in two, 3.5 for a uniform one
_SMALLER_MODE = 0.1  # of the samples
_FEWEST_BLOCKS = 10
_ENOUGH_FOR_BLOCKS = 60  # rounds: in fewer the length of a block is a guess
_FEW_ROUNDS = 10
_ENOUGH_TO_TELL = 30  # samples, for a shape or a drift
_MAX_OTHERS = 0.05  # of the time of the cores measured on
_MAX_ELSEWHERE = 0.25  # of a core: it shares the memory, the last cache and the clock
_MAX_STOLEN = 0.01
_TICKS = 0.03  # seconds: what counters in ticks of 10 ms may be wrong by
_MAX_CLOCK_CHANGE = 0.05


def doubts_of(samples_ms: Mapping[str, Samples], disturbed: Disturbance, cores: int) -> list[Doubt]:
    """Why these samples, taken on so many cores, may mislead; the machine's reasons first."""
    return [*_of_machine(disturbed, cores), *_of_samples(samples_ms)]


def is_noise(doubt: Doubt) -> bool:
    """Whether the machine or the samples were unsteady; few rounds alone are not noise."""
    return doubt.cause != "few_rounds"


def _of_machine(seen: Disturbance, cores: int) -> Iterator[Doubt]:
    least = _TICKS / max(seen.seconds, _TICKS)
    if seen.throttled:
        yield Doubt(
            cause="throttled", told=f"The control group's CPU limit stopped it {seen.throttled} times meanwhile."
        )
    if (seen.stolen or 0) > max(_MAX_STOLEN * cores, least):
        yield Doubt(
            cause="steal", told=f"The hypervisor gave {_share(seen.stolen, cores)} of the cores' time to others."
        )
    if (seen.others or 0) > max(_MAX_OTHERS * cores, least):
        yield Doubt(cause="other_load", told=f"Other processes had {_share(seen.others, cores)} of the cores' time.")
    if (seen.siblings or 0) > max(_MAX_OTHERS * cores, least):
        yield Doubt(
            cause="other_load",
            told=f"The other hardware threads of the same cores were busy {_share(seen.siblings, cores)} of the time.",
        )
    if (seen.elsewhere or 0) > max(_MAX_ELSEWHERE, least):
        yield Doubt(
            cause="other_load",
            told=f"Other cores were busy ({seen.elsewhere:.1f} of them): they share caches, memory and clock.",
        )
    change = seen.slowdown if seen.frequency_change is None else seen.frequency_change
    if abs(change) > _MAX_CLOCK_CHANGE:
        probe = "the same piece of work took" if seen.frequency_change is None else "the cores' frequency was"
        more = "more" if change > 0 else "less"
        yield Doubt(
            cause="frequency",
            told=f"The cores' speed changed: {probe} {_percent(abs(change))} {more} at the end than at the start.",
        )


def _of_samples(samples_ms: Mapping[str, Samples]) -> Iterator[Doubt]:
    wide = {name: spread for name, each in samples_ms.items() if (spread := _iqr(each)) > MAX_IQR}
    if wide:
        told = ", ".join(f"{candidate_name(name)} {_percent(spread)}" for name, spread in wide.items())
        yield Doubt(cause="spread", told=f"The interquartile range exceeds 10 % of the median ({told}).")
    drifts = {name: drift for name, each in samples_ms.items() if (drift := _drift(each))}
    if drifts:
        told = ", ".join(f"{candidate_name(name)} {_percent(each, '+')}" for name, each in drifts.items())
        yield Doubt(cause="drift", told=f"Latency drifted from the first third of the rounds to the last ({told}).")
    levels = {name: modes for name, each in samples_ms.items() if (modes := _modes(each))}
    if levels:
        told = ", ".join(
            f"{candidate_name(name)} near {low:.3g} and {high:.3g} ms" for name, (low, high) in levels.items()
        )
        yield Doubt(cause="bimodal", told=f"There are two levels of latency: {told}.")
    rounds = min(len(each) for each in samples_ms.values())
    longest = max(block_length(each) for each in samples_ms.values())
    if rounds >= _ENOUGH_FOR_BLOCKS and longest * _FEWEST_BLOCKS > rounds:
        yield Doubt(
            cause="autocorrelation", told=f"Some {longest} rounds in a row resemble each other: {rounds} tell little."
        )
    if rounds < _FEW_ROUNDS:
        yield Doubt(cause="few_rounds", told=f"Only {rounds} rounds fitted into the time budget.")


def _iqr(samples_ms: Samples) -> float:
    low, median, high = np.percentile(samples_ms, [25, 50, 75])
    return float((high - low) / median)


def _drift(samples_ms: Samples) -> float | None:
    """Relative change between the medians of the first and the last third; None when it is small or may be chance."""
    third = len(samples_ms) // 3
    if len(samples_ms) < _ENOUGH_TO_TELL:
        return None
    first, last = (float(np.median(part)) for part in (samples_ms[:third], samples_ms[-third:]))
    spread = np.mean(
        [np.subtract(*np.percentile(part, [75, 25])) for part in (samples_ms[:third], samples_ms[-third:])]
    )
    # Of a normal distribution the standard error of a median is 1.25 σ / √n, and the IQR 1.35 σ.
    error = 1.25 * float(spread) / 1.35 * math.sqrt(2 / third)
    change = last / first - 1
    return change if abs(change) > _MAX_DRIFT and abs(last - first) > _STANDARD_ERRORS * error else None


def _modes(samples_ms: Samples) -> tuple[float, float] | None:
    """The two levels, if there are two.

    Cut where the two parts are narrowest (Otsu 1979), they are far apart by Ashman's D (1994).
    """
    count, smallest = len(samples_ms), math.ceil(_SMALLER_MODE * len(samples_ms))
    if count < _ENOUGH_TO_TELL:
        return None
    logs = np.sort(np.log(samples_ms))
    sizes = np.arange(smallest, count - smallest + 1)
    sums = np.cumsum(logs)[sizes - 1]
    between = sums**2 / sizes + (logs.sum() - sums) ** 2 / (count - sizes)
    cut = int(sizes[np.argmax(between)])
    low, high = logs[:cut], logs[cut:]
    apart, within = float(high.mean() - low.mean()), math.sqrt(float(low.var() + high.var()))
    if apart < _MODES_APART or math.sqrt(2) * apart < _MODES_CLEARLY_APART * within:
        return None
    return math.exp(float(np.median(low))), math.exp(float(np.median(high)))


def _share(cores_time: float | None, cores: int) -> str:
    return _percent((cores_time or 0) / cores)


def _percent(share: float, sign: str = "") -> str:
    return f"{share:{sign}.0%}".replace("%", " %").replace("-", "−")
