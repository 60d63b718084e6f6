"""Several jobs side by side: their figures, what was asked differently, and what became of each layer."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any, Protocol

from pydantic import BaseModel, Field

from octavo._figures import NOTHING, outcome_rows, sqnr_text
from octavo._job_report import ArtifactResult, BenchmarkResult, Quality, Size, Verdict
from octavo._printable import printable
from octavo._report import Report
from octavo._tables import aligned, shortened, side_by_side

_LAYERS_SHOWN = 20
_ASKED = "Asked differently"
_FOR_PEOPLE = frozenset({"name", "metadata"})


class HasReport(Protocol):
    """A handle on a job that has a report."""

    @property
    def id(self) -> str:
        """Of the job."""

    @property
    def name(self) -> str | None:
        """For people."""

    @property
    def report(self) -> Report:
        """What was measured."""


class ComparedJob(BaseModel):
    """The outcome of one of the jobs; latencies without their raw samples."""

    job: str | None = Field(description="Its id; null when a report was given alone.")
    name: str | None
    method: str
    verdict: Verdict
    recommended: str | None
    artifacts: list[ArtifactResult]
    quality: Quality
    latency: list[BenchmarkResult]
    size: Size


class SpecDifference(BaseModel):
    """A field of the resolved specs that is not the same in all of them; one value a job."""

    field: str
    values: list[Any]


class LayerComparison(BaseModel):
    """A layer whose output was compared with the float model's in all of the jobs; one value a job."""

    layer: str
    precision: list[str]
    sqnr_db: list[float | None] = Field(description="null where int8 and float are identical.")

    @property
    def spread_db(self) -> float:
        """How far the jobs are apart."""
        known = [each for each in self.sqnr_db if each is not None]
        if known and len(known) < len(self.sqnr_db):
            return math.inf  # identical in some of them only
        return max(known) - min(known) if known else 0.0


class Comparison(BaseModel):
    """Several jobs side by side: print it, or let a notebook show it."""

    jobs: list[ComparedJob]
    spec: list[SpecDifference]
    layers: list[LayerComparison] = Field(description="Those that differ most come first.")

    def text(self, width: int = 100) -> str:
        """All of it, in lines of about so many characters."""
        parts = (self.figures(width), self._spec(width), self._layers(width))
        return printable("\n\n".join(part for part in parts if part))

    def figures(self, width: int = 100) -> str:
        """Accuracy, size, latency and verdict, a column a job."""
        marks = self._marks()
        legend = [[mark, each.job or "", each.name or ""] for mark, each in zip(marks, self.jobs, strict=True)]
        rows = [["", *marks], *outcome_rows(self.jobs)]
        if any(each.recommended for each in self.jobs):
            rows.append(["recommended", *(each.recommended or NOTHING for each in self.jobs)])
        table = side_by_side(rows, width)
        return printable(f"{aligned(legend)}\n\n{table}" if any(each.job for each in self.jobs) else table)

    def __str__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        return f"<pre>{escape(self.text())}</pre>"

    def _marks(self) -> list[str]:
        return [chr(ord("A") + number) if number < 26 else str(number + 1) for number in range(len(self.jobs))]

    def _spec(self, width: int) -> str:
        if not self.spec:
            return ""
        label = max(len(each.field) for each in self.spec)
        cell = max((width - max(label, len(_ASKED))) // len(self.jobs) - 2, 16)
        rows = [[each.field, *(shortened(text, cell) for text in _texts(each.values))] for each in self.spec]
        return side_by_side([[_ASKED, *self._marks()], *rows], width)

    def _layers(self, width: int) -> str:
        if not self.layers:
            return ""
        rows = [
            [
                shortened(each.layer, 40),
                *(_layer_text(*pair) for pair in zip(each.sqnr_db, each.precision, strict=True)),
            ]
            for each in self.layers[:_LAYERS_SHOWN]
        ]
        table = side_by_side([["SQNR by layer", *self._marks()], *rows], width)
        more = len(self.layers) - _LAYERS_SHOWN
        return f"{table}\nand {more} more layers that differ less" if more > 0 else table


def compare(jobs: Iterable[HasReport | Report]) -> Comparison:
    """Jobs, or their reports, side by side.

    Raises:
        NoReport, JobRefused, ServiceFailed, JobCancelled: one of the jobs has no report.
    """
    entries = list(jobs)
    reports = [entry if isinstance(entry, Report) else entry.report for entry in entries]
    compared = [
        ComparedJob(
            job=None if isinstance(entry, Report) else entry.id,
            name=report.spec.get("name"),
            method=report.method,
            verdict=report.verdict,
            recommended=report.recommended,
            artifacts=report.artifacts,
            quality=report.quality,
            latency=[_without_samples(result) for result in report.latency],
            size=report.size,
        )
        for entry, report in zip(entries, reports, strict=True)
    ]
    return Comparison(jobs=compared, spec=_spec_differences(reports), layers=_layer_comparisons(reports))


def _without_samples(result: BenchmarkResult) -> BenchmarkResult:
    candidates = [each.model_copy(update={"samples_ms": []}) for each in result.candidates]
    return result.model_copy(update={"candidates": candidates})


def _spec_differences(reports: list[Report]) -> list[SpecDifference]:
    specs = [_flat(report.spec) for report in reports]
    # What only some methods know is no difference in what was asked: the method is.
    shared = [field for field in (specs[0] if specs else {}) if all(field in spec for spec in specs)]
    found = [SpecDifference(field=field, values=[spec[field] for spec in specs]) for field in shared]
    return [each for each in found if any(value != each.values[0] for value in each.values)]


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if prefix + name in _FOR_PEOPLE:
            continue
        found.update(_flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value})
    return found


def _layer_comparisons(reports: list[Report]) -> list[LayerComparison]:
    by_name = [{layer.name: layer for layer in report.layers if layer.error is not None} for report in reports]
    found = [
        LayerComparison(
            layer=name,
            precision=[layers[name].precision for layers in by_name],
            sqnr_db=[error.sqnr_db if (error := layers[name].error) else None for layers in by_name],
        )
        for name in (by_name[0] if by_name else {})
        if all(name in layers for layers in by_name)
    ]
    return sorted(found, key=lambda each: -each.spread_db)


def _layer_text(sqnr_db: float | None, precision: str) -> str:
    return sqnr_text(sqnr_db) if precision == "int8" else f"{sqnr_text(sqnr_db)} ({precision})"


def _texts(values: list[Any]) -> list[str]:
    """The values of a field for people; of lists of overrides only what is not in all of them."""
    if not all(isinstance(value, list) for value in values):
        return [_value_text(value) for value in values]
    if not any(isinstance(each, Mapping) for value in values for each in value):
        return [", ".join(map(_value_text, value)) or NOTHING for value in values]
    return [
        "; ".join(_value_text(each) for each in value if not all(each in other for other in values)) or NOTHING
        for value in values
    ]


def _value_text(value: Any) -> str:
    if isinstance(value, Mapping):  # an override
        where = " ".join(str(value[name]) for name in ("layer", "op") if value.get(name))
        what = _flat({name: inner for name, inner in value.items() if name not in {"layer", "op"}})
        told = [
            inner if name == "precision" else f"{name}={inner}" for name, inner in what.items() if inner is not None
        ]
        return f"{where}: {' '.join(told) or 'float32'}"
    if value is None:
        return NOTHING
    return value if isinstance(value, str) else json.dumps(value)
