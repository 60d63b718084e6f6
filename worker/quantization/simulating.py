"""Simulate int8 in float: the prepared graph with fake-quantized weights and activations, layer by layer at will.

The simulation is the reference that kernels are held against, and the ground on which choices are made before anything
is converted: which range rule, which bias, which layer costs how much. It computes what right int8 kernels compute, up
to the order of float sums.

A tensor is quantized on the way from a producer to a consumer if either of them is in int8, as conversion does it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.ao.quantization import FakeQuantizeBase, ObserverBase
from torch.func import functional_call

from worker.quantization.planning import Plan

_QUINT8 = (0, 255)
#: In the meta of a prepared graph: the biases, by module, of layers whose bias was corrected for int8.
FLOAT_BIASES = "octavo_float_biases"


@dataclass(frozen=True)
class Quantizer:
    """`clamp(round(x / scale) + zero_point)` and back, as kernels do it: they clamp at the dtype's limits."""

    scale: float
    zero_point: int

    def __call__(self, values: Tensor) -> Tensor:
        """The values as int8 holds them; a fifth of the time that torch's fake quantize takes."""
        low, high = (limit - self.zero_point for limit in _QUINT8)
        return values.mul(1 / self.scale).round_().clamp_(low, high).mul_(self.scale)

    @property
    def range(self) -> tuple[float, float]:
        """The least and the greatest value that can be held."""
        low, high = _QUINT8
        return (low - self.zero_point) * self.scale, (high - self.zero_point) * self.scale


@dataclass(frozen=True)
class LayerTrace:
    """One int8 layer on one batch, in the float model and in the int8 model."""

    layer: str
    reference: Tensor
    """Its output in the float model."""
    total: Tensor
    """Its output in the int8 model: the error made in it and the error that arrived."""
    own: Tensor
    """Its output in int8 on the float model's inputs: the error made in it."""
    arriving: tuple[tuple[Tensor, Tensor], ...]
    """Its inputs: in the float model, and in the int8 model as the layer takes them."""
    quantizer: Quantizer | None
    """Of its output."""


class Simulation:
    """int8 arithmetic computed in float on a prepared and calibrated graph, which is left as it is."""

    def __init__(self, prepared: fx.GraphModule, plan: Plan) -> None:
        """Read the qparams that the observers and weights have now."""
        self._graph = prepared
        self._modules = dict(prepared.named_modules(remove_duplicate=False))
        self._int8 = plan.int8_layers
        owners: Mapping[str, str] = prepared.meta["octavo_groups"]
        self._owner = {node: owners.get(str(node.meta.get("layer", "")), "") for node in prepared.graph.nodes}
        self._last_use = _last_uses(prepared.graph)
        self._quantizers = {node: self._quantizer(node) for node in prepared.graph.nodes if self._observes(node)}
        qconfigs = prepared.meta["_observed_graph_module_attrs"].node_name_to_qconfig
        self._weights = {
            node: weight
            for node in prepared.graph.nodes
            if node.op == "call_module"
            and self._is_int8(node)
            and (weight := quantized_weight(self._modules[str(node.target)], qconfigs.get(node.name))) is not None
        }
        self._float_biases: Mapping[str, Tensor | None] = prepared.meta.get(FLOAT_BIASES, {})
        self._ends = self._group_ends()
        self.layers = tuple(dict.fromkeys(self._owner[node] for node in self._ends))

    def quantizer_of(self, layer: str) -> Quantizer | None:
        """The quantizer of a layer's output; None where it has none."""
        end = next((node for node in self._ends if self._owner[node] == layer), None)
        return None if end is None else self._output_quantizer(end)

    def run(self, *inputs: Tensor, int8: Collection[str] | None = None) -> tuple[Tensor, ...]:
        """The model's outputs with only these layers in int8; with None all that the plan names."""
        chosen = self._int8 if int8 is None else frozenset(int8)
        values: dict[fx.Node, Any] = {}
        places = iter(inputs)
        for node in self._graph.graph.nodes:
            if node.op == "placeholder":
                values[node] = next(places)
            elif node.op == "output":
                return tuple(fx.node.map_arg(node.args[0], self._reading(None, values, chosen)))
            elif not self._observes(node):
                values[node] = self._compute(node, self._reading(node, values, chosen), chosen)
            self._forget(node, values)
        raise AssertionError("a graph without an output")

    def trace(self, *inputs: Tensor, visit: Callable[[LayerTrace], None]) -> tuple[tuple[Tensor, ...], ...]:
        """Run float and int8 side by side and show every int8 layer once, in order.

        Returns the outputs of the float and of the int8 model. Only what is still read is held.
        """
        none: frozenset[str] = frozenset()
        reference: dict[fx.Node, Any] = {}
        total: dict[fx.Node, Any] = {}
        own: dict[fx.Node, Any] = {}
        arriving: dict[str, list[tuple[Tensor, Tensor]]] = {}  # of a layer of several nodes: kept until its last
        places = iter(inputs)
        for node in self._graph.graph.nodes:
            if node.op == "placeholder":
                reference[node] = total[node] = next(places)
            elif node.op == "output":
                return tuple(
                    tuple(fx.node.map_arg(node.args[0], self._reading(None, values, chosen)))
                    for values, chosen in ((reference, none), (total, self._int8))
                )
            elif not self._observes(node):
                reference[node] = self._compute(node, self._reading(node, reference, none), none)
                total[node] = self._compute(node, self._reading(node, total, self._int8), self._int8)
                if self._is_int8(node):
                    arriving.setdefault(self._owner[node], []).extend(self._arriving(node, reference, total))
                    own[node] = self._compute(node, functools.partial(self._read_own, node, reference, own), self._int8)
                    if node in self._ends:
                        arrived = tuple(arriving.pop(self._owner[node]))
                        if isinstance(reference[node], Tensor):
                            visit(self._shown(node, arrived, reference[node], total[node], own[node]))
            for values in (reference, total, own):
                self._forget(node, values)
        raise AssertionError("a graph without an output")

    def amend(self, *inputs: Tensor, meet: Callable[[fx.Node, Tensor, Tensor], Tensor]) -> None:
        """Run float and int8 side by side, and let `meet` change what every quantized weight gives in int8.

        It is given the node, its output in the float model, and its output in the int8 model, before any activation.
        """
        none: frozenset[str] = frozenset()
        reference: dict[fx.Node, Any] = {}
        total: dict[fx.Node, Any] = {}
        before: dict[fx.Node, Tensor] = {}
        places = iter(inputs)
        for node in self._graph.graph.nodes:
            if node.op == "placeholder":
                reference[node] = total[node] = next(places)
            elif node.op != "output" and not self._observes(node):
                met = node in self._weights
                note = functools.partial(before.setdefault, node) if met else None
                change = functools.partial(self._meet, meet, node, before) if met else None
                reference[node] = self._compute(node, self._reading(node, reference, none), none, note)
                total[node] = self._compute(node, self._reading(node, total, self._int8), self._int8, change)
            for values in (reference, total):
                self._forget(node, values)

    @staticmethod
    def _meet(
        meet: Callable[[fx.Node, Tensor, Tensor], Tensor], node: fx.Node, before: dict[fx.Node, Tensor], found: Tensor
    ) -> Tensor:
        return meet(node, before.pop(node), found)

    def weighted(self) -> Iterator[tuple[fx.Node, nn.Module]]:
        """The nodes whose weights are quantized, with their modules, in the graph's order."""
        for node in self._weights:
            yield node, self._modules[str(node.target)]

    # --- one node ----------------------------------------------------------------------------------------------------

    def _compute(
        self,
        node: fx.Node,
        read: Callable[[fx.Node], Any],
        int8: Collection[str],
        amend: Callable[[Tensor], Tensor] | None = None,
    ) -> Any:
        args, kwargs = fx.node.map_arg(node.args, read), fx.node.map_arg(node.kwargs, read)
        if node.op == "get_attr":
            return _attribute(self._graph, str(node.target))
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        if node.op == "call_function":
            return node.target(*args, **kwargs)  # type: ignore[operator]  # fx types it as a string too
        return self._call(node, args, kwargs, amend, quantized=self._owner[node] in int8)

    def _call(
        self,
        node: fx.Node,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        amend: Callable[[Tensor], Tensor] | None,
        *,
        quantized: bool,
    ) -> Any:
        module = self._modules[str(node.target)]
        if str(node.target) in self._float_biases and not quantized:
            return _with_bias(module, self._float_biases[str(node.target)], args, amend)
        if node in self._weights:
            return self._weights[node].call(module, args, quantized=quantized, amend=amend)
        if quantized or not isinstance(getattr(module, "weight_fake_quant", None), FakeQuantizeBase):
            return module(*args, **kwargs)
        with _without_fake_quantize(module.weight_fake_quant):
            return module(*args, **kwargs)

    def _reading(
        self, reader: fx.Node | None, values: Mapping[fx.Node, Any], int8: Collection[str]
    ) -> Callable[[fx.Node], Any]:
        return functools.partial(self._read, reader, values, int8)

    def _read(
        self, reader: fx.Node | None, values: Mapping[fx.Node, Any], int8: Collection[str], source: fx.Node
    ) -> Any:
        """What a node sees of another: through the observers between them, if either is in int8."""
        source, quantizer, cap = self._observed(source)
        value = values[source] if cap is None else values[source].clamp(max=cap)
        in_int8 = self._owner[source] in int8 or (reader is not None and self._owner[reader] in int8)
        return quantizer(value) if quantizer is not None and in_int8 else value

    def _read_own(
        self, reader: fx.Node, reference: Mapping[fx.Node, Any], own: Mapping[fx.Node, Any], source: fx.Node
    ) -> Any:
        """Inside of its layer what int8 made; from outside the float value, quantized where the layer has to do it."""
        source, quantizer, cap = self._observed(source)
        if self._owner[source] == self._owner[reader] and source in own:
            return own[source]
        value = reference[source] if cap is None else reference[source].clamp(max=cap)
        return quantizer(value) if quantizer is not None and not self._is_int8(source) else value

    def _observed(self, source: fx.Node) -> tuple[fx.Node, Quantizer | None, float | None]:
        """What stands behind observers, what they make of it, and where they cap it."""
        quantizer, cap = None, None
        while self._observes(source):
            observer = self._modules[str(source.target)]
            quantizer = quantizer or self._quantizers[source]
            cap = cap or getattr(observer, "cap", None)
            source = source.all_input_nodes[0]
        return source, quantizer, cap

    def _arriving(
        self, node: fx.Node, reference: Mapping[fx.Node, Any], total: Mapping[fx.Node, Any]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """What a node reads from outside of its layer: in the float model, and in the int8 model as it takes it."""
        none: frozenset[str] = frozenset()
        for source in node.all_input_nodes:
            origin = self._unobserved(source)
            arrived = reference.get(origin)
            if self._owner[origin] == self._owner[node] or not isinstance(arrived, Tensor):
                continue
            if arrived.is_floating_point():  # a mask or an index has no error
                yield self._read(node, reference, none, source), self._read(node, total, self._int8, source)

    def _shown(
        self, node: fx.Node, arriving: tuple[tuple[Tensor, Tensor], ...], reference: Tensor, total: Tensor, own: Tensor
    ) -> LayerTrace:
        quantizer, cap = self._output_quantizer(node), self._output_cap(node)
        return LayerTrace(
            layer=self._owner[node],
            reference=reference if cap is None else reference.clamp(max=cap),
            total=total if quantizer is None else quantizer(total),
            own=own if quantizer is None else quantizer(own),
            arriving=arriving,
            quantizer=quantizer,
        )

    # --- the graph ---------------------------------------------------------------------------------------------------

    def _observes(self, node: fx.Node) -> bool:
        return node.op == "call_module" and isinstance(self._modules[str(node.target)], ObserverBase | FakeQuantizeBase)

    def _is_int8(self, node: fx.Node) -> bool:
        return self._owner[node] in self._int8

    def _unobserved(self, node: fx.Node) -> fx.Node:
        while self._observes(node):
            node = node.all_input_nodes[0]
        return node

    def _quantizer(self, node: fx.Node) -> Quantizer | None:
        return quantizer_of(self._modules[str(node.target)])

    def _output_quantizer(self, node: fx.Node) -> Quantizer | None:
        return next((self._quantizers[user] for user in node.users if user in self._quantizers), None)

    def _output_cap(self, node: fx.Node) -> float | None:
        return next((self._observed(user)[2] for user in node.users if user in self._quantizers), None)

    def _group_ends(self) -> list[fx.Node]:
        """The last node of every int8 layer."""
        last: dict[str, fx.Node] = {}
        for node in self._graph.graph.nodes:
            if not self._observes(node) and self._is_int8(node):
                last[self._owner[node]] = node
        return list(last.values())

    def _forget(self, node: fx.Node, values: dict[fx.Node, Any]) -> None:
        for done in self._last_use.get(node, ()):
            values.pop(done, None)


@contextmanager
def _without_fake_quantize(weight: FakeQuantizeBase) -> Iterator[None]:
    """A trained module computes with its weight as it is."""
    was = weight.fake_quant_enabled.clone()
    weight.disable_fake_quant()
    try:
        yield
    finally:
        weight.fake_quant_enabled.copy_(was)


def simulate(prepared: fx.GraphModule, plan: Plan) -> Simulation:
    """The simulation of a prepared and calibrated graph, with the qparams it has now."""
    return Simulation(prepared, plan)


def quantizer_of(observer: nn.Module) -> Quantizer | None:
    """What an observer or fake quantize makes of activations; None when it saw nothing, or only passes on."""
    calculate: Any = getattr(observer, "calculate_qparams", None)
    if calculate is None or getattr(observer, "dtype", torch.quint8) is not torch.quint8 or _saw_nothing(observer):
        return None
    scale, zero_point = calculate()
    return Quantizer(float(scale), int(zero_point))


def _saw_nothing(observer: nn.Module) -> bool:
    inner = getattr(observer, "activation_post_process", observer)
    least = getattr(inner, "min_val", None)
    return isinstance(least, Tensor) and (least.numel() == 0 or not bool(torch.isfinite(least).all()))


@dataclass(frozen=True)
class QuantizedWeight:
    """How a module's weight is quantized; the weight itself is made at each call: it is large."""

    name: str  #: of the parameter in the module
    scale: Tensor  #: one, or one a channel
    zero_point: Tensor
    axis: int | None
    limits: tuple[int, int]

    def of(self, module: nn.Module) -> Tensor:
        """The weight as int8 holds it, in float."""
        weight = module.get_parameter(self.name).detach()
        scale, zero_point = self.scale, self.zero_point
        if self.axis is not None:
            shape = [1] * weight.dim()
            shape[self.axis] = -1
            scale, zero_point = scale.reshape(shape), zero_point.reshape(shape)
        steps = (weight / scale).add_(zero_point).round_().clamp_(*self.limits)  # in place: a third of the time
        return steps.sub_(zero_point).mul_(scale)

    def call(
        self,
        module: nn.Module,
        args: tuple[Any, ...],
        *,
        quantized: bool,
        amend: Callable[[Tensor], Tensor] | None = None,
    ) -> Any:
        """The module's output, with its weight quantized or not; `amend` sees it before a fused activation does."""
        name = self.name.rpartition(".")[2]
        return _called_with(module, {name: self.of(module)} if quantized else {}, args, amend)


def _with_bias(
    module: nn.Module, bias: Tensor | None, args: tuple[Any, ...], amend: Callable[[Tensor], Tensor] | None
) -> Any:
    """A module's output with the bias that it had before it was corrected."""
    layer = next(iter(module)) if isinstance(module, nn.Sequential) else module
    return _called_with(module, {"bias": torch.zeros_like(layer.bias) if bias is None else bias}, args, amend)  # type: ignore[arg-type] # a bias is a tensor


def _called_with(
    module: nn.Module, tensors: dict[str, Tensor], args: tuple[Any, ...], amend: Callable[[Tensor], Tensor] | None
) -> Any:
    """A module's output with other tensors of its first layer; `amend` sees what that gives before any activation."""
    layer, *activations = module if isinstance(module, nn.Sequential) else (module,)
    result = functional_call(layer, tensors, args) if tensors else layer(*args)
    result = result if amend is None else amend(result)
    for activation in activations:
        result = activation(result)
    return result


def quantized_weight(module: nn.Module, qconfig: Any) -> QuantizedWeight | None:
    """How conversion will quantize a module's weight; None for modules without one, and for those in training."""
    name = next((name for name, _ in module.named_parameters() if name.rpartition(".")[2] == "weight"), None)
    if name is None or qconfig is None or hasattr(module, "weight_fake_quant"):
        return None
    if module.get_parameter(name).dim() < 2:  # of a batch or layer norm: its kernel takes it in float
        return None
    observer = qconfig.weight()
    if getattr(observer, "dtype", None) not in (torch.qint8, torch.quint8) or not hasattr(
        observer, "calculate_qparams"
    ):
        return None
    observer(module.get_parameter(name).detach())
    scale, zero_point = observer.calculate_qparams()
    per_channel = observer.qscheme in (
        torch.per_channel_affine, torch.per_channel_symmetric, torch.per_channel_affine_float_qparams,
    )  # fmt: skip
    return QuantizedWeight(
        name=name,
        scale=scale,
        zero_point=zero_point.to(scale.dtype),
        axis=observer.ch_axis if per_channel else None,
        limits=(observer.quant_min, observer.quant_max),
    )


def _last_uses(graph: fx.Graph) -> dict[fx.Node, list[fx.Node]]:
    """For each node those that nobody reads after it; an observer's reader reads what is observed."""
    last: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        waiting = list(node.all_input_nodes)
        while waiting:
            source = waiting.pop()
            last[source] = node
            if source.op == "call_module":  # it may be an observer: what it observes is read with it
                waiting.extend(source.all_input_nodes)
    done: dict[fx.Node, list[fx.Node]] = {}
    for source, reader in last.items():
        done.setdefault(reader, []).append(source)
    return done


def _attribute(root: nn.Module, path: str) -> Any:
    found: Any = root
    for part in path.split("."):
        found = getattr(found, part)
    return found
