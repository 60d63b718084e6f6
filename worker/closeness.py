"""How near an int8 model is to the float model in all of its outputs: those furthest from it decide.

Float outputs are weighed by SQNR. Discrete ones (integers and booleans: an arg max beside the logits, say) are not
signals: class 7 is no nearer to 8 than to 1, so of them only the share of equal elements counts. A model that gives
nothing else is weighed by the SQNR of its outputs written as one-hot vectors, `−10·log10(2·share that differs)`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from shared.job_report import OutputFidelity, Quality

SQNR_LIMIT_DB = 200.0
"""Reported SQNR is clamped to ±this: an all-zero float output, or a NaN in int8 only, has no finite SQNR."""

FAR_DB, FAR_AGREEMENT = 20.0, 0.95
"""Below, an output or a layer is far from float: a noise of 10 % of the signal, one decision of twenty changed."""
LEAST_DB = 10.0
"""Below, a noise of a third of the signal, an arg max that agrees excuses nothing: plain numbers have one too, and one
that is always the same agrees whatever the numbers are."""
NEAR_DB, NEAR_AGREEMENT = 30.0, 0.99
"""From here on it does what float does, if not to the last decibel."""
ALIKE_DB = 40.0
"""From here on more fidelity is worth nothing: a noise of 1 %."""


@dataclass(frozen=True)
class Closeness:
    """How near a model is to the float model on some samples."""

    sqnr_db: float
    """Of the worst output; SQNR_LIMIT_DB when all are equal."""
    agreement: float | None
    """Of the worst output that has classes or is discrete; None when none is."""

    @property
    def agrees(self) -> bool:
        """Whether it decides as the float model does, and that says something."""
        return self.agreement is not None and self.agreement >= NEAR_AGREEMENT and self.sqnr_db >= LEAST_DB

    @property
    def reported_db(self) -> float | None:
        """SQNR as the report says it: None where the outputs are equal."""
        return None if self.sqnr_db >= SQNR_LIMIT_DB else self.sqnr_db


def closeness(fidelity: Sequence[OutputFidelity]) -> Closeness:
    """Of a model with these outputs."""
    worst = worst_output(fidelity)
    return Closeness(
        sqnr_db=SQNR_LIMIT_DB if worst is None else _comparable_db(worst),
        agreement=min((output.agreement for output in fidelity if output.agreement is not None), default=None),
    )


def is_poor(quality: Quality) -> bool:
    """Whether the int8 model cannot stand in for the float model: it misses the accuracy target.

    Where no target could be checked: an output is far from float, by its agreement where it has classes or is discrete,
    else by its SQNR. So it is with mse where nobody set the target: labels of much noise hide an error of any size. The
    verdict and the warnings both go by this.
    """
    metric = quality.metric
    if metric is not None and metric.met is not None:
        trusted = metric.name != "mse" or not metric.by_default
        if trusted or not metric.met:
            return not metric.met
    return is_far(quality.fidelity)


def is_far(fidelity: Sequence[OutputFidelity]) -> bool:
    """Whether an output is far off: by its agreement where it has classes or is discrete, else by its SQNR.

    By its SQNR also where that is so low that an agreement may be chance.
    """
    return any(_is_far(output) for output in fidelity)


def worst_output(fidelity: Sequence[OutputFidelity]) -> OutputFidelity | None:
    """The float output with the least SQNR; of a model without float outputs the one that agrees least."""
    weighed = [output for output in fidelity if not output.discrete] or fidelity
    return min(weighed, key=_comparable_db, default=None)


def _is_far(output: OutputFidelity) -> bool:
    least_db = FAR_DB if output.agreement is None else LEAST_DB
    too_few_agree = output.agreement is not None and output.agreement < FAR_AGREEMENT
    return too_few_agree or (output.sqnr_db is not None and output.sqnr_db < least_db)


def _comparable_db(output: OutputFidelity) -> float:
    if not output.discrete:
        return SQNR_LIMIT_DB if output.sqnr_db is None else output.sqnr_db
    differing = 0.0 if output.agreement is None else 1 - output.agreement
    return SQNR_LIMIT_DB if differing <= 0 else -10 * math.log10(2 * differing)
