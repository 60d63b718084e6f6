"""What became of each layer and operator, read from the quantized module itself and not from the plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx

from shared.layer_report import Fusion, Graphs, LayerPrecision, LayerSummary, QuantBoundary
from worker.quantization.boundaries import quant_boundaries
from worker.quantization.counting import layer_macs
from worker.quantization.describing_qparams import activation_qparams, weight_qparams
from worker.quantization.float_reasons import FloatKind, FloatReason
from worker.quantization.fusions import fusions
from worker.quantization.graph_tables import float_table, int8_table
from worker.quantization.grouping import Group
from worker.quantization.int8_kernels import DEQUANTIZED_FOR_IT, has_kernel
from worker.quantization.int8_modules import precision_of
from worker.quantization.labelling import Labelled, is_boundary, labelled, passes_on, plain
from worker.quantization.observing import Observed, observe
from worker.quantization.plans import Plan
from worker.quantization.qconfigs import qconfig_for
from worker.quantization.ranging import ACTIVATIONS

_NO_KERNEL = FloatReason("no_kernel", "no int8 kernel")
_BETWEEN = FloatReason("no_kernel", DEQUANTIZED_FOR_IT)
_NOT_CONVERTED = FloatReason(
    "not_converted", "planned for int8, and FX left it in float: it found no observed tensor to compute on"
)
_BYTES = {"int8": 1, "float16": 2, "float32": 4}


@dataclass(frozen=True)
class Description:
    """What a quantized model is made of; nothing in it depends on data but the ranges that observers saw."""

    layers: list[LayerSummary]
    float_kinds: dict[str, FloatKind]  #: of those in float: the kind of their reason
    absorbed: dict[str, str]  #: layers of the float model that another computes in int8, and which
    through: dict[str, Callable[[Tensor], Tensor]]  #: the activation that alone reads a layer's output
    boundaries: list[QuantBoundary]
    fusions: list[Fusion]
    beyond_kernels: frozenset[tuple[str, ...]]  #: layers of those that are none for want of a kernel
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
    graphs, observed = labelled(raised, quantized), observe(quantized, inputs)
    layers = _layers(graphs, plan, observed)
    in_float = _in_float(graphs, layers, plan)
    found = fusions(graphs, plan)
    return Description(
        layers=_with_qparams(layers, graphs, prepared, plan),
        float_kinds={layer: reason.kind for layer, reason in in_float.items()},
        absorbed=graphs.absorbed,
        through=_activations_behind(graphs),
        boundaries=quant_boundaries(graphs, plan, observed, in_float),
        fusions=found.told,
        beyond_kernels=found.beyond_kernels,
        graphs=Graphs(float_nodes=float_table(raised), int8_nodes=int8_table(graphs, observed)),
    )


def _layers(graphs: Labelled, plan: Plan, observed: Observed) -> list[LayerSummary]:
    """A line for each layer and for each operator that computes something."""
    modules = dict(graphs.quantized.named_modules(remove_duplicate=False))
    int8_operators = {
        layer
        for node, layer in graphs.layers.items()
        if not is_boundary(node) and node.op != "get_attr" and node in observed.given and observed.given[node].is_int8
    }
    fused, macs = _fused_into(graphs), layer_macs(graphs.raised)
    found = []
    for group in graphs.groups:
        if passes_on(graphs.raised, group.nodes[0]) or group.name in graphs.absorbed:
            continue
        precision = precision_of(modules.get(group.name))
        if precision == "float32" and group.name in int8_operators:
            precision = "int8"
        summary = _summary(group, precision, plan)
        own_macs = sum(macs.get(str(node.meta["layer"]), 0) for node in group.nodes)
        found.append(summary.model_copy(update={"macs": own_macs, "fused": fused.get(group.name, [])}))
    return found


def _summary(group: Group, precision: LayerPrecision, plan: Plan) -> LayerSummary:
    weights = [] if group.module is None else list(group.module.parameters())
    return LayerSummary(
        name=group.name,
        op=group.op,
        precision=precision,
        weight_bytes=sum(_weight_bytes(weight, precision) for weight in weights),
        reason=_why_in_float(group, plan).text if precision == "float32" else None,
    )


def _in_float(graphs: Labelled, layers: list[LayerSummary], plan: Plan) -> dict[str, FloatReason]:
    """What computes in float, and why; of operators that only pass tensors on those that the plan leaves in float."""
    precisions = {layer.name: layer.precision for layer in layers}
    return {
        group.name: _why_in_float(group, plan)
        for group in graphs.groups
        if precisions.get(group.name, "float32" if group.name in plan.float_reasons else "int8") == "float32"
    }


def _why_in_float(group: Group, plan: Plan) -> FloatReason:
    if group.name in plan.int8_layers:
        return _NOT_CONVERTED if has_kernel(group) else _BETWEEN
    return plan.float_reasons.get(group.name, _NO_KERNEL)


def _weight_bytes(weight: Tensor, precision: LayerPrecision) -> int:
    """Matrices and kernels take the precision's bytes a weight; biases and norms stay float."""
    return weight.numel() * (_BYTES[precision] if weight.dim() > 1 else 4)


def _activations_behind(graphs: Labelled) -> dict[str, Callable[[Tensor], Tensor]]:
    found = {}
    for group in graphs.groups:
        readers = list(group.nodes[-1].users)
        if len(readers) == 1 and (activation := ACTIVATIONS.get(plain(str(readers[0].meta.get("op", ""))))) is not None:
            found[group.name] = activation
    return found


def _fused_into(graphs: Labelled) -> dict[str, list[str]]:
    """The layers of each group that no node of the quantized graph stands for."""
    found: dict[str, list[str]] = {}
    for group in graphs.groups:
        gone = [str(node.meta["layer"]) for node in group.nodes if str(node.meta["layer"]) not in graphs.left]
        found.setdefault(graphs.absorbed.get(group.name, group.name), []).extend(gone)
    return found


def _with_qparams(
    layers: list[LayerSummary], graphs: Labelled, prepared: fx.GraphModule | None, plan: Plan
) -> list[LayerSummary]:
    modules = dict(graphs.quantized.named_modules(remove_duplicate=False))
    originals = dict((graphs.raised if prepared is None else prepared).named_modules(remove_duplicate=False))
    activations = {} if prepared is None else activation_qparams(prepared, plan.int8_layers)
    for gone, absorber in graphs.absorbed.items():  # what it gives is what the other gives
        activations[absorber] = activations.get(absorber, []) + activations.pop(gone, [])
    observers = _dynamic_weight_observers(graphs.raised, plan) if prepared is None else _weight_observers(prepared)
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
