"""A report as plain text: the verdict, what to do, the figures, the layers that are worst."""

from __future__ import annotations

import json
import textwrap
from typing import Any

from octavo._figures import NOTHING, layers_by_error, outcome_rows, report_rows, sqnr_text
from octavo._job_report import Before, JobReport, ReportWarning
from octavo._layer_report import LayerSensitivity, LayerSummary
from octavo._tables import aligned, shortened

_WORST = 8
_IN_FLOAT = 5
_SAMPLE_FILES = {"calibration": "images.npz", "training": "train.npz"}
_NEEDS = {"static": "calibration", "qat": "training"}


def report_text(report: JobReport, *, width: int, job_id: str | None = None) -> str:
    """The whole in lines of at most so many characters, commands and tables apart.

    With a job's id, what to do is a command to type; without, it is a line of Python.
    """
    parts = [
        _wrapped(f"{report.method}, {report.verdict.word}: {report.verdict.sentence}", width),
        _advice(report, width, job_id),
        aligned(report_rows(report), right=(1, 2)) + _training(report),
        "" if report.before is None else _before(report, report.before, width),
        "" if report.first_wrong is None else _wrapped(report.first_wrong.told, width),
        _layers(report, width),
        _left_in_float(report, width),
    ]
    return "\n\n".join(part for part in parts if part)


def what_to_type(report: JobReport, number: int, job_id: str | None) -> str:
    """What applies the suggestion of this warning; data that the new method lacks has a file name to fill in."""
    suggestion = report.warnings[number].suggestion
    patch = {} if suggestion is None else suggestion.patch
    role = _NEEDS.get(str(patch.get("method")), "")
    missing = bool(role) and not {**report.spec, **patch}.get(role)
    if job_id is None:
        return f"job.retry_with({number}{f', {role}=…' if missing else ''})"
    data = f" --{role} {_SAMPLE_FILES[role]}" if missing else ""
    return f"octavo quantize --from {job_id} --apply {number}{data} --wait"


def changes_text(changes: dict[str, Any]) -> str:
    """A patch in one line, such as `seed 3, overrides +1`."""
    words = []
    for name, value in changes.items():
        if name == "overrides" and isinstance(value, list):
            words.append(f"overrides +{len(value)}")
        elif isinstance(value, dict):
            words += [f"{name}.{inner}" for inner in changes_text(value).split(", ")]
        else:
            words.append(f"{name} {value if isinstance(value, str) else json.dumps(value)}")
    return ", ".join(words)


def _advice(report: JobReport, width: int, job_id: str | None) -> str:
    lines: list[str] = []
    for number, warning in enumerate(report.warnings):
        lines += _warning(warning, f"[{number}] ", width)
        if warning.suggestion is not None:
            lines.append(
                f"    $ {what_to_type(report, number, job_id)}"
                if job_id
                else f"    {what_to_type(report, number, None)}"
            )
    return "\n".join(["What to do", *lines]) if lines else ""


def _warning(warning: ReportWarning, mark: str, width: int) -> list[str]:
    where = f"{warning.layer}: " if warning.layer and warning.layer not in warning.message else ""
    told = [f"{where}{warning.message} [{warning.code}]"]
    if warning.evidence:
        told.append(warning.evidence)
    if warning.suggestion is not None:
        told.append(f"{warning.suggestion.title}. {warning.suggestion.expected or ''}".rstrip())
    elif warning.hint:
        told.append(warning.hint)
    first, *others = told
    return [
        _wrapped(first, width, mark, " " * len(mark)),
        *(_wrapped(each, width, " " * len(mark), " " * len(mark)) for each in others),
    ]


def _training(report: JobReport) -> str:
    training = report.training
    if training is None or training.static_metric is None:
        return ""
    static = training.static_metric
    value = f"{static.int8_value:.2%}" if static.name.startswith("top") else f"{static.int8_value:.4g}"
    return f"\nStatic on the same data: {value} {static.name}; the better one is {training.better}."


def _before(report: JobReport, before: Before, width: int) -> str:
    title = f"Before ({before.job}) and now: {changes_text(before.changes) or 'nothing was changed'}"
    rows = outcome_rows([before, report])
    return f"{_wrapped(title, width)}\n{aligned([['', 'before', 'now'], *rows])}"


def _layers(report: JobReport, width: int) -> str:
    worst = layers_by_error(report.layers)
    if not worst:
        return ""
    gains = {} if report.sensitivity is None else {each.layer: _gain(each) for each in report.sensitivity.layers}
    head = ["op", "runs in", "SQNR", "made here", "arriving"]
    rows = [[*head, "gain if float"] if gains else head]
    for layer in worst[:_WORST]:
        row = [layer.op, layer.precision, *_errors(layer)]
        rows.append([*row, gains.get(layer.name, NOTHING)] if gains else row)
    room = max(width - len(aligned([["", *row] for row in rows], right=range(3, 7)).splitlines()[0]), 16)
    names = ["layer", *(shortened(layer.name, room) for layer in worst[:_WORST])]
    rows = [[name, *row] for name, row in zip(names, rows, strict=True)]
    shown = f"{_WORST} of {len(worst)}" if len(worst) > _WORST else str(len(worst))
    title = f"Layers, the worst first ({shown})"
    return f"{title}\n{aligned(rows, right=range(3, 7))}"


def _errors(layer: LayerSummary) -> list[str]:
    error = layer.error
    if error is None:
        return [NOTHING] * 3
    arriving = NOTHING if error.arriving_sqnr_db is None else sqnr_text(error.arriving_sqnr_db)
    return [sqnr_text(error.sqnr_db), NOTHING if error.own_sqnr_db is None else sqnr_text(error.own_sqnr_db), arriving]


def _gain(layer: LayerSensitivity) -> str:
    # Without noise there is no SQNR: kept in float, this layer alone makes the output that of the float model.
    everything = layer.alone_float_sqnr_db is None and layer.gain_db > 0
    return "all of it" if everything else f"{layer.gain_db:+.1f} dB".replace("-", "−")


def _left_in_float(report: JobReport, width: int) -> str:
    left = [layer for layer in report.layers if layer.precision == "float32"]
    if not left:
        return ""
    lines = [f"In float: {len(left)} of {len(report.layers)} layers"]
    for layer in left[:_IN_FLOAT]:
        reason = f": {layer.reason}" if layer.reason else ""
        lines.append(_wrapped(f"{layer.name} ({layer.op}){reason}", width, "  ", "    "))
    if len(left) > _IN_FLOAT:
        lines.append(f"  and {len(left) - _IN_FLOAT} more")
    return "\n".join(lines)


def _wrapped(text: str, width: int, first: str = "", others: str = "") -> str:
    return textwrap.fill(
        text, width, initial_indent=first, subsequent_indent=others, break_long_words=False, break_on_hyphens=False
    )
