"""Small plots as SVG: distributions, bars, lines, histograms. Colours come from classes, so dark mode is the page's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from worker.report_page.markup import Content, Html, element, join


@dataclass(frozen=True)
class Scale:
    """Values `low..high` on pixels `start..end`; what lies outside is drawn on the edge."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Pixel of a value, to a tenth."""
        share = 0.5 if self.high <= self.low else min(1.0, max(0.0, self._share(value)))
        return round(self.start + share * (self.end - self.start), 1)

    def _share(self, value: float) -> float:
        # Halved, because the width of a range of doubles need not be a double.
        return (value / 2 - self.low / 2) / (self.high / 2 - self.low / 2)

    def ticks(self, about: int = 4) -> list[float]:
        """Round numbers inside the range, 1, 2 or 5 times a power of ten apart."""
        width = self.high - self.low
        if not 0 < width < math.inf or width < 1e-300:
            return [self.low]
        power = 10.0 ** math.floor(math.log10(width / about))
        step = next(power * factor for factor in (1, 2, 5, 10) if width / (power * factor) <= about)
        first = math.ceil(self.low / step - 1e-9)
        count = math.floor(self.high / step + 1e-9) - first
        return [(first + index) * step for index in range(min(count, 20) + 1)]


@dataclass(frozen=True)
class Line:
    """A named series: y over x, where None breaks the line; `kind` is its style."""

    name: str
    kind: str
    points: Sequence[tuple[float, float | None]]


@dataclass(frozen=True)
class Bar:
    """A horizontal bar with its name; None stands for no value."""

    name: str
    value: float | None
    shown: str
    kind: str = "int8"


def finite(values: Iterable[float | None]) -> list[float]:
    """Those that can be drawn."""
    return [value for value in values if value is not None and math.isfinite(value)]


def svg(width: float, height: float, *content: Content, label: str) -> Html:
    """A drawing of a fixed size in pixels, with what a screen reader says of it."""
    return element(
        "svg",
        element("title", label),
        *content,
        role="img",
        viewBox=f"0 0 {width:.6g} {height:.6g}",
        width=width,
        height=height,
    )


def text(x: float, y: float, content: str, *, anchor: str | None = None, class_: str | None = None) -> Html:
    """A label at its baseline."""
    return element("text", content, x=round(x, 1), y=round(y, 1), text_anchor=anchor, class_=class_)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Html:
    """A straight line."""
    return element("line", x1=round(x1, 1), y1=round(y1, 1), x2=round(x2, 1), y2=round(y2, 1), class_=class_)


def rect(x: float, y: float, width: float, height: float, class_: str, *content: Content) -> Html:
    """A box; its content may be a title."""
    sizes = {"x": round(x, 1), "y": round(y, 1), "width": round(max(width, 0), 1), "height": round(max(height, 0), 1)}
    return element("rect", *content, **sizes, class_=class_)


def bottom_axis(scale: Scale, y: float, top: float, title: str) -> Html:
    """Ticks below, a faint line up from each, and the title at the right."""
    marks = [
        (line(scale(tick), top, scale(tick), y, "grid"), text(scale(tick), y + 14, tick_label(tick), anchor="middle"))
        for tick in scale.ticks()
    ]
    return join([marks, text(scale.end, y + 28, title, anchor="end", class_="axis")])


def left_axis(scale: Scale, x: float, right: float, title: str) -> Html:
    """Ticks at the left, a faint line from each, and the title above."""
    marks = [
        (line(x, scale(tick), right, scale(tick), "grid"), text(x - 5, scale(tick) + 4, tick_label(tick), anchor="end"))
        for tick in scale.ticks()
    ]
    return join([marks, text(0, scale.end - 9, title, class_="axis")])


def tick_label(value: float) -> str:
    """As short as it can be."""
    label = f"{0.0 if abs(value) < 1e-12 else value:.4g}"
    return label.replace("-", "−", 1) if label.startswith("-") else label


def bars(rows: Sequence[Bar], *, label: str, unit: str, marks: Content = None) -> Html:
    """Horizontal bars from zero, one below the other, each with its name and value."""
    name_width, bar_width, pitch = 7.0 * max(len(row.name) for row in rows), 300.0, 20
    values = [0.0, *finite(row.value for row in rows)]
    scale = Scale(min(values), max(values) or 1.0, name_width + 10, name_width + 10 + bar_width)
    drawn = []
    for index, row in enumerate(rows):
        y = index * pitch + 4
        drawn.append(text(name_width, y + 11, row.name, anchor="end", class_="mono"))
        if row.value is not None and math.isfinite(row.value):
            left, right = sorted((scale(0.0), scale(row.value)))
            drawn.append(rect(left, y, max(right - left, 1), 14, f"bar {row.kind}"))
        drawn.append(text(scale.end + 8, y + 11, row.shown))
    height = len(rows) * pitch + 6
    axis = line(scale(0.0), 0, scale(0.0), height, "zero")
    return svg(name_width + bar_width + 90, height, drawn, axis, marks, label=f"{label}, {unit}")


def lines(series: Sequence[Line], *, label: str, x_title: str, y_title: str) -> Html:
    """Lines over a common x, each named at its right end."""
    width, height, left, right, top, bottom = 520, 230, 52, 370, 26, 185
    xs = finite(x for each in series for x, _ in each.points) or [0.0]
    ys = finite(y for each in series for _, y in each.points) or [0.0]
    margin = (max(ys) - min(ys)) * 0.06
    across = Scale(min(xs), max(xs), left, right)
    up = Scale(min(ys) - margin, max(ys) + margin, bottom, top)
    drawn = [left_axis(up, left, right, y_title), _whole_numbers_axis(across, bottom, x_title)]
    names: list[tuple[float, Line]] = []
    for each in series:
        points = [(across(x), up(y)) for x, y in each.points if y is not None and math.isfinite(y)]
        if points:
            drawn.append(
                element("polyline", points=" ".join(f"{x:g},{y:g}" for x, y in points), class_=f"line {each.kind}")
            )
            drawn += [
                element("circle", cx=x, cy=y, r=2.5, class_=f"dot {each.kind}") for x, y in points if len(points) < 60
            ]
            names.append((points[-1][1], each))
    return svg(width, height, drawn, _names_beside(names, right + 10, bottom), label=label)


def _names_beside(names: list[tuple[float, Line]], x: float, bottom: float) -> list[Html]:
    """The name of each line at its end, pushed apart where they would overlap."""
    drawn = []
    free = 0.0
    for position, (y, each) in enumerate(sorted(names, key=lambda pair: pair[0])):
        below = len(names) - 1 - position
        at = max(free, min(y, bottom - 15 * below))
        drawn += [
            element("line", x1=x, y1=round(at, 1), x2=x + 16, y2=round(at, 1), class_=f"line {each.kind}"),
            text(x + 21, at + 4, each.name),
        ]
        free = at + 15
    return drawn


def _whole_numbers_axis(scale: Scale, y: float, title: str) -> Html:
    ticks = [tick for tick in scale.ticks(6) if tick == int(tick)]
    labels = [text(scale(tick), y + 16, tick_label(tick), anchor="middle") for tick in ticks]
    return join(
        [
            line(scale.start, y, scale.end, y, "zero"),
            labels,
            text(scale.end, y + 32, title, anchor="end", class_="axis"),
        ]
    )


def distribution(samples: Sequence[float], across: Scale, baseline: float, height: float, kind: str) -> Html:
    """The density of the samples as an area of steps, its peak `height` pixels high."""
    pixels = 2
    bins = [0] * (math.ceil((across.end - across.start) / pixels) + 1)
    for sample in finite(samples):
        bins[int((across(sample) - across.start) / pixels)] += 1
    return steps(bins, kind, left=across.start, width=pixels, baseline=baseline, per_unit=height / max(1, *bins))


def steps(heights: Sequence[float], kind: str, *, left: float, width: float, baseline: float, per_unit: float) -> Html:
    """Adjoining columns as one shape, each `width` pixels wide and `per_unit` pixels high for each unit."""
    path = [f"M{left:.6g} {baseline:g}"]
    for index, height in enumerate(heights):
        path.append(f"V{baseline - height * per_unit:.4g}H{left + (index + 1) * width:.5g}")
    path.append(f"V{baseline:g}Z")
    return element("path", d="".join(path), class_=f"area {kind}")
