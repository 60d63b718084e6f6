"""How the model is cut up: quant boundaries, fusions, and what was left in float."""

from __future__ import annotations

import json

from shared.job_report import JobReport
from shared.layer_report import Fusion, LayerSummary, QuantBoundary
from worker.report_page.figures import NONE, milliseconds, plural, significant, whole
from worker.report_page.layout import Column, Section, badge, folded, name, note, subheading, table
from worker.report_page.markup import Content, Html, element, join, shorten
from worker.report_page.sections.layers import MAX_ROWS


def structure(report: JobReport, room: int) -> Section | None:
    """Boundaries with what would remove them, fusions made and missed, and float layers with the reason."""
    in_float = [each for each in report.layers if each.precision == "float32"]
    parts = [_boundaries(report.boundaries, room), _fusions(report.fusions, room), _float_layers(in_float, room)]
    if not any(parts):
        return None
    return Section("structure", "Quant boundaries, fusions, float operators", join(parts))


def _boundaries(boundaries: list[QuantBoundary], room: int) -> Content:
    if not boundaries:
        return None
    known = [each.cost_ms for each in boundaries if each.cost_ms is not None]
    cost = f", {milliseconds(sum(known))} together at batch 1" if known else ""
    columns = [
        Column("From"),
        Column("To"),
        Column("Passes to"),
        Column("Elements", "number", "Of the tensor, for one sample"),
        Column("Cost, ms", "number", "Median at batch 1"),
        Column("Removed by", "text", "A spec patch"),
    ]
    rows: list[list[Content]] = [
        [
            name(each.producer),
            name(each.consumer),
            badge("int8", "p-int8") if each.direction == "quantize" else badge("float32", "p-float32"),
            whole(each.elements),
            significant(each.cost_ms, 2),
            _patch(each),
        ]
        for each in boundaries[:MAX_ROWS]
    ]
    return join(
        [
            subheading("Quant boundaries"),
            note(f"A tensor passes between int8 and float at {plural(len(boundaries), 'place')}{cost}."),
            table("Quant boundaries", columns, rows, find="layer", room=room, of=len(boundaries), noun="place"),
        ]
    )


def _patch(boundary: QuantBoundary) -> Content:
    if boundary.removed_by is None:
        return NONE
    return element("code", shorten(json.dumps(boundary.removed_by, ensure_ascii=False, default=str), 300))


def _fusions(fusions: list[Fusion], room: int) -> Content:
    if not fusions:
        return None
    missed = [each for each in fusions if not each.fused]
    made = [each for each in fusions if each.fused]
    told = f"{plural(len(made), 'group')} of layers run as one kernel; {plural(len(missed), 'group')} could and do not."
    written = [_fusion_table("Not fused, and why", missed, room, with_reason=True)] if missed else []
    if made:
        written.append(
            folded(
                f"What was fused: {plural(len(made), 'group')}", _fusion_table("Fused", made, room, with_reason=False)
            )
        )
    return join([subheading("Fusions"), note(told), *written])


def _fusion_table(caption: str, fusions: list[Fusion], room: int, *, with_reason: bool) -> Html:
    columns = [Column("Layers"), Column("Pattern"), *([Column("Reason")] if with_reason else [])]
    rows: list[list[Content]] = [
        [name(", ".join(each.layers)), each.pattern, *([each.reason or NONE] if with_reason else [])]
        for each in fusions[:MAX_ROWS]
    ]
    return table(caption, columns, rows, room=room, of=len(fusions), noun="group")


def _float_layers(layers: list[LayerSummary], room: int) -> Content:
    if not layers:
        return None
    columns = [Column("Layer"), Column("Operator"), Column("MACs, M", "number"), Column("Why it is in float")]
    rows: list[list[Content]] = [
        [name(each.name), each.op, significant(each.macs / 1e6) if each.macs else NONE, each.reason or NONE]
        for each in layers[:MAX_ROWS]
    ]
    return join(
        [
            subheading("Left in float"),
            table(
                "Layers and operators in float",
                columns,
                rows,
                find="layer, operator or reason",
                tall=len(layers) > 40,
                room=room,
                of=len(layers),
                noun="layer",
            ),
        ]
    )
