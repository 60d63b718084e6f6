"""Which layers cost the output most."""

from __future__ import annotations

from shared.job_report import JobReport
from shared.layer_report import LayerSensitivity
from worker.report_page.figures import decibels, plural, seconds, signed
from worker.report_page.layout import Column, Section, figure, fitting, folded, name, note, table
from worker.report_page.markup import Content, element, join, shorten
from worker.report_page.plots import Bar, bars
from worker.report_page.sections.verdict import METRIC_NAMES, metric_value

_MAX_BARS = 25
_MAX_NAMES = 200


def sensitivity(report: JobReport, room: int) -> Section | None:
    """Layers ranked by what the output gains when each stays in float, and those that were not reached."""
    found = report.sensitivity
    if found is None:
        return None
    told = note(
        "Each layer was tried alone in int8 with all others in float, and alone in float with all others in int8, on "
        f"{plural(found.samples, 'sample')}. The gain is what the output's SQNR wins when that layer stays in float; "
        f"all layers in int8 give {decibels(found.base_sqnr_db)}."
    )
    parts: list[Content] = [told]
    if found.layers:
        shown = [
            Bar(shorten(each.layer, 34), each.gain_db, _gain(each, unit=" dB")) for each in found.layers[:_MAX_BARS]
        ]
        label = "Gain of keeping a layer in float"
        caption = f"{label}: the {len(shown)} costliest of {len(found.layers)}."
        parts.append(figure(caption, bars(shown, label=label, unit="dB"), label=label))
        metric = report.quality.metric
        parts.append(_table(found.layers, None if metric is None else metric.name, room))
    parts.append(_not_reached(found.not_reached, found.budget_seconds, found.seconds, room))
    return Section("sensitivity", "Sensitivity", join(parts))


def _table(layers: list[LayerSensitivity], metric: str | None, room: int) -> Content:
    columns = [
        Column("Layer"),
        Column("Gain in float, dB", "number"),
        Column("Only it in int8", "number", "SQNR of the output"),
        Column("Only it in float", "number", "SQNR of the output"),
    ]
    if metric is not None:
        columns += [Column(f"{METRIC_NAMES[metric]}, only it in {kind}", "number") for kind in ("int8", "float")]
    rows: list[list[Content]] = []
    for each in layers:
        row: list[Content] = [name(each.layer), _gain(each)]
        row += [decibels(each.alone_int8_sqnr_db), decibels(each.alone_float_sqnr_db)]
        if metric is not None:
            row += [metric_value(metric, value) for value in (each.alone_int8_metric, each.alone_float_metric)]
        rows.append(row)
    caption = "Sensitivity of the layers, costliest first"
    written = table(caption, columns, rows, find="layer", tall=True, room=room, noun="layer")
    return folded(f"All {plural(len(layers), 'layer')} that were tried", written)


def _gain(layer: LayerSensitivity, *, unit: str = "") -> str:
    # Without noise there is no SQNR: kept in float, this layer alone makes the output that of the float model.
    everything = layer.alone_float_sqnr_db is None and layer.gain_db > 0
    return "all of it" if everything else f"{signed(layer.gain_db)}{unit}"


def _not_reached(names: list[str], budget_seconds: float, used_seconds: float, room: int) -> Content:
    used = f"{seconds(used_seconds)} of a budget of {seconds(budget_seconds)}"
    if not names:
        return element("p", f"Every layer was reached, in {used}.")
    listed = fitting([element("li", name(each)) for each in names[:_MAX_NAMES]], room)
    more = f" The first {len(listed)} are listed." if len(names) > len(listed) else ""
    told = f"{plural(len(names), 'layer')} not reached in {used}: nothing is known of them.{more} Raise "
    advice = (element("code", "analysis.sensitivity_seconds"), " to reach them.")
    return join(
        [element("p", told, advice), folded("Layers that were not reached", element("ul", listed, class_="names"))]
    )
