"""Latency of several candidates of one model, interleaved in one process, and a speedup that says how sure it is.

Each round runs every candidate once, in a random order, so that whatever else the machine does falls on all of them
alike; rounds are paired for the interval of the speedup. An untimed call goes before each timed one: the caches then
hold what a server that runs this model alone has there, not the candidate that ran before.

All threads are pinned to the quietest cores, as many as there are threads. What is to be doubted is told with its cause
(`worker/noise.py`); rounds that turn out noisy by half of the time budget are taken anew in the other half, on the
cores that are quietest then, and the quieter of the two is kept.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from shared.latency_report import BenchmarkResult, Doubt, LatencyStats, Sitting, Speedup
from worker.candidate_names import FLOAT_EAGER, candidate_name, int8_in
from worker.latency_statistics import Samples, median_ratio, percentile_bound_ms, speedup_ci95, stated_interval
from worker.machine_state import MachineState, disturbance, read_state
from worker.noise import doubts_of, is_noise
from worker.pinning import pinned_to, quietest_cores

INT8 = int8_in("torch")

MIN_ROUNDS = 2  # fewer have no interval
_MIN_QUICK_ROUNDS = 10  # of those that together take a tenth of the time budget, which warming up may have used
MAX_ROUNDS = 1000
_ENOUGH_ROUNDS = 662  # for a p99; and then only as long as an interval is wider than this:
_ENOUGH_RELATIVE_INTERVAL = 0.02
_CHECK_EVERY_ROUNDS = 50
_MIN_WARMUP_RUNS = 3  # TorchScript optimises during its first two runs
_MAX_WARMUP_RUNS = 20
_WARMUP_SHARE = 0.1  # of the time budget,
_LONGEST_WARMUP_SHARE = 0.5  # and this much for as many runs as TorchScript needs
_UNTIMED_ROUNDS = 10  # must fit with untimed calls; slower candidates fill the caches anew in every call
_HALF = 0.5  # of the budget: then noise is looked for
_RETRY_ROUNDS = 10  # must fit into what is left

Candidate = Callable[[], Any]


@dataclass(frozen=True)
class Rounds:
    """Samples taken in a row on the same cores, and what to doubt of them."""

    cores: list[int]
    samples_ms: dict[str, Samples]
    doubts: list[Doubt]

    @property
    def count(self) -> int:
        """How many rounds these are."""
        return min(len(samples) for samples in self.samples_ms.values())

    @property
    def causes(self) -> set[str]:
        """Of noise; empty when it was quiet."""
        return {doubt.cause for doubt in self.doubts if is_noise(doubt)}


def measure_latency(
    candidates: Mapping[str, Candidate],
    *,
    int8: Collection[str] = (INT8,),
    batch_size: int,
    threads: int,
    max_seconds: float,
    seed: int,
    advance: Callable[[float], None] = lambda _: None,
) -> BenchmarkResult:
    """Measure the candidates, those named in `int8` against the fastest of the others, at this many threads.

    Rounds go on until `max_seconds` have passed or the intervals of the speedups are narrow: one round longer at most,
    but never fewer than two rounds, or ten quick ones. `advance` is told the share of the budget that is used, in 0..1.
    """
    sittings = measure_rounds(
        candidates, int8=int8, threads=threads, max_seconds=max_seconds, seed=seed, advance=advance
    )
    compared = [_against_float(each.samples_ms, int8, seed) for each in sittings]
    kept = min(range(len(sittings)), key=lambda at: (len(sittings[at].causes), width_of(compared[at][0].speedup_ci95)))
    rounds, speedups = sittings[kept], compared[kept]
    baseline, fastest = fastest_of(rounds.samples_ms, int8, inside=False), speedups[0]
    return BenchmarkResult(
        batch_size=batch_size,
        threads=threads,
        rounds=rounds.count,
        baseline=baseline,
        int8=fastest.name,
        candidates=[stats_of(name, samples, batch_size) for name, samples in rounds.samples_ms.items()],
        speedup=fastest.speedup,
        speedup_ci95=fastest.speedup_ci95,
        significant=fastest.significant,
        speedup_vs_eager=fastest.speedup_vs_eager,
        conclusion=_conclusion(fastest, baseline),
        speedups=speedups,
        cores=rounds.cores,
        noisy=bool(rounds.causes),
        doubts=rounds.doubts,
        sittings=[
            Sitting(
                cores=each.cores,
                rounds=each.count,
                speedup=speedup.speedup,
                speedup_ci95=speedup.speedup_ci95,
                doubts=each.doubts,
                kept=each is rounds,
            )
            for each, (speedup, *_) in zip(sittings, compared, strict=True)
        ],
        note=note_of(rounds, sittings),
    )


def measure_rounds(
    candidates: Mapping[str, Candidate],
    *,
    int8: Collection[str] = (),
    threads: int,
    max_seconds: float,
    seed: int,
    advance: Callable[[float], None] = lambda _: None,
    clock: Callable[[], float] = time.perf_counter,
    look: Callable[[Collection[int]], MachineState] = read_state,
) -> list[Rounds]:
    """Take rounds of these candidates, alone or several; a second time when the first are noisy.

    Those named in `int8` are compared with the fastest of the others, or where there are no others all with the
    fastest, to know when it is enough.
    """
    budget = _Budget(max_seconds, clock, advance)
    sittings: list[Rounds] = []
    with computing_with(threads), torch.inference_mode(), _no_garbage_collection():
        while not sittings or (len(sittings) == 1 and sittings[0].causes and budget.holds(sittings[0])):
            cores = quietest_cores(threads)
            with pinned_to(cores):
                if not sittings:
                    round_seconds = sum(
                        _warm_up(candidate, max_seconds / len(candidates), clock) for candidate in candidates.values()
                    )
                sitting = _Sitter(candidates, int8, cores, round_seconds, seed + len(sittings), look, clock)
                sittings.append(sitting.sit(budget, may_give_up=not sittings))
    return sittings


def quietest(sittings: Sequence[Rounds]) -> Rounds:
    """Of rounds taken twice because the first were noisy, the quieter ones."""
    return min(sittings, key=lambda each: len(each.causes))


def fastest_of(samples_ms: Mapping[str, Samples], names: Collection[str], *, inside: bool) -> str:
    """The candidate with the lowest median among these names, or among all others."""
    return min(
        (name for name in samples_ms if (name in names) is inside), key=lambda name: float(np.median(samples_ms[name]))
    )


class _Budget:
    def __init__(self, seconds: float, clock: Callable[[], float], advance: Callable[[float], None]) -> None:
        self.seconds = seconds
        self._clock = clock
        self._began_at = clock()
        self._advance = advance

    @property
    def used(self) -> float:
        return (self._clock() - self._began_at) / self.seconds

    @property
    def left(self) -> float:
        return self.seconds * (1 - self.used)

    def holds(self, earlier: Rounds) -> bool:
        """Whether what is left is enough to measure again."""
        round_seconds = 2 * sum(float(np.median(samples)) for samples in earlier.samples_ms.values()) / 1000
        return self.left > _RETRY_ROUNDS * round_seconds

    def tell(self, rounds: int) -> None:
        self._advance(min(1.0, max(self.used, rounds / MAX_ROUNDS)))


@dataclass
class _Sitter:
    """Takes rounds in a row until they are enough, the budget is spent, or they turn out noisy half-way."""

    candidates: Mapping[str, Candidate]
    int8: Collection[str]
    cores: list[int]
    round_seconds: float
    """Of the timed calls in the last round, before the first one of the last calls to warm up."""
    seed: int
    look: Callable[[Collection[int]], MachineState]
    clock: Callable[[], float]

    def __post_init__(self) -> None:
        self._taken_ms: dict[str, list[float]] = {name: [] for name in self.candidates}

    def sit(self, budget: _Budget, *, may_give_up: bool) -> Rounds:
        before = self.look(self.cores)
        order, names = random.Random(self.seed), list(self.candidates)  # noqa: S311  # an order, not a secret
        for rounds in range(1, MAX_ROUNDS + 1):
            order.shuffle(names)
            untimed = 2 * self.round_seconds * _UNTIMED_ROUNDS <= budget.seconds
            self.round_seconds = sum(self._run(name, untimed=untimed) for name in names)
            quick = 2 * self.round_seconds * _MIN_QUICK_ROUNDS <= budget.seconds / 10
            budget.tell(rounds)
            if budget.used >= 1 and rounds >= (_MIN_QUICK_ROUNDS if quick else MIN_ROUNDS):
                break
            if may_give_up and rounds >= _RETRY_ROUNDS and budget.used >= _HALF:
                may_give_up = False
                so_far = self._so_far(before)
                if so_far.causes and budget.holds(so_far):
                    return so_far
            if rounds >= _ENOUGH_ROUNDS and (rounds - _ENOUGH_ROUNDS) % _CHECK_EVERY_ROUNDS == 0 and self._is_enough():
                break
        return self._so_far(before)

    def _run(self, name: str, *, untimed: bool) -> float:
        candidate = self.candidates[name]
        if untimed:
            candidate()
        began_at = self.clock()
        candidate()
        took = self.clock() - began_at
        self._taken_ms[name].append(1000 * took)
        return took

    def _so_far(self, before: MachineState) -> Rounds:
        disturbed = disturbance(before, self.look(self.cores), self.cores)
        samples_ms = self._samples_ms()
        return Rounds(self.cores, samples_ms, doubts_of(samples_ms, disturbed, len(self.cores)))

    def _samples_ms(self) -> dict[str, Samples]:
        return {name: np.array(taken) for name, taken in self._taken_ms.items()}

    def _is_enough(self) -> bool:
        samples_ms = self._samples_ms()
        others = [name for name in samples_ms if name not in self.int8]
        baseline = fastest_of(samples_ms, others or list(samples_ms), inside=True)
        compared = [name for name in samples_ms if name != baseline and (name in self.int8 or not self.int8)]
        intervals = (speedup_ci95(samples_ms[baseline], samples_ms[name], self.seed) for name in compared)
        return all(width_of(interval) < _ENOUGH_RELATIVE_INTERVAL for interval in intervals)


def _warm_up(candidate: Candidate, share_seconds: float, clock: Callable[[], float]) -> float:
    """Call it until it is warm, and return the seconds of the last call; a slow one is called once."""
    began_at = clock()
    for run in range(1, _MAX_WARMUP_RUNS + 1):
        call_began_at = clock()
        candidate()
        took = clock() - call_began_at
        spent = clock() - began_at
        allowed = _LONGEST_WARMUP_SHARE if run < _MIN_WARMUP_RUNS else _WARMUP_SHARE
        if spent + took > allowed * share_seconds:
            break
    return took


def _against_float(samples_ms: Mapping[str, Samples], int8: Collection[str], seed: int) -> list[Speedup]:
    """Every int8 candidate against the fastest float one, the fastest first."""
    baseline = samples_ms[fastest_of(samples_ms, int8, inside=False)]
    eager = samples_ms.get(FLOAT_EAGER)
    speedups = []
    for name in (name for name in samples_ms if name in int8):
        speedup = median_ratio(baseline, samples_ms[name])
        low, high = stated_interval(speedup_ci95(baseline, samples_ms[name], seed), speedup)
        speedups.append(
            Speedup(
                name=name,
                speedup=speedup,
                speedup_ci95=(low, high),
                significant=low > 1 or high < 1,
                speedup_vs_eager=None if eager is None else median_ratio(eager, samples_ms[name]),
            )
        )
    return sorted(speedups, key=lambda each: each.speedup, reverse=True)


def stats_of(name: str, samples_ms: Samples, batch_size: int) -> LatencyStats:
    """What the samples of one candidate come to."""
    p50, p90, p99 = (float(value) for value in np.percentile(samples_ms, [50, 90, 99]))
    p50_bound, p90_bound, p99_bound = (percentile_bound_ms(samples_ms, share) for share in (0.5, 0.9, 0.99))
    return LatencyStats(
        name=name,
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=None if p99_bound is None else p99,
        p50_bound_ms=p50_bound,
        p90_bound_ms=p90_bound,
        p99_bound_ms=p99_bound,
        mean_ms=float(samples_ms.mean()),
        throughput_per_second=batch_size / p50 * 1000,
        samples_ms=[round(float(sample), 5) for sample in samples_ms],
    )


def _conclusion(fastest: Speedup, baseline: str) -> str:
    int8, of_float = candidate_name(fastest.name), candidate_name(baseline)
    low, high = fastest.speedup_ci95
    if not fastest.significant:
        return f"No significant difference between {int8} and {of_float} ({low:.2f} to {high:.2f})."
    if fastest.speedup > 1:
        return f"{int8} is {fastest.speedup:.2f} times as fast as {of_float} ({low:.2f} to {high:.2f})."
    slower, least, most = 1 / fastest.speedup, 1 / high, 1 / low
    return f"{int8} takes {slower:.2f} times as long as {of_float} ({least:.2f} to {most:.2f})."


def note_of(kept: Rounds, sittings: list[Rounds]) -> str | None:
    """What there is to doubt of the rounds that are kept, in sentences."""
    told = [f"{'Noisy: ' if is_noise(doubt) else ''}{doubt.told}" for doubt in kept.doubts]
    if len(sittings) > 1:
        which = "first" if sittings[0] is kept else "second"
        told.insert(0, f"Measured twice, for the first time was noisy; the {which} is kept.")
    return " ".join(told) or None


def width_of(interval: tuple[float, float]) -> float:
    """How far the ends of the interval of a ratio are apart."""
    low, high = interval
    return high / low - 1


@contextmanager
def computing_with(count: int) -> Iterator[None]:
    """Compute with this many threads inside the block, and with as many as before after it."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
