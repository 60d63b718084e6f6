"""Models of which one inference takes seconds or minutes: of those only what is likely to be the fastest is measured.

Every candidate is called a dozen times at least before anything is known of its latency. Nine candidates of two minutes
each would take hours; one call of each tells well enough which are worth the rounds.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping

from torch import Tensor

from worker.candidate_names import candidate_name
from worker.inference import BatchRange, run_model
from worker.progress import ProgressTracker
from worker.steps.contenders import Contender

_SLOW_SECONDS = 2.0
_PATIENCE_SECONDS = 60.0
"""With float models: the int8 ones, which the job is about, are all called."""


def worth_rounds(
    candidates: Mapping[str, Contender],
    int8: Collection[str],
    inputs: tuple[Tensor, ...],
    batch: BatchRange,
    tracker: ProgressTracker,
) -> dict[str, Contender]:
    """All of them, unless the first takes long: then the fastest float one and the fastest of those named in `int8`.

    Float models are called in their order, until the patience with them is over. What is left out is told. Raises
    ModelFailed when one raises on these inputs.
    """
    names = list(candidates)
    took = {names[0]: _seconds(candidates[names[0]], inputs, batch)}
    if took[names[0]] < _SLOW_SECONDS:
        return dict(candidates)
    for name in names[1:]:
        if name in int8 or sum(took.values()) < _PATIENCE_SECONDS:
            took[name] = _seconds(candidates[name], inputs, batch)
    kinds = ([name for name in took if (name in int8) is of_int8] for of_int8 in (False, True))
    kept = [min(alike, key=took.__getitem__) for alike in kinds if alike]
    tracker.warn(
        "slow_model",
        f"One inference takes {took[kept[0]]:.3g} s: of {len(names)} candidates only "
        f"{' and '.join(map(candidate_name, kept))} are measured, the fastest of {len(took)} at one call each.",
        "Measure the others in a job of their own, with the runtimes that matter.",
    )
    return {name: candidates[name] for name in kept}


def _seconds(candidate: Contender, inputs: tuple[Tensor, ...], batch: BatchRange) -> float:
    session = candidate.open(1)
    began_at = time.perf_counter()
    run_model(lambda *given: session.run(given), inputs, batch)
    return time.perf_counter() - began_at
