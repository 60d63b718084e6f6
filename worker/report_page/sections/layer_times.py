"""The time of each layer, float beside int8 in the same runtime; what quant boundaries cost; the rest."""

from __future__ import annotations

import math
from collections.abc import Sequence

from shared.job_report import JobReport
from shared.layer_times import BoundaryTime, LayerTime, LayerTimes, OtherTime
from worker.candidate_names import candidate_name
from worker.report_page.figures import percent, plural, significant, times
from worker.report_page.layout import (
    Column,
    Section,
    badge,
    folded,
    name,
    note,
    precision_badge,
    subheading,
    table,
)
from worker.report_page.markup import Content, Html, element, join, shorten
from worker.report_page.plots import rect, svg

MAX_ROWS = 1000
_BAR = 150.0  # pixels of the longest
_CHANGES = {"faster": ("faster", "yes"), "slower": ("slower", "flag"), "same": ("same", "p-other")}


def layer_times(report: JobReport, room: int) -> Section | None:
    """The artifact of the verdict in full, the others on demand."""
    if not report.layer_times:
        return None
    first, *others = report.layer_times
    parts = [_one(first, room)]
    parts += [
        folded(f"The same as {candidate_name(each.int8_candidate)}", _one(each, room // len(others))) for each in others
    ]
    return Section("layer-times", "Time by layer", join(parts))


def _one(found: LayerTimes, room: int) -> Html:
    return join(
        [
            element("p", shorten(found.conclusion, 2000)),
            _layers(found, room),
            _boundaries(found, room),
            _others(found.others, room),
            note(
                f"{candidate_name(found.int8_candidate)} and {candidate_name(found.float_candidate)} at batch "
                f"{found.batch_size} on {plural(found.threads, 'thread')}, opened anew "
                f"{plural(found.openings, 'time')} for {plural(found.runs, 'run')} each; times are medians. "
                f"{shorten(found.method, 1000)}"
            ),
        ]
    )


def _layers(found: LayerTimes, room: int) -> Html:
    """What changed most comes first."""
    longest = max((each for layer in found.layers for each in (layer.float_ms, layer.int8_ms)), default=0.0)
    columns = [
        Column("Layer"),
        Column("Runs in"),
        Column("Float and int8", "text", "Above float, below int8, all on one scale"),
        Column("Float, ms", "number"),
        Column("int8, ms", "number"),
        Column("int8 − float, ms", "number"),
        Column("Ratio", "number", "Float / int8: above 1 it got faster"),
        Column("Share", "number", "Of the time of all operators of the int8 model"),
        Column("Noise, ms", "number", "How far the difference lay apart each time the files were opened"),
        Column("It got"),
    ]
    ordered = sorted(found.layers, key=lambda each: -abs(each.int8_ms - each.float_ms))
    rows: list[list[Content]] = [
        [
            _named(each),
            precision_badge(each.precision),
            _bars(each, longest),
            significant(each.float_ms),
            significant(each.int8_ms),
            significant(each.int8_ms - each.float_ms, 2),
            times(each.ratio),
            percent(each.share),
            significant(each.noise_ms, 2),
            badge(*_CHANGES[each.changed]),
        ]
        for each in ordered[:MAX_ROWS]
    ]
    return table(
        f"Time by layer, {candidate_name(found.int8_candidate)}",
        columns,
        rows,
        find="layer",
        tall=len(rows) > 40,
        room=room,
        of=len(ordered),
        noun="layer",
    )


def _named(layer: LayerTime) -> Content:
    if not layer.together:
        return name(layer.layer)
    return [name(layer.layer), element("small", " with ", name(", ".join(layer.together)))]


def _bars(layer: LayerTime, longest: float) -> Html:
    """Two bars from zero: float above, int8 below."""
    drawn = [
        rect(0, y, _width(value, longest), 6, f"bar {kind}")
        for y, value, kind in ((1, layer.float_ms, "float32"), (9, layer.int8_ms, "int8"))
    ]
    label = f"{significant(layer.float_ms)} ms in float, {significant(layer.int8_ms)} ms in int8"
    return svg(_BAR, 16, drawn, label=label)


def _width(value: float, longest: float) -> float:
    share = value / longest if longest > 0 else 0.0
    return max(1.0, _BAR * min(1.0, share)) if math.isfinite(share) else 1.0


def _boundaries(found: LayerTimes, room: int) -> Html:
    if not found.boundaries:
        return join(None)
    costliest: Sequence[BoundaryTime] = sorted(found.boundaries, key=lambda each: -each.ms)
    columns = [Column("From"), Column("To"), Column("What"), Column("Time, ms", "number")]
    rows: list[list[Content]] = [
        [name(each.producer), name(each.consumer), each.kind, significant(each.ms)] for each in costliest[:MAX_ROWS]
    ]
    told = f"Together {significant(found.boundaries_ms)} ms of {significant(found.int8_ms)} ms."
    if found.float_reorders_ms > 0:
        told += f" The float model reorders as well, for {significant(found.float_reorders_ms)} ms."
    return join(
        [
            subheading("What passing between int8 and float costs"),
            note(told),
            table("Boundaries by time", columns, rows, find="layer", room=room, of=len(costliest), noun="place"),
        ]
    )


def _others(others: Sequence[OtherTime], room: int) -> Html:
    if not others:
        return join(None)
    columns = [Column("Operator"), Column("Float, ms", "number"), Column("int8, ms", "number")]
    ordered = sorted(others, key=lambda each: -max(each.float_ms, each.int8_ms))
    rows: list[list[Content]] = [
        [name(each.op), significant(each.float_ms), significant(each.int8_ms)] for each in ordered[:MAX_ROWS]
    ]
    written = table("Other operators by type", columns, rows, room=room, of=len(ordered), noun="type")
    return folded("Operators that are of no layer, or only give tensors another shape", written)
