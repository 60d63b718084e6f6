"""What became of each layer and operator, read from the quantized module itself and not from the plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from shared.layer_report import Fusion, Graphs, LayerPrecision, LayerSummary, QuantBoundary
from worker.quantization.boundaries import has_int8_kernel, quant_boundaries
from worker.quantization.counting import layer_macs
from worker.quantization.describing_qparams import activation_qparams, weight_qparams
from worker.quantization.fusions import fusions
from worker.quantization.graph_tables import float_table, int8_table
from worker.quantization.grouping import Group, groups
from worker.quantization.int8_modules import precision_of
from worker.quantization.labelling import is_boundary, label, owners, passes_on, plain
from worker.quantization.observing import Observed, observe
from worker.quantization.planning import Plan
from worker.quantization.qconfigs import qconfig_for
from worker.quantization.ranging import ACTIVATIONS

_NO_KERNEL = "no int8 kernel"
_NOT_CONVERTED = "planned for int8, and FX left it in float: it found no observed tensor to compute on"
_BETWEEN = "no int8 kernel: int8 tensors are dequantized for it, and what it gives is quantized again"
_BYTES = {"int8": 1, "float16": 2, "float32": 4}


@dataclass(frozen=True)
class Description:
    """What a quantized model is made of; nothing in it depends on data but the ranges that observers saw."""

    layers: list[LayerSummary]
    absorbed: dict[str, str]  #: layers of the float model that another computes in int8, and which
    through: dict[str, Callable[[Tensor], Tensor]]  #: the activation that alone reads a layer's output
    boundaries: list[QuantBoundary]
    fusions: list[Fusion]
    graphs: Graphs


def describe(
    raised: fx.GraphModule,
    prepared: fx.GraphModule | None,
    quantized: fx.GraphModule,
    plan: Plan,
    inputs: tuple[Tensor, ...],
) -> Description:
    """Describe a quantized model; `prepared` is what it was converted from, or None for dynamic quantization.

    `inputs` are a small batch: the models are run on it to see shapes and what quant boundaries cost.
    """
    observed = observe(quantized, inputs)
    return Description(
        layers=_with_qparams(_layers(raised, quantized, plan, observed), raised, prepared, quantized, plan),
        absorbed=absorbers(raised, quantized),
        through=_activations_behind(raised),
        boundaries=quant_boundaries(raised, quantized, plan, observed),
        fusions=fusions(raised, quantized, plan),
        graphs=Graphs(float_nodes=float_table(raised), int8_nodes=int8_table(raised, quantized, observed)),
    )


def describe_layers(raised: fx.GraphModule, quantized: nn.Module, plan: Plan) -> list[LayerSummary]:
    """A line for each layer with weights, in the graph's order."""
    modules = dict(quantized.named_modules(remove_duplicate=False))
    return [
        _summary(group, precision_of(modules.get(group.name)), plan)
        for group in groups(raised)
        if group.module is not None and any(True for _ in group.module.parameters())
    ]


def _layers(raised: fx.GraphModule, quantized: fx.GraphModule, plan: Plan, observed: Observed) -> list[LayerSummary]:
    """A line for each layer and for each operator that computes something."""
    modules = dict(quantized.named_modules(remove_duplicate=False))
    labels = label(raised, quantized)
    int8_operators = {
        layer
        for node, layer in labels.items()
        if not is_boundary(node) and node.op != "get_attr" and node in observed.given and observed.given[node].is_int8
    }
    absorbed = absorbers(raised, quantized)
    fused, macs = _fused_into(raised, set(labels.values()), absorbed), layer_macs(raised)
    found = []
    for group in groups(raised):
        if passes_on(raised, group.nodes[0]) or group.name in absorbed:
            continue
        precision = precision_of(modules.get(group.name))
        if precision == "float32" and group.name in int8_operators:
            precision = "int8"
        summary = _summary(group, precision, plan)
        own_macs = sum(macs.get(str(node.meta["layer"]), 0) for node in group.nodes)
        found.append(summary.model_copy(update={"macs": own_macs, "fused": fused.get(group.name, [])}))
    return found


def _summary(group: Group, precision: LayerPrecision, plan: Plan) -> LayerSummary:
    reason = None
    if precision == "float32":
        planned = group.name in plan.int8_layers
        unserved = _NOT_CONVERTED if has_int8_kernel(group, plan) else _BETWEEN
        reason = unserved if planned else plan.float_reasons.get(group.name, _NO_KERNEL)
    weights = [] if group.module is None else list(group.module.parameters())
    return LayerSummary(
        name=group.name,
        op=group.op,
        precision=precision,
        weight_bytes=sum(_weight_bytes(weight, precision) for weight in weights),
        reason=reason,
    )


def _weight_bytes(weight: Tensor, precision: LayerPrecision) -> int:
    """Matrices and kernels take the precision's bytes a weight; biases and norms stay float."""
    return weight.numel() * (_BYTES[precision] if weight.dim() > 1 else 4)


def _activations_behind(raised: fx.GraphModule) -> dict[str, Callable[[Tensor], Tensor]]:
    found = {}
    for group in groups(raised):
        readers = list(group.nodes[-1].users)
        if len(readers) == 1 and (activation := ACTIVATIONS.get(plain(str(readers[0].meta.get("op", ""))))) is not None:
            found[group.name] = activation
    return found


def absorbers(raised: fx.GraphModule, quantized: fx.GraphModule) -> dict[str, str]:
    """Layers that no node of the quantized graph stands for, and the layer that computes them.

    Such as a ReLU that an int8 kernel computes by saturating at zero, or a batch norm that was folded.
    """
    left, by_layer = set(label(raised, quantized).values()), owners(raised)
    found: dict[str, str] = {}
    for group in dict.fromkeys(by_layer.values()):
        if any(str(node.meta["layer"]) in left for node in group.nodes) or passes_on(raised, group.nodes[0]):
            continue
        before = [
            by_layer[layer].name
            for node in group.nodes[0].all_input_nodes
            if (layer := str(node.meta.get("layer"))) in by_layer
        ]
        if before:
            found[group.name] = found.get(before[0], before[0])
    return found


def _fused_into(raised: fx.GraphModule, left: set[str], absorbed: dict[str, str]) -> dict[str, list[str]]:
    """The layers of each group that no node of the quantized graph stands for."""
    found: dict[str, list[str]] = {}
    for group in groups(raised):
        gone = [str(node.meta["layer"]) for node in group.nodes if str(node.meta["layer"]) not in left]
        found.setdefault(absorbed.get(group.name, group.name), []).extend(gone)
    return found


def _with_qparams(
    layers: list[LayerSummary],
    raised: fx.GraphModule,
    prepared: fx.GraphModule | None,
    quantized: fx.GraphModule,
    plan: Plan,
) -> list[LayerSummary]:
    modules = dict(quantized.named_modules(remove_duplicate=False))
    originals = dict((raised if prepared is None else prepared).named_modules(remove_duplicate=False))
    activations = {} if prepared is None else activation_qparams(prepared, plan.int8_layers)
    for gone, absorber in absorbers(raised, quantized).items():  # what it gives is what the other gives
        activations[absorber] = activations.get(absorber, []) + activations.pop(gone, [])
    observers = _dynamic_weight_observers(raised, plan) if prepared is None else _weight_observers(prepared)
    found = []
    for layer in layers:
        qparams = []
        if layer.name in modules:
            qparams = weight_qparams(modules[layer.name], originals.get(layer.name), observers.get(layer.name))
        found.append(layer.model_copy(update={"qparams": qparams + activations.get(layer.name, [])}))
    return found


def _dynamic_weight_observers(raised: fx.GraphModule, plan: Plan) -> Mapping[str, Any]:
    """Likewise where nothing is prepared: what the plan's settings make of each layer."""
    kinds = {name: type(raised.get_submodule(name)).__name__ for name in plan.int8_layers}
    return {name: qconfig_for(kind, plan.settings_of(name), trainable=False).weight() for name, kind in kinds.items()}


def _weight_observers(prepared: fx.GraphModule) -> Mapping[str, Any]:
    """What finds the range of each layer's weight: that of QAT has seen it, the others see it when they are made."""
    attributes = prepared.meta.get("_observed_graph_module_attrs")
    qconfigs = {} if attributes is None else attributes.node_name_to_qconfig
    found: dict[str, Any] = {}
    for node in prepared.graph.nodes:
        if node.op != "call_module":
            continue
        trained = getattr(prepared.get_submodule(str(node.target)), "weight_fake_quant", None)
        qconfig = qconfigs.get(node.name)
        if trained is not None:
            found[str(node.target)] = trained
        elif qconfig is not None:
            found[str(node.target)] = qconfig.weight()
    return found
