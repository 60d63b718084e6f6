"""Findings: from the facts of a report to warnings that name a layer, a cause, the evidence, and what to do.

    case        what was asked and what came of it; what a layer costs the output
    ranges      ranges that do not fit the values
    settings    settings that cost quality
    layers      layers that cost quality for what they are
    structure   dead layers, islands, pairs that stayed apart
    first_wrong where the int8 model first goes wrong

The first finding is the most telling: what costs the output most while the model is poor; while it is good, what the
graph wastes comes before the last decibels. A specific cause stands for its layer's sensitivity.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from shared.job_report import ReportWarning
from worker.findings import layers, ranges, settings, structure
from worker.findings.case import WORTH_DB, Case, Finding

__all__ = ["Case", "Finding", "find"]

Rule = Callable[[Case], Iterable[Finding]]

_CAUSES: tuple[Rule, ...] = (
    ranges.fault_of_the_data,
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
    structure.float_islands,
    structure.int8_islands,
    structure.missing_observers,
    structure.mostly_float,
)


def find(case: Case) -> list[ReportWarning]:
    """Every finding, the most telling first."""
    rules = (*_CAUSES, *_ASKED_FOR) if case.leaves_to_be_desired else _ASKED_FOR
    causes = _once_a_layer([finding for rule in rules for finding in rule(case)])
    named = {finding.warning.layer for finding in causes}
    general = [finding for finding in layers.sensitive_layers(case) if finding.warning.layer not in named]
    if not causes and not general:
        general = list(layers.spread_error(case))
    wasted = [finding for rule in _STRUCTURE for finding in rule(case)]
    wasted += [finding for finding in causes if finding.cost < WORTH_DB]
    causes = [finding for finding in causes if finding.cost >= WORTH_DB]
    order = [causes, general, wasted] if case.is_poor else [wasted, causes, general]
    return [
        finding.warning
        for findings in order
        for finding in sorted(findings, key=lambda finding: finding.cost, reverse=True)
    ]


def _once_a_layer(findings: list[Finding]) -> list[Finding]:
    """Of several causes for one layer the first rule's: rules stand from the surest cause to the vaguest."""
    kept: dict[str | None, Finding] = {}
    for finding in findings:
        kept.setdefault(finding.warning.layer, finding)
    return list(kept.values())
