"""Latency of any candidates against each other: interleaved as `worker/latency.py` does, and told by whose is whose."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from shared.benchmark_report import ComparisonResult, ComparisonSitting, FormSpeedup
from worker.candidate_names import form_name
from worker.latency import Candidate, Rounds, fastest_of, measure_rounds, note_of, stats_of, width_of
from worker.latency_statistics import Samples, median_ratio, speedup_ci95, stated_interval


def compare_latency(
    candidates: Mapping[str, Candidate],
    *,
    own: Collection[str],
    right: Collection[str],
    batch_size: int,
    threads: int,
    max_seconds: float,
    seed: int,
    advance: Callable[[float], None] = lambda _: None,
) -> ComparisonResult:
    """Measure all forms; those in `own` are the first candidate's, those in `right` compute what they should.

    One of `own` must be in `right`. Budget and rounds are as in `measure_latency`.
    """
    sittings = measure_rounds(candidates, threads=threads, max_seconds=max_seconds, seed=seed, advance=advance)
    compared = [_against_own(each.samples_ms, own, right, seed) for each in sittings]
    kept = min(range(len(sittings)), key=lambda at: (len(sittings[at].causes), _widest(compared[at])))
    rounds, speedups = sittings[kept], compared[kept]
    baseline = _baseline(rounds.samples_ms, own, right)
    fastest = fastest_of(rounds.samples_ms, right, inside=True)
    told = told_speedup(fastest, baseline, speedups, own, right)
    return ComparisonResult(
        batch_size=batch_size,
        threads=threads,
        rounds=rounds.count,
        baseline=baseline,
        fastest=fastest,
        candidates=[stats_of(name, samples, batch_size) for name, samples in rounds.samples_ms.items()],
        speedups=speedups,
        conclusion=told.sentence,
        significant=told.significant,
        cores=rounds.cores,
        noisy=bool(rounds.causes),
        doubts=rounds.doubts,
        sittings=[_sitting(each, kept=each is rounds) for each in sittings],
        note=note_of(rounds, sittings),
    )


class Told(NamedTuple):
    """What is said of a comparison."""

    sentence: str
    significant: bool
    """Whether it tells of a difference that is more than noise; also of a form that was measured alone."""


def told_speedup(
    fastest: str, baseline: str, speedups: list[FormSpeedup], own: Collection[str], right: Collection[str]
) -> Told:
    """Which is the fastest, and by how much: than the first candidate, or where it is that, than the next one."""
    if fastest != baseline:
        found = next(each for each in speedups if each.name == fastest)
        return _told(found, fastest, baseline)
    others = [each for each in speedups if each.name in right]
    following = next((each for each in others if each.name not in own), others[0] if others else None)
    if following is None:
        return Told(f"{form_name(fastest)} was measured alone.", significant=True)
    low, high = following.speedup_ci95
    turned = FormSpeedup(
        name=fastest,
        speedup=1 / following.speedup,
        speedup_ci95=(1 / high, 1 / low),
        significant=following.significant,
    )
    return _told(turned, fastest, following.name)


def _told(found: FormSpeedup, fastest: str, other: str) -> Told:
    low, high = found.speedup_ci95
    pair = form_name(fastest), form_name(other)
    if not found.significant:
        sentence = f"No significant difference between {pair[0]} and {pair[1]} ({low:.2f}–{high:.2f}×)."
    else:
        sentence = f"{pair[0]} is the fastest: {found.speedup:.2f} times as fast as {pair[1]} ({low:.2f}–{high:.2f})."
    return Told(sentence, found.significant)


def _baseline(samples_ms: Mapping[str, Samples], own: Collection[str], right: Collection[str]) -> str:
    return fastest_of(samples_ms, [name for name in own if name in right], inside=True)


def _against_own(
    samples_ms: Mapping[str, Samples], own: Collection[str], right: Collection[str], seed: int
) -> list[FormSpeedup]:
    """Every other form against the first candidate's fastest right one, the fastest first."""
    name_of_baseline = _baseline(samples_ms, own, right)
    baseline, speedups = samples_ms[name_of_baseline], list[FormSpeedup]()
    for name, samples in samples_ms.items():
        if name == name_of_baseline:
            continue
        speedup = median_ratio(baseline, samples)
        low, high = stated_interval(speedup_ci95(baseline, samples, seed), speedup)
        speedups.append(
            FormSpeedup(name=name, speedup=speedup, speedup_ci95=(low, high), significant=low > 1 or high < 1)
        )
    return sorted(speedups, key=lambda each: each.speedup, reverse=True)


def _widest(speedups: list[FormSpeedup]) -> float:
    return max((width_of(each.speedup_ci95) for each in speedups), default=0.0)


def _sitting(rounds: Rounds, *, kept: bool) -> ComparisonSitting:
    return ComparisonSitting(cores=rounds.cores, rounds=rounds.count, doubts=rounds.doubts, kept=kept)
