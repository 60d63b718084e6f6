"""Layers that int8 makes slower, or whose quant boundaries cost more than it saves: told once all is measured.

What is suggested would move boundaries, not only remove them: those that arise where a neighbour stays in int8 are
reckoned with, at what the measured ones cost on average.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from shared.job_report import ReportWarning, Suggestion
from shared.layer_report import LayerSummary
from shared.layer_times import LayerTime, LayerTimes
from worker.candidate_names import candidate_name
from worker.findings.case import suggest
from worker.quantization import in_float

_WORTH = 0.05  # of the p50 of int8: less is not worth a change of the spec
_WORTH_MS = 0.005  # however small the whole is: some runtimes' clocks tell whole microseconds
_NOISE = 2.0  # times what the openings lay apart: less may be chance
_MOST = 3


@dataclass(frozen=True)
class _Cost:
    """What a layer costs in int8, beyond what it would in float, in ms."""

    row: LayerTime
    own_ms: float
    """Of boundaries that are there for it alone."""
    new_ms: float
    """Of those that would arise."""

    @property
    def gain_ms(self) -> float:
        return self.row.int8_ms - self.row.float_ms + self.own_ms - self.new_ms


def slow_layers(found: LayerTimes, layers: Sequence[LayerSummary]) -> list[ReportWarning]:
    """The costliest of them, each with what its place in float is expected to gain; none that may be chance."""
    known = {layer.name: layer for layer in layers}
    costs = [
        _cost(row, found)
        for row in found.layers
        if row.precision == "int8" and row.noise_ms is not None  # of files that were opened once nothing is known
    ]
    worth = [
        each
        for each in costs
        if each.gain_ms > max(_WORTH_MS, _WORTH * found.int8_p50_ms, _NOISE * (each.row.noise_ms or 0))
    ]
    worth.sort(key=lambda cost: -cost.gain_ms)
    return [_told(cost, found, known) for cost in worth[:_MOST]]


def _cost(row: LayerTime, found: LayerTimes) -> _Cost:
    names = {row.layer, *row.together}
    crossings = [each for each in found.boundaries if each.kind != "reorder"]
    before = [each.ms for each in crossings if each.kind == "quantize" and each.consumer in names]
    behind = [each.ms for each in crossings if each.kind == "dequantize" and each.producer in names]
    usual = found.boundaries_ms / len(crossings) if crossings else 0.0  # with the reordering that comes along
    return _Cost(row, own_ms=sum(before) + sum(behind), new_ms=usual * ((not before) + (not behind)))


def _told(cost: _Cost, found: LayerTimes, known: dict[str, LayerSummary]) -> ReportWarning:
    row = cost.row
    is_slower = row.changed == "slower"
    members = [name for name in (row.layer, *row.together) if name in known and known[name].precision == "int8"]
    where = f"{candidate_name(found.int8_candidate)}, batch {found.batch_size}, {found.threads} thread"
    where += "s" if found.threads > 1 else ""
    return ReportWarning(
        code="slower_in_int8" if is_slower else "boundaries_cost_more",
        layer=row.layer,
        message=f"{row.layer} takes longer in int8 than in float."
        if is_slower
        else f"Quantizing and dequantizing for {row.layer} costs more than int8 saves in it.",
        evidence=f"{row.int8_ms:.3g} ms in int8 and {row.float_ms:.3g} ms in float, give or take {row.noise_ms:.2g} "
        f"ms; quantizing and dequantizing for it alone {cost.own_ms:.2g} ms ({where}).",
        suggestion=_keep_in_float(members, cost, found, known),
    )


def _keep_in_float(
    members: Collection[str], cost: _Cost, found: LayerTimes, known: dict[str, LayerSummary]
) -> Suggestion | None:
    """None where nothing that multiplies would be left in int8: such a job is refused."""
    left = [each for each in known.values() if each.precision == "int8" and each.macs and each.name not in members]
    if not left:
        return None
    reckoned = f", with {cost.new_ms:.2g} ms for the boundaries that arise" if cost.new_ms else ""
    return suggest(
        f"Keep {' and '.join(members)} in float",
        {"overrides": [entry for name in members for entry in in_float(name)["overrides"]]},
        f"up to {cost.gain_ms:.2g} ms of {found.int8_p50_ms:.3g} ms, measured{reckoned}",
    )
