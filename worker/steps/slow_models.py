"""Models of which one inference takes seconds or minutes: of those only what is likely to be the fastest is measured.

Every candidate is called a dozen times at least before anything is known of its latency. Nine candidates of two minutes
each would take hours; one call of each tells well enough which are worth the rounds.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from torch import Tensor

from worker.candidate_names import candidate_name
from worker.inference import BatchRange, run_model
from worker.progress import ProgressTracker
from worker.runtimes import called
from worker.steps.contenders import Contender

_SLOW_SECONDS = 2.0
_PATIENCE_SECONDS = 60.0
_TRIED = 3
"""Candidates of a kind that are called however long they take: one in each runtime."""


def worth_rounds(
    candidates: Mapping[str, Contender],
    kinds: Sequence[Sequence[str]],
    inputs: tuple[Tensor, ...],
    batch: BatchRange,
    tracker: ProgressTracker,
) -> dict[str, Contender]:
    """All of them, but of a kind whose first takes long the fastest only.

    `kinds` name the candidates of which the reader wants the fastest, those that are likely to be it first; what is of
    no kind is kept. Of a slow kind three are called, and more until the patience with it is over. What is left out is
    told. Raises ModelFailed when one raises on these inputs.
    """
    fastest: dict[str, float] = {}
    left_out: set[str] = set()
    for names in kinds:
        took = _called_in_turn(names, candidates, inputs, batch)
        if took[names[0]] >= _SLOW_SECONDS and len(names) > 1:
            best = min(took, key=took.__getitem__)
            fastest[best] = took[best]
            left_out |= set(names) - {best}
    if left_out:
        tracker.warn(
            "slow_model",
            f"An inference takes seconds: of {len(fastest) + len(left_out)} candidates only "
            f"{' and '.join(f'{candidate_name(name)} ({seconds:.3g} s)' for name, seconds in fastest.items())} "
            "are measured, each the fastest of its kind at one call each.",
            "Measure the others in a job of their own, with the runtimes that matter.",
        )
    return {name: candidate for name, candidate in candidates.items() if name not in left_out}


def _called_in_turn(
    names: Sequence[str], candidates: Mapping[str, Contender], inputs: tuple[Tensor, ...], batch: BatchRange
) -> dict[str, float]:
    """The seconds of one call of each; only of the first when that is quick."""
    took: dict[str, float] = {}
    for name in names:
        took[name] = _seconds(candidates[name], inputs, batch)
        if took[names[0]] < _SLOW_SECONDS or (len(took) >= _TRIED and sum(took.values()) >= _PATIENCE_SECONDS):
            break
    return took


def _seconds(candidate: Contender, inputs: tuple[Tensor, ...], batch: BatchRange) -> float:
    run = called(candidate.open(1))
    began_at = time.perf_counter()
    run_model(run, inputs, batch)
    return time.perf_counter() - began_at
