"""Layer by layer: errors along the depth of the model, and the qparams of every tensor."""

from __future__ import annotations

from collections.abc import Sequence

from shared.job_report import JobReport
from shared.layer_report import LayerSummary, Qparams
from worker.closeness import FAR_DB
from worker.report_page.figures import EXACT, NONE, decibels, decimal, percent, plural, significant
from worker.report_page.layout import (
    Column,
    Section,
    badge,
    figure,
    folded,
    left_out,
    name,
    note,
    precision_badge,
    table,
)
from worker.report_page.markup import Content, Html, element, join, shorten
from worker.report_page.plots import Scale, finite, left_axis, line, rect, svg, text

MAX_ROWS = 1000
_MAX_TENSORS = 3000
_BYTES_OF_A_BAR = 400

_FLAG_WORDS = {
    "scale_zero": "scale is zero",
    "scale_not_finite": "scale is not finite",
    "nothing_seen": "observer saw nothing",
    "outliers": "outliers",
    "dead_channels": "dead channels",
    "constant_channels": "constant channels",
    "clips": "clips",
}


def layers(report: JobReport, room: int) -> Section | None:
    """The depth plot, the table of layers, and the table of their tensors."""
    if not report.layers:
        return None
    parts: list[Content] = [_summary(report.layers)]
    if any(each.error is not None for each in report.layers):
        parts += [_where_it_goes_wrong(report), _depth_plot(report, room)]
    else:
        parts.append(note("The errors of single layers were not measured in this job."))
    parts += [_layer_table(report.layers, room), _tensor_table(report.layers, room)]
    return Section("layers", "Layers", join(parts))


def _summary(layers: Sequence[LayerSummary]) -> Html:
    counts = [
        f"{sum(each.precision == precision for each in layers)} in {precision}"
        for precision in ("int8", "float32", "float16")
        if any(each.precision == precision for each in layers)
    ]
    macs = sum(each.macs for each in layers)
    in_int8 = sum(each.macs for each in layers if each.precision == "int8")
    share = f" int8 does {percent(in_int8 / macs)} of the multiply-accumulates." if macs else ""
    return element("p", f"{plural(len(layers), 'layer')}: {', '.join(counts)}.{share}")


def _where_it_goes_wrong(report: JobReport) -> Html:
    layers, wrong = report.layers, report.first_wrong
    if wrong is not None:
        before, at, after = wrong.told.partition(wrong.layer)
        return element("p", shorten(before, 200), name(at) if at else None, after, class_="finding bad")
    measured = [(each.error.sqnr_db, each) for each in layers if each.error and each.error.sqnr_db is not None]
    if not measured:
        return element("p", "Every layer's output equals the float model's.", class_="finding good")
    weakest, layer = min(measured, key=lambda pair: pair[0])
    return element(
        "p",
        f"No layer takes the error below {FAR_DB:g} dB; the lowest is {decibels(weakest)} at ",
        name(layer.name),
        ".",
        class_="finding good",
    )


def _depth_plot(report: JobReport, room: int) -> Html:
    shown = report.layers[: min(MAX_ROWS, room // _BYTES_OF_A_BAR)]
    pitch = max(3.0, min(16.0, 720 / len(shown)))
    left, top, bottom = 44, 34, 194
    right = left + pitch * len(shown)
    known = finite(value for each in shown if each.error for value in (each.error.sqnr_db, each.error.own_sqnr_db))
    up = Scale(min(0.0, *known, 0.0), min(max([40.0, *known]), 90.0), bottom, top)
    wrong = None if report.first_wrong is None else report.first_wrong.layer
    marks: list[Content] = []
    own: list[Content] = []
    for index, layer in enumerate(shown):
        x = left + index * pitch
        if layer.error is None:
            continue
        if layer.name == wrong:
            marks.append(_mark(layer, x + pitch / 2, top, bottom, right))
        title = element("title", f"{shorten(layer.name, 80)}: {decibels(layer.error.sqnr_db)}")
        kind = "wrong" if layer.name == wrong else layer.precision
        height = up(up.high if layer.error.sqnr_db is None else layer.error.sqnr_db)
        marks.append(rect(x, height, pitch * 0.78, bottom - height, f"bar {kind}", title))
        if layer.error.own_sqnr_db is not None and finite([layer.error.own_sqnr_db]):
            own.append(line(x, up(layer.error.own_sqnr_db), x + pitch * 0.78, up(layer.error.own_sqnr_db), "own"))
    threshold = up(FAR_DB)
    drawing = svg(
        max(right + 20, 420),
        bottom + 30,
        left_axis(up, left, right, "SQNR, dB"),
        marks,
        own,
        line(left, threshold, right, threshold, "threshold"),
        text(left, bottom + 18, "input of the model", class_="axis"),
        text(max(right, 330), bottom + 18, "output", anchor="end", class_="axis"),
        label="SQNR of the layers from input to output",
    )
    caption = (
        "SQNR at the output of each layer, in order; colour is precision, the short dark line is the layer's own error "
        f"on float inputs, the dashed line {FAR_DB:g} dB. Layers that were not measured are gaps."
    )
    more = left_out(len(report.layers), len(shown), "layer")
    return join([figure(caption, drawing, label="SQNR along the depth of the model"), more])


def _mark(layer: LayerSummary, x: float, top: float, bottom: float, right: float) -> Html:
    at_end = x > right / 2
    label = f"first goes wrong: {shorten(layer.name, 40)}"
    words = text(x - 6 if at_end else x + 6, top - 4, label, anchor="end" if at_end else None, class_="strong")
    return join([line(x, top - 14, x, bottom, "pointer"), words])


def _layer_table(layers: Sequence[LayerSummary], room: int) -> Html:
    columns = [
        Column("Layer"),
        Column("#", "number", "Order in the model"),
        Column("Operator"),
        Column("Precision"),
        Column("Own, dB", "number", "SQNR of the error made in the layer: int8 arithmetic on float inputs"),
        Column("Arriving, dB", "number", "SQNR of what arrives at its inputs, the worst of them"),
        Column("Total, dB", "number", "SQNR at its output, both together"),
        Column("MACs, M", "number", "Multiply-accumulates for one sample, in millions"),
        Column("Weight, kB", "number"),
        Column("Min", "number", "Least value seen at its output"),
        Column("Max", "number", "Greatest value seen at its output"),
        Column("Scale", "number"),
        Column("Zero point", "number"),
        Column("Flags"),
    ]
    rows = [_layer_row(number, each) for number, each in enumerate(layers[:MAX_ROWS], start=1)]
    found = "layer, operator, precision or flag"
    caption = "Layers, from input to output"
    return table(caption, columns, rows, find=found, tall=True, room=room, of=len(layers), noun="layer")


def _layer_row(number: int, layer: LayerSummary) -> list[Content]:
    error = layer.error
    errors = (
        [NONE] * 3
        if error is None
        else [decimal(each, none=EXACT) for each in (error.own_sqnr_db, error.arriving_sqnr_db, error.sqnr_db)]
    )
    output = next((each for each in layer.qparams if each.role == "output"), None)
    flags = dict.fromkeys(flag for each in layer.qparams for flag in each.flags)
    return [
        [name(layer.name, 60), _fused(layer)],
        number,
        layer.op,
        precision_badge(layer.precision),
        *errors,
        NONE if not layer.macs else significant(layer.macs / 1e6),
        NONE if not layer.weight_bytes else significant(layer.weight_bytes / 1e3),
        *_range(output),
        flag_badges(list(flags)) if flags else NONE,
    ]


def _range(qparams: Qparams | None) -> list[str]:
    if qparams is None:
        return [NONE] * 4
    return [significant(qparams.min), significant(qparams.max), significant(qparams.scale), str(qparams.zero_point)]


def _fused(layer: LayerSummary) -> Content:
    parent = f"{layer.name.rpartition('.')[0]}."
    others = [each.removeprefix(parent) for each in layer.fused if each != layer.name]
    return element("small", shorten(f" + {' + '.join(others)}", 60)) if others else None


def flag_badges(flags: Sequence[str]) -> Html:
    """What is wrong with a tensor's range."""
    return join([badge(_FLAG_WORDS.get(flag, flag), "flag") for flag in flags])


def _tensor_table(layers: Sequence[LayerSummary], room: int) -> Content:
    tensors = [(layer.name, each) for layer in layers for each in layer.qparams]
    if not tensors:
        return None
    columns = [
        Column("Layer"),
        Column("Tensor"),
        Column("Type"),
        Column("Observer"),
        Column("Min", "number"),
        Column("Max", "number"),
        Column("Scale", "number", "The median over channels when per-channel"),
        Column("Zero point", "number"),
        Column("Integers", "number", "quant_min to quant_max"),
        Column("Scales over channels", "number", "Least to greatest"),
        Column("Stretch", "number", "Range seen over the range of 99.9 % of the values"),
        Column("Clipped, %", "number", "Of the values on evaluation data; at both ends"),
        Column("Flags"),
    ]
    rows = [_tensor_row(layer, each) for layer, each in tensors[:_MAX_TENSORS]]
    found = "layer, tensor, observer or flag"
    caption = "Qparams of every tensor"
    written = table(caption, columns, rows, find=found, tall=True, room=room, of=len(tensors), noun="tensor")
    return folded(f"Qparams of {plural(len(tensors), 'tensor')}: inputs, weights and outputs", written)


def _tensor_row(layer: str, qparams: Qparams) -> list[Content]:
    tensor = [qparams.role] if qparams.tensor == qparams.role else [qparams.role, " ", name(qparams.tensor, 40)]
    return [
        name(layer, 60),
        tensor,
        f"{qparams.dtype} {qparams.qscheme.replace('_', ' ')}",
        qparams.observer or NONE,
        *_range(qparams),
        f"{qparams.quant_min} to {qparams.quant_max}",
        _spread(qparams),
        decimal(qparams.stretch),
        _clipped(qparams),
        flag_badges(qparams.flags) if qparams.flags else NONE,
    ]


def _spread(qparams: Qparams) -> Content:
    channels = qparams.channels
    if channels is None:
        return NONE
    spread = f"{significant(channels.scale_min)} to {significant(channels.scale_max)}"
    dead = f"; dead: {', '.join(map(str, channels.dead))}" if channels.dead else ""
    constant = f"; constant: {', '.join(map(str, channels.constant))}" if channels.constant else ""
    return element("span", spread, title=f"{channels.count} channels along axis {channels.axis}{dead}{constant}")


def _clipped(qparams: Qparams) -> Content:
    clipping = qparams.clipping
    if clipping is None:
        return NONE
    ends = f"{percent(clipping.below, 3)} below, {percent(clipping.above, 3)} above"
    return element("span", significant(100 * clipping.rate), title=ends)
