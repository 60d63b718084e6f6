"""Findings: from the facts of a report to warnings that name a layer, a cause, the evidence, and what to do.

    case        what was asked and what came of it; what a layer costs the output
    ranges      ranges that do not fit the values
    settings    settings that cost quality
    layers      layers that cost quality for what they are
    structure   dead layers, islands, pairs that stayed apart
    first_wrong where the int8 model first goes wrong
    speed       layers that int8 makes slower, once they are timed

The first finding is the most telling: what costs the output most while the model is poor; while it is good, what the
graph wastes comes before the last decibels, but not what would cost some of them. A specific cause stands for its
layer's sensitivity.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from shared.job_report import ReportWarning
from shared.layer_report import LayerSummary
from shared.layer_times import LayerTimes
from worker.findings import layers, ranges, settings, structure
from worker.findings.case import WORTH_DB, Case, Finding
from worker.findings.speed import slow_layers

__all__ = ["Case", "Finding", "find", "with_slow_layers"]

Rule = Callable[[Case], Iterable[Finding]]

_CAUSES: tuple[Rule, ...] = (
    ranges.fault_of_the_data,
    settings.few_levels,
    ranges.outlier_channels,
    ranges.stretched,
    ranges.cut_off,
    settings.weights_per_tensor,
    layers.bias_shift,
)
#: Told of good models as well: they cost nothing to undo.
_ASKED_FOR: tuple[Rule, ...] = (
    settings.symmetric_activation,
    settings.few_levels,
    settings.reduce_range_needless,
    structure.unfused,
)
_STRUCTURE: tuple[Rule, ...] = (
    structure.dead_layers,
    structure.int8_islands,
    structure.missing_observers,
    structure.mostly_float,
)


#: What a step has said already, with more of the cause.
_SAID: dict[Rule, set[str]] = {structure.mostly_float: {"convolutions_in_float", "multiplications_in_float"}}


def find(case: Case, told: Sequence[ReportWarning] = ()) -> list[ReportWarning]:
    """Every finding, the most telling first, with what the steps `told` already.

    Of those, what comes with a suggestion is of a cause that the graph shows as waste at most, and stands before it;
    the others are for last.
    """
    rules = (*_CAUSES, *_ASKED_FOR) if case.leaves_to_be_desired else _ASKED_FOR
    causes = _once_a_layer([finding for rule in rules for finding in rule(case)])
    named = {finding.warning.layer for finding in causes}
    general = [finding for finding in layers.sensitive_layers(case) if finding.warning.layer not in named]
    if not causes and not general:
        general = list(layers.spread_error(case))
    by_now = {warning.code for warning in told}
    wasted = [finding for rule in _STRUCTURE for finding in rule(case) if not (rule in _SAID and _SAID[rule] & by_now)]
    wasted += [finding for finding in causes if finding.cost < WORTH_DB]
    causes = [finding for finding in causes if finding.cost >= WORTH_DB]
    islands = list(structure.float_islands(case))  # to put one in int8 costs quality: first what there is of it to gain
    if case.is_poor:
        before, after = [causes, general], [wasted, islands]
    elif case.leaves_to_be_desired:
        before, after = [], [wasted, causes, general, islands]
    else:
        before, after = [], [[*wasted, *islands], causes, general]
    return [
        *_ranked([list(structure.float_not_finite(case)), *before]),
        *[warning for warning in told if warning.suggestion is not None],
        *_ranked(after),
        *[warning for warning in told if warning.suggestion is None],
    ]


def with_slow_layers(
    found: Sequence[ReportWarning], times: LayerTimes | None, layers: Sequence[LayerSummary], *, quality_holds: bool
) -> list[ReportWarning]:
    """What was `found`, with the layers that `times` shows to be slow.

    Speed comes first where quality holds, and last where it does not; but what makes every figure doubtful stands
    before it.
    """
    slow = [] if times is None else slow_layers(times, layers)
    if not quality_holds:
        return [*found, *slow]
    doubtful = [warning for warning in found if warning.code == "float_not_finite"]
    return [*doubtful, *slow, *(warning for warning in found if warning not in doubtful)]


def _ranked(groups: list[list[Finding]]) -> list[ReportWarning]:
    """Within each group by cost; of two that cost the same the one with a suggestion first."""
    return [
        finding.warning
        for findings in groups
        for finding in sorted(findings, key=lambda each: (-each.cost, each.warning.suggestion is None))
    ]


def _once_a_layer(findings: list[Finding]) -> list[Finding]:
    """Of several causes for one layer the first rule's: rules stand from the surest cause to the vaguest."""
    kept: dict[str | None, Finding] = {}
    for finding in findings:
        kept.setdefault(finding.warning.layer, finding)
    return list(kept.values())
