"""Models of which one inference takes seconds or minutes: of those only what is likely to be the fastest is measured.

Every candidate is called a dozen times at least before anything is known of its latency. Nine candidates of two minutes
each would take hours; one call of each tells well enough which are worth the rounds.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from worker.candidate_names import candidate_name
from worker.inference import BatchRange, run_model
from worker.latency import computing_with
from worker.progress import ProgressTracker
from worker.runtimes import called
from worker.steps.contenders import Contender

_SLOW_SECONDS = 2.0
_PATIENCE_SECONDS = 60.0


class Kind(NamedTuple):
    """Candidates of which the reader wants the fastest."""

    right: Sequence[str]
    """Of these it may be one."""
    wrong: Sequence[str] = ()
    """What goes with them, and does not compute what it should."""


def worth_rounds(
    candidates: Mapping[str, Contender],
    kinds: Sequence[Kind],
    inputs: tuple[Tensor, ...],
    batch: BatchRange,
    *,
    threads: int,
    tracker: ProgressTracker,
) -> dict[str, Contender]:
    """All of them, but of a kind whose first takes long the fastest only.

    Of a slow kind one in each runtime is called, and then more until the patience with it is over. What is left out is
    told. Raises ModelFailed when one raises on these inputs.
    """
    fastest: dict[str, float] = {}
    left_out: set[str] = set()
    calls = 0
    with computing_with(threads):
        for kind in kinds:
            took = _called_in_turn(_each_runtime_first(kind.right, candidates), candidates, inputs, batch, threads)
            slow = next(iter(took.values())) >= _SLOW_SECONDS
            if slow and len(kind.right) + len(kind.wrong) > 1:
                best = min(took, key=took.__getitem__)
                fastest[best] = took[best]
                left_out |= {*kind.right, *kind.wrong} - {best}
                calls += len(took)
    if left_out:
        tracker.warn(
            "slow_model",
            f"An inference takes seconds: of {len(fastest) + len(left_out)} candidates only "
            f"{' and '.join(f'{candidate_name(name)} ({seconds:.3g} s)' for name, seconds in fastest.items())} "
            f"{'is' if len(fastest) == 1 else 'are'} measured, the fastest of {calls} that were called once.",
            "Measure the others in a job of their own, with the runtimes that matter.",
        )
    return {name: candidate for name, candidate in candidates.items() if name not in left_out}


def _each_runtime_first(names: Sequence[str], candidates: Mapping[str, Contender]) -> list[list[str]]:
    """In turns: the first of each runtime, and then all others."""
    first = {candidates[name].runtime: name for name in reversed(names)}
    one_each = [name for name in names if name in first.values()]
    return [one_each, [name for name in names if name not in one_each]]


def _called_in_turn(
    turns: Sequence[Sequence[str]],
    candidates: Mapping[str, Contender],
    inputs: tuple[Tensor, ...],
    batch: BatchRange,
    threads: int,
) -> dict[str, float]:
    """The seconds of one call of each of the first turn, and of others while there is patience; a quick one's alone."""
    took: dict[str, float] = {}
    for turn, names in enumerate(turns):
        for name in names:
            if turn > 0 and sum(took.values()) >= _PATIENCE_SECONDS:
                return took
            took[name] = _seconds(candidates[name], inputs, batch, threads)
            if len(took) == 1 and took[name] < _SLOW_SECONDS:
                return took
    return took


def _seconds(candidate: Contender, inputs: tuple[Tensor, ...], batch: BatchRange, threads: int) -> float:
    run = called(candidate.open(threads))
    began_at = time.perf_counter()
    run_model(run, inputs, batch)
    return time.perf_counter() - began_at
