"""What a job would do, as POST /v1/plan answers; it shows itself as text and in notebooks."""

from __future__ import annotations

import textwrap
from html import escape

from pydantic import BaseModel, ConfigDict

from octavo._candidate_names import runtime_name
from octavo._html import CARD, table
from octavo._printable import printable
from octavo._tables import aligned, shortened

_NAME = 40


class _Wire(BaseModel):
    model_config = ConfigDict(extra="allow", protected_namespaces=())


class PlannedLayer(_Wire):
    """An operator, with what is fused with it; `int8_in` are the runtimes with an int8 kernel for it."""

    layer: str
    op: str
    precision: str
    macs: int
    share: float
    reason: str | None = None
    int8_in: list[str] = []


class PlannedRuntime(_Wire):
    """The share of the multiply-accumulates that a runtime would compute in int8."""

    runtime: str
    int8_share: float
    note: str | None = None


class Instructions(_Wire):
    """Whether the CPU has what int8 kernels are fast with."""

    found: list[str] = []
    dot_product: str
    note: str


class Pace(_Wire):
    """What was seen of the model on the worker that answered."""

    sample_seconds: float | None
    load_seconds: float
    plan_seconds: float
    layers: int


class Duration(_Wire):
    """How long the job would take, once it runs: nine in ten take between the low and the high estimate."""

    seconds: float
    low_seconds: float
    high_seconds: float
    steps: dict[str, float] = {}
    pace: Pace
    basis: str = ""


class PlanWorker(_Wire):
    """Who answered."""

    hostname: str
    cpu_model: str


class Plan(_Wire):
    """How a job would quantize a model."""

    method: str
    model: str
    conclusion: str
    worker: PlanWorker
    qengine: str
    layers: list[PlannedLayer]
    int8_layers: int
    float_layers: int
    int8_share: float
    runtimes: list[PlannedRuntime]
    instructions: Instructions
    duration: Duration
    notes: list[str] = []

    def table(self, width: int = 100) -> str:
        """The plan as plain text: what is quantized, why the rest is not, on which CPU, and how long it takes."""
        wrap = textwrap.TextWrapper(width, break_long_words=False, break_on_hyphens=False)
        parts = [
            wrap.fill(f"{self.method}: {self.conclusion}"),
            aligned(self._figures()),
            aligned(self._layer_rows(), right=(2,)),
            *(wrap.fill(each) for each in self.notes),
        ]
        return printable("\n\n".join(part for part in parts if part))

    def _repr_html_(self) -> str:
        notes = "".join(f"<p>{escape(each)}</p>" for each in self.notes)
        return (
            f'<div style="{CARD}"><b>{escape(self.method)}</b><p>{escape(self.conclusion)}</p>'
            f"{table([['', ''], *self._figures()])}{table(self._layer_rows())}{notes}</div>"
        )

    def _figures(self) -> list[list[str]]:
        shares = [
            f"{runtime_name(each.runtime)} {_percent(each.int8_share)}"
            if each.note is None
            else f"{runtime_name(each.runtime)}: {each.note}"
            for each in self.runtimes
        ]
        took = self.duration
        return [
            ["arithmetic in int8", ", ".join(shares)],
            ["CPU", f"{self.worker.cpu_model} on {self.worker.hostname}"],
            ["instructions", self.instructions.note],
            ["will take", f"{_time(took.seconds)} ({_time(took.low_seconds)} to {_time(took.high_seconds)})"],
            ["", took.basis],
        ]

    def _layer_rows(self) -> list[list[str]]:
        """What is quantized, by operator; what stays in float, by operator and reason; the most arithmetic first."""
        quantized, kept = (
            [each for each in self.layers if (each.precision == "float32") is in_float] for in_float in (False, True)
        )
        rows = [["quantized", "", "arithmetic", ""]]
        rows += [
            [f"{len(alike)} {op}", said, _share(alike), ""] for (op, said), alike in _alike(quantized, "precision")
        ]
        if kept:
            rows.append(["in float", "", "", ""])
        rows += [[_names(alike), op, _share(alike), said] for (op, said), alike in _alike(kept, "reason")]
        return rows


def _alike(layers: list[PlannedLayer], field: str) -> list[tuple[tuple[str, str], list[PlannedLayer]]]:
    found: dict[tuple[str, str], list[PlannedLayer]] = {}
    for each in layers:
        found.setdefault((each.op, getattr(each, field) or ""), []).append(each)
    return sorted(found.items(), key=lambda entry: -sum(each.share for each in entry[1]))


def _names(layers: list[PlannedLayer]) -> str:
    more = f" and {len(layers) - 1} more" if len(layers) > 1 else ""
    return f"{shortened(layers[0].layer, _NAME)}{more}"


def _share(layers: list[PlannedLayer]) -> str:
    return _percent(sum(each.share for each in layers))


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _time(seconds: float) -> str:
    if seconds < 100:  # as people count
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"  # likewise
