"""How values are spread, with the range that int8 holds drawn in."""

from __future__ import annotations

import math

from shared.job_report import JobReport
from shared.layer_report import Histogram
from worker.report_page.figures import percent, plural, significant
from worker.report_page.layout import Section, fitting, folded, left_out, name, note
from worker.report_page.markup import Html, element, join
from worker.report_page.plots import Scale, finite, line, rect, steps, svg, text, tick_label

_OPEN_AT_FIRST = 16
_MAX_DRAWN = 400
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 264, 122, 6, 258, 8, 96
_MAX_BINS = 126


def histograms(report: JobReport, room: int) -> Section | None:
    """Small multiples, the layers that matter most first."""
    drawn = fitting([_drawing(each) for each in report.histograms[:_MAX_DRAWN]], room)
    if not drawn:
        return None
    told = note(
        "Heights are logarithmic, so that rare values show. The shaded band is what int8 holds: values outside of it "
        "clip; a band much wider than the values wastes levels."
    )
    shown = element("div", drawn[:_OPEN_AT_FIRST], class_="multiples")
    more = drawn[_OPEN_AT_FIRST:]
    rest = folded(f"{plural(len(more), 'more histogram')}", element("div", more, class_="multiples")) if more else None
    missing = left_out(len(report.histograms), len(drawn), "histogram")
    return Section("histograms", "Histograms", join([told, shown, rest, missing]))


def _drawing(histogram: Histogram) -> Html:
    ends = finite([histogram.low, histogram.high, histogram.range_min, histogram.range_max]) or [0.0]
    across = Scale(min(ends), max(ends), _LEFT, _RIGHT)
    left, right = (across(each) if finite([each]) else None for each in (histogram.range_min, histogram.range_max))
    band = [] if left is None or right is None else [rect(left, _TOP, right - left, _BOTTOM - _TOP, "band")]
    edges = [line(x, _TOP, x, _BOTTOM, "edge") for x in (left, right) if x is not None]
    labels = [
        text(_LEFT, _BOTTOM + 18, tick_label(across.low), class_="axis"),
        text(_RIGHT, _BOTTOM + 18, tick_label(across.high), anchor="end", class_="axis"),
    ]
    label = f"Histogram of the {histogram.role} of {histogram.layer}"
    drawing = svg(
        _WIDTH,
        _HEIGHT,
        band,
        _columns(histogram, across),
        edges,
        line(_LEFT, _BOTTOM, _RIGHT, _BOTTOM, "zero"),
        labels,
        label=label,
    )
    held = f"int8 holds {significant(histogram.range_min)} to {significant(histogram.range_max)}"
    caption = [
        name(histogram.layer, 40),
        f" {histogram.role}",
        element("span", f"{held}; {_outside(histogram)}"),
    ]
    return element("figure", drawing, element("figcaption", caption))


def _columns(histogram: Histogram, across: Scale) -> Html | None:
    if not histogram.counts or not finite([histogram.low]) or not finite([histogram.high]):
        return None
    merged = _merged(histogram.counts)
    heights = [math.log1p(max(0, count)) for count in merged]
    left, right = across(histogram.low), across(histogram.high)
    tallest = max(heights) or 1.0
    kind = "int8" if histogram.role == "output" else "weight"
    width, per_unit = (right - left) / len(merged), (_BOTTOM - _TOP - 4) / tallest
    return steps(heights, kind, left=left, width=width, baseline=_BOTTOM, per_unit=per_unit)


def _merged(counts: list[int]) -> list[int]:
    """No more columns than there are pixels for."""
    together = math.ceil(len(counts) / _MAX_BINS)
    return [sum(counts[start : start + together]) for start in range(0, len(counts), together)]


def _outside(histogram: Histogram) -> str:
    """About what share of the values lies outside of the range, to the width of a column."""
    total = sum(histogram.counts)
    width = (histogram.high - histogram.low) / max(1, len(histogram.counts))
    if not total or not math.isfinite(width):
        return "no values"
    outside = sum(
        count
        for index, count in enumerate(histogram.counts)
        if not histogram.range_min - width / 2
        <= histogram.low + (index + 0.5) * width
        <= histogram.range_max + width / 2
    )
    return "all values inside" if not outside else f"{percent(outside / total, 2)} outside"
