"""The case that findings are made from: what was asked, what came of it, and what each layer costs the output."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from shared.job_report import KernelTrial, Quality, RangeTrial, RecoveryResult, ReportWarning, Suggestion
from shared.layer_report import FirstWrong, LayerSummary, Qparams
from shared.quantization_spec import DynamicSpec, QatSpec, StaticSpec
from worker.closeness import ALIKE_DB, NEAR_AGREEMENT, NEAR_DB, Closeness, closeness, is_poor
from worker.findings.first_wrong import first_wrong
from worker.layer_facts import LayerFacts
from worker.quantization import glob_of, in_float
from worker.steps.analyse import Analysis

#: A cause that costs less is not worth a change of the spec.
WORTH_DB = 1.0
#: Limits that leave fewer were asked for: 7-bit activations have as many, symmetric weights more.
_REDUCED_STEPS, _FEW_WEIGHT_STEPS = 127, 200
_MOST_SHARE = 0.99
_MOST_ESTIMATED_DB = 3.0
_OUTPUT = "output"


@dataclass(frozen=True)
class Finding:
    """A warning, and what it costs: in dB of the output's SQNR, or for what only costs time a rank below 1."""

    warning: ReportWarning
    cost: float


@dataclass(frozen=True)
class Case:
    """Everything known about a job when its report is written."""

    spec: DynamicSpec | StaticSpec | QatSpec
    resolved: Mapping[str, Any]  #: the spec with every `auto` settled, as it stands in the report
    analysis: Analysis
    quality: Quality
    recovery: list[RecoveryResult] = field(default_factory=list)
    ranges: list[RangeTrial] = field(default_factory=list)
    kernels: list[KernelTrial] = field(default_factory=list)
    not_finite_from: str | None = None  #: the first layer of the float model that makes what is not finite
    is_revision: bool = False  #: whether the job was made from another one, as suggestions make it
    holds_full_range: bool = False  #: whether this CPU multiplies bytes without overflow

    @cached_property
    def layers(self) -> dict[str, LayerSummary]:
        """By name, in the graph's order."""
        return {layer.name: layer for layer in self.analysis.layers}

    @cached_property
    def first_wrong(self) -> FirstWrong | None:
        """Where the int8 model first goes wrong."""
        return first_wrong(self.analysis.layers)

    @cached_property
    def base_db(self) -> float:
        """SQNR of the worst output; as good as can be when it equals the float model's."""
        reported = self._closeness.reported_db
        return math.inf if reported is None else reported

    @property
    def is_poor(self) -> bool:
        """Whether the verdict is that quality does not hold: then it comes before all else."""
        return is_poor(self.quality)

    @property
    def is_near(self) -> bool:
        """Whether it does what the float model does, if not to the last decibel: then no layer need be in float."""
        return not self.is_poor and self.base_db >= NEAR_DB and self._agreement >= NEAR_AGREEMENT

    @property
    def leaves_to_be_desired(self) -> bool:
        """Whether more fidelity would be worth anything."""
        return self.is_poor or self.base_db < ALIKE_DB

    def facts(self, layer: str) -> LayerFacts | None:
        """What was measured of a layer."""
        return self.analysis.facts.get(layer)

    def qparams(self, layer: str, role: str) -> Qparams | None:
        """The first qparams of a layer in this role."""
        return next((found for found in self.layers[layer].qparams if found.role == role), None)

    def cost_db(self, layer: str) -> float:
        """What a layer costs the output.

        Measured: the greater of what the output gains without it, and what it would gain if the noise that the layer
        makes by itself were independent of all other (several faults hide each other's gain); 0 for layers that were
        not reached. Without any sensitivity it is guessed from the error made in the layer, at 3 dB at most.
        """
        sensitivity = self.analysis.sensitivity
        entries = [] if sensitivity is None else sensitivity.layers
        measured = next((entry for entry in entries if entry.layer == layer), None)
        if measured is not None and sensitivity is not None:
            base_db = math.inf if sensitivity.base_sqnr_db is None else sensitivity.base_sqnr_db
            return max(measured.gain_db, _gain_of_share(base_db, measured.alone_int8_sqnr_db))
        facts = self.facts(layer)
        return (
            0.0
            if facts is None or entries
            else min(_MOST_ESTIMATED_DB, _gain_of_share(self.base_db, facts.felt_sqnr_db))
        )

    def was_put_in_float(self, layer: str) -> bool:
        """Whether this job was made from another and names this very layer to be in float, as suggestions do."""
        named = [override for override in self.spec.overrides if override.layer == glob_of(layer)]
        return self.is_revision and any(override.is_float and override.op is None for override in named)

    def consumers(self, layer: str) -> list[str]:
        """The layers that read its output in the int8 graph, through operators that only give it another shape."""
        return list(self._consumers.get(layer, {}))

    def producers(self, layer: str) -> list[str]:
        """The layers whose outputs it reads."""
        return [name for name in self.layers if layer in self._consumers.get(name, {})]

    def reached(self, layer: str) -> list[str]:
        """It and all that read its tensor as it is: through operators without weights, up to those with."""
        found, waiting = {layer: None}, self.consumers(layer)
        while waiting:
            name = waiting.pop(0)
            if name in found or name not in self.layers:
                continue
            found[name] = None
            if self.layers[name].weight_bytes == 0:
                waiting.extend(self.consumers(name))
        return self.quantized(found)

    def can_do_without(self, layers: Iterable[str]) -> bool:
        """Whether a layer that multiplies stays in int8 when these go to float; a job that has none is refused."""
        kept = set(self.layers) - set(layers)
        return any(self.layers[name].precision == "int8" and self.layers[name].macs for name in kept)

    def gives_output(self, layer: str) -> bool:
        """Whether its output is the model's."""
        return layer in self._heads

    def quantized(self, layers: Iterable[str]) -> list[str]:
        """Those of them that are in int8."""
        return [name for name in layers if name in self.layers and self.layers[name].precision == "int8"]

    @cached_property
    def _closeness(self) -> Closeness:
        return closeness(self.quality.fidelity)

    @property
    def _agreement(self) -> float:
        found = self._closeness.agreement
        return 1.0 if found is None else found

    @cached_property
    def _consumers(self) -> dict[str, dict[str, None]]:
        origins: dict[str, set[str]] = {}  # of each node: the layers whose tensors it passes on
        found: dict[str, dict[str, None]] = {}
        for node in self.analysis.graphs.int8_nodes:
            arriving = set[str]().union(*(origins.get(name, set()) for name in node.inputs))
            own = node.layer if node.layer in self.layers else None
            reader = own if own is not None else _OUTPUT if node.op == "output" else None
            if reader is not None:
                for producer in sorted(arriving - {reader}):
                    found.setdefault(producer, {})[reader] = None
            origins[node.name] = arriving if own is None else {own}
        return found

    @cached_property
    def _heads(self) -> set[str]:
        return {layer for layer, readers in self._consumers.items() if _OUTPUT in readers}


def suggest(title: str, patch: dict[str, Any], expected: str | None = None) -> Suggestion:
    """A change of the spec."""
    return Suggestion(title=title, patch=patch, expected=expected)


def keep_in_float(case: Case, layers: list[str], expected: str) -> Suggestion | None:
    """These layers in float; None when nothing would be left in int8."""
    if not layers or not case.can_do_without(layers):
        return None
    patch = {"overrides": [entry for layer in layers for entry in in_float(layer)["overrides"]]}
    return suggest(f"Keep {' and '.join(layers)} in float", patch, expected)


def has_few_levels(qparams: Qparams) -> bool:
    """Whether its limits leave it clearly fewer integers than int8 has, and activations than 7 bits have."""
    enough = _FEW_WEIGHT_STEPS if qparams.role == "weight" else _REDUCED_STEPS
    return qparams.quant_max - qparams.quant_min < enough


def told_db(value: float | None) -> str:
    """Such as `12.3 dB`."""
    return "∞ dB" if value is None or math.isinf(value) else f"{value:.1f} dB"


def _gain_of_share(base_db: float, alone_db: float | None) -> float:
    """What the output would gain without a noise that alone leaves `alone_db`."""
    if alone_db is None or math.isinf(base_db):
        return 0.0
    share = min(_MOST_SHARE, 10 ** ((base_db - alone_db) / 10))
    return -10 * math.log10(1 - share)
