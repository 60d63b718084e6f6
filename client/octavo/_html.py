"""A report as a small HTML card for notebooks. Everything that came from outside is escaped.

The whole story, with every table and plot, is the artifact `report.html`.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from octavo._figures import layers_by_error, outcome_rows, report_rows, sqnr_text
from octavo._job_report import JobReport, ReportWarning
from octavo._layer_report import LayerSummary
from octavo._report_parts import Part, artifacts_part, report_parts
from octavo._report_text import changes_text, what_to_type
from octavo._tables import shortened

CARD = "border:1px solid #8884;border-radius:6px;padding:.6em 1em;max-width:46em;font-family:sans-serif"
_MUTED = "opacity:.75"
_CELL = "text-align:left;padding:.1em 1em .1em 0"
_BARS = 12
_NAME = 60
_ROW, _LABEL, _BAR, _TEXT = 18, 190, 260, 70  # of the plot, in pixels
_FULL_SCALE_DB = 60.0
_COLOURS = {"int8": "#2471a3", "float16": "#7d6608"}  # readable on light and on dark
_IN_FLOAT, _WRONG = "#707b7c", "#c0392b"


def report_card(report: JobReport) -> str:
    """The verdict, what to do, the figures, how near each layer is to float, and all that the terminal tells."""
    wrong = report.first_wrong
    parts = [
        f"<b>{escape(report.method)}: {escape(report.verdict.word)}</b><p>{escape(report.verdict.sentence)}</p>",
        part_html(artifacts_part(report)) if report.artifacts else "",
        _advice(report),
        table(report_rows(report)),
        _before(report),
        "" if wrong is None else f"<p>{escape(wrong.told)}</p>",
        _plot(layers_by_error(report.layers), "" if wrong is None else wrong.layer),
        *(part_html(part) for part in report_parts(report)),
    ]
    return f'<div style="{CARD}">{"".join(parts)}</div>'


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows, the first of them the head, as a table."""
    head, *body = rows
    lines = [_row("th", head), *(_row("td", row) for row in body)]
    return f"<table>{''.join(lines)}</table>"


def _row(kind: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f'<{kind} style="{_CELL}">{escape(cell)}</{kind}>' for cell in cells) + "</tr>"


def _advice(report: JobReport) -> str:
    commands = [what_to_type(report, number, None) for number in range(len(report.warnings))]
    return warnings_html(report.warnings, "What to do", commands)


def warnings_html(warnings: Sequence[ReportWarning], title: str, commands: Sequence[str] | None = None) -> str:
    """Warnings under a title, those that suggest something with what to type."""
    told = commands or [""] * len(warnings)
    items = "".join(_warning(*each) for each in zip(warnings, told, strict=True))
    return f'<b>{escape(title)}</b><ol start="0">{items}</ol>' if items else ""


def _warning(warning: ReportWarning, command: str) -> str:
    layer = f"<code>{escape(warning.layer)}</code> " if warning.layer else ""
    lines = [f"{layer}{escape(warning.message)}"]
    if warning.evidence:
        lines.append(f'<span style="{_MUTED}">{escape(warning.evidence)}</span>')
    if warning.suggestion is not None:
        lines.append(escape(f"{warning.suggestion.title}. {warning.suggestion.expected or ''}"))
        lines.append(f"<code>{escape(command)}</code>")
    elif warning.hint:
        lines.append(escape(warning.hint))
    return f"<li>{'<br/>'.join(lines)}</li>"


def _before(report: JobReport) -> str:
    before = report.before
    if before is None:
        return ""
    title = f"Before ({before.job}) and now: {changes_text(before.changes) or 'nothing was changed'}"
    return f"<p><b>{escape(title)}</b></p>{table([['', 'before', 'now'], *outcome_rows([before, report])])}"


def part_html(part: Part) -> str:
    """A part of a report: its title, its sentences, its table."""
    told = "".join(f"<br/>{escape(each)}" for each in part.told)
    return f"<p><b>{escape(part.title)}</b>{told}</p>{table(part.with_names_of(_NAME)) if part.rows else ''}"


def _plot(layers: Sequence[LayerSummary], first_wrong: str) -> str:
    """The worst layers as bars: the longer, the nearer to float; in red where the model first goes wrong."""
    if not layers:
        return ""
    shown = layers[:_BARS]
    bars = "".join(
        _bar(number, layer, _WRONG if layer.name == first_wrong else _COLOURS.get(layer.precision, _IN_FLOAT))
        for number, layer in enumerate(shown)
    )
    of_all = f", the {len(shown)} worst of {len(layers)}" if len(layers) > len(shown) else ""
    return (
        f"<p><b>SQNR by layer</b>{of_all}</p>"
        f'<svg role="img" aria-label="SQNR by layer" width="{_LABEL + _BAR + _TEXT}" height="{_ROW * len(shown)}" '
        f'font-size="12" fill="currentColor">{bars}</svg>'
    )


def _bar(number: int, layer: LayerSummary, colour: str) -> str:
    sqnr_db = layer.error.sqnr_db if layer.error is not None else None
    value = _FULL_SCALE_DB if sqnr_db is None else sqnr_db
    length = _BAR * min(max(value / _FULL_SCALE_DB, 0.005), 1.0)
    top, base = _ROW * number, _ROW * number + 13
    name = escape(layer.name)
    return (
        f"<g><title>{name} ({escape(layer.op)})</title>"
        f'<text x="{_LABEL - 6}" y="{base}" text-anchor="end">{escape(shortened(layer.name, 28))}</text>'
        f'<rect x="{_LABEL}" y="{top + 3}" width="{length:.1f}" height="{_ROW - 6}" fill="{colour}"/>'
        f'<text x="{_LABEL + length + 5:.1f}" y="{base}">{escape(sqnr_text(sqnr_db))}</text></g>'
    )
