"""What the graph looks like: dead layers, islands, pairs that stayed apart, weights that stayed in float."""

from __future__ import annotations

import math
from collections.abc import Iterator

from shared.job_report import ReportWarning, Suggestion
from shared.layer_report import Fusion, LayerSummary
from worker.findings.case import WORTH_DB, Case, Finding, keep_in_float, suggest
from worker.quantization import in_int8

_MOSTLY_FLOAT = 0.5
_RECURRENT = ("LSTM", "GRU", "LSTMCell", "GRUCell", "RNNCell")  # and no RNN: it has int8 kernels nowhere
_FEW_MACS = 0.05  # of all: an int8 layer with fewer saves less than its boundaries cost
# Ranks among each other, below any cost in dB that is worth telling.
_DEAD, _ISLAND, _SMALL_ISLAND, _APART, _MISSED, _MOSTLY = 0.9, 0.8, 0.7, 0.6, 0.5, 0.4


def float_not_finite(case: Case) -> Iterator[Finding]:
    """Outputs of the float model that are no numbers; but not a mask that int8 puts in the same places."""
    for output in case.quality.fidelity:
        share, elsewhere = output.float_not_finite, output.not_finite_elsewhere
        if not share or not (output.float_is_nan or elsewhere):
            continue
        what = "NaN" if output.float_is_nan else "infinite"
        layer = case.not_finite_from
        told = "in the same places" if not elsewhere else f"in other places for {100 * elsewhere:.3g} % of the samples"
        yield Finding(
            ReportWarning(
                code="float_not_finite",
                layer=layer,
                message=f"The float model itself gives {what} values in its output {output.output}"
                f"{'' if layer is None else f': {layer} is the first to make them'}.",
                hint="Mend the model, such as by a clamp before a root or a logarithm; no figure of this report says "
                "more than where both models give numbers.",
                evidence=f"Of the {case.quality.samples} {case.quality.data} samples {100 * share:.3g} % have such "
                f"values; int8 gives them {told}"
                f"{', which counts as far off as can be told' if elsewhere else ', and they are left out'}.",
            ),
            math.inf,
        )


def dead_layers(case: Case) -> Iterator[Finding]:
    """Layers that give one value, whatever comes; what is not finite counts as 0, and is told by itself."""
    if any(output.float_is_nan for output in case.quality.fidelity):
        return
    for layer, facts in case.analysis.facts.items():
        summary = case.layers[layer]
        if not facts.output.is_constant or summary.weight_bytes == 0:
            continue
        activation = summary.fused[-1] if summary.fused else None
        cause = f"{activation} lets none of it pass" if activation and facts.output.max == 0 else "it computes nothing"
        yield Finding(
            ReportWarning(
                code="dead_layer",
                layer=layer,
                message=f"{layer} gives {facts.output.max:.3g} for every sample: {cause}.",
                hint="The float model does so as well: prune the layer, or find out why training lost it.",
                evidence=f"Least and greatest output on {case.analysis.samples} evaluation samples: "
                f"{facts.output.min:.3g} and {facts.output.max:.3g}.",
            ),
            _DEAD,
        )


def float_islands(case: Case) -> Iterator[Finding]:
    """Float layers between int8 ones, where an override asked for it and int8 has a kernel.

    Not those that a revision put there: they were too dear in int8, and the two suggestions would undo each other.
    """
    for name, layer in case.layers.items():
        before, after = case.producers(name), case.consumers(name)
        if not _is_asked(case, name) or case.was_put_in_float(name):
            continue
        if not before or not after or case.quantized(before) != before or case.quantized(after) != after:
            continue
        crossings = [
            boundary
            for boundary in case.analysis.boundaries
            if name in boundary.producer.split(", ") or name in boundary.consumer.split(", ")
        ]
        if not any(boundary.removed_by and _puts_in_int8(boundary.removed_by, name) for boundary in crossings):
            continue
        cost_ms = sum(boundary.cost_ms or 0.0 for boundary in crossings)
        yield Finding(
            ReportWarning(
                code="float_island",
                layer=name,
                message=f"{name} stays in float between int8 layers, and tensors are converted for it and back.",
                evidence=f"{len(crossings)} quant boundaries, {cost_ms:.3g} ms a sample at batch 1, and "
                f"{100 * _share_of_macs(case, layer):.0f} % of the multiply-accumulates in float.",
                suggestion=suggest(
                    f"Put {name} in int8",
                    in_int8(name),
                    f"{len(crossings)} quant boundaries fewer; the quality may fall",
                ),
            ),
            _ISLAND,
        )


def int8_islands(case: Case) -> Iterator[Finding]:
    """Small int8 layers between float ones: what they save is less than their boundaries cost."""
    for name, layer in case.layers.items():
        neighbours = [other for other in (*case.producers(name), *case.consumers(name)) if other in case.layers]
        if layer.precision != "int8" or layer.macs == 0 or _share_of_macs(case, layer) >= _FEW_MACS:
            continue
        if not neighbours or case.quantized(neighbours) or not any(_is_asked(case, other) for other in neighbours):
            continue
        yield Finding(
            ReportWarning(
                code="int8_island",
                layer=name,
                message=f"{name} alone is in int8 among float layers, and does little: its quant boundaries cost more.",
                evidence=f"{100 * _share_of_macs(case, layer):.1f} % of the multiply-accumulates.",
                suggestion=keep_in_float(case, [name], "its quant boundaries go"),
            ),
            _SMALL_ISLAND,
        )


def unfused(case: Case) -> Iterator[Finding]:
    """Pairs that int8 kernels could hold, and a reader or an order in the model keeps apart."""
    missed = [
        fusion
        for fusion in case.analysis.fusions
        if not fusion.fused and tuple(fusion.layers) not in case.analysis.beyond_kernels
    ]
    for fusion in missed:
        cost_db = max((case.cost_db(layer) for layer in _int8_members(case, fusion)), default=0.0)
        yield Finding(_unfused(case, fusion, cost_db), cost_db if cost_db >= WORTH_DB else _APART)


def _unfused(case: Case, fusion: Fusion, cost_db: float) -> ReportWarning:
    members = _int8_members(case, fusion)
    return ReportWarning(
        code="unfused",
        layer=fusion.layers[0],
        message=f"{fusion.pattern} ({', '.join(fusion.layers)}) does not run as one kernel: {fusion.reason}.",
        hint="Change the model so that nothing else reads what lies between, or the order is one that fuses.",
        evidence="What lies between is rounded to int8, which one kernel would not do"
        + (f": {cost_db:.1f} dB of the output." if cost_db >= WORTH_DB else "; it costs the output less than 1 dB."),
        suggestion=keep_in_float(case, members, f"{cost_db:.1f} dB: what lies between is then not rounded")
        if cost_db >= WORTH_DB
        else None,
    )


def missing_observers(case: Case) -> Iterator[Finding]:
    """Layers with weights that were planned for int8 and are float."""
    for name, layer in case.layers.items():
        if layer.weight_bytes and case.analysis.float_kinds.get(name) == "not_converted":
            yield Finding(
                ReportWarning(
                    code="missing_observer",
                    layer=name,
                    message=f"{name} was planned for int8 and stayed in float: no observer stands at its input.",
                    hint="Its neighbours pass it tensors that are not quantized; put them in int8, or leave it.",
                ),
                _MISSED,
            )


def mostly_float(case: Case) -> Iterator[Finding]:
    """Most weights stayed as large as they were; dynamic quantization is for those that are recurrent."""
    counts = {"float32": 0.0, "float16": 0.0, "int8": 0.0}
    for layer in case.layers.values():
        counts[layer.precision] += layer.weight_bytes / {"float32": 4, "float16": 2, "int8": 1}[layer.precision]
    share = counts["float32"] / max(1.0, sum(counts.values()))
    if share <= _MOSTLY_FLOAT:
        return
    yield Finding(
        ReportWarning(
            code="mostly_float",
            message=f"{100 * share:.0f} % of the weights stay in float: little is gained by this method.",
            hint="`layers` in the report says why each was left; another method may quantize them.",
            suggestion=_dynamic_instead(case),
        ),
        _MOSTLY,
    )


def _dynamic_instead(case: Case) -> Suggestion | None:
    left = [layer for layer in case.layers.values() if layer.precision == "float32"]
    recurrent = sum(layer.weight_bytes for layer in left if layer.op in _RECURRENT)
    everything = sum(layer.weight_bytes for layer in left)
    if case.spec.method == "dynamic" or recurrent <= _MOSTLY_FLOAT * everything:
        return None
    expected = f"int8 for {100 * recurrent / everything:.0f} % of the weights that stay in float: they are recurrent"
    return suggest("Use method dynamic", {"method": "dynamic"}, expected)


def _is_asked(case: Case, layer: str) -> bool:
    """Whether an override keeps a layer in float."""
    return case.analysis.float_kinds.get(layer) == "asked"


def _puts_in_int8(patch: dict[str, list[dict[str, str]]], layer: str) -> bool:
    return any(entry in in_int8(layer)["overrides"] for entry in patch["overrides"])


def _int8_members(case: Case, fusion: Fusion) -> list[str]:
    return case.quantized(dict.fromkeys(fusion.layers))


def _share_of_macs(case: Case, layer: LayerSummary) -> float:
    return layer.macs / max(1, sum(other.macs for other in case.layers.values()))
