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

from worker.quantization.copying import collect_garbage, weight_bytes
from worker.quantization.plans import Plan
from worker.quantization.quantizers import Quantizer, quantized_weight, quantizer_of

#: In the meta of a prepared graph: the biases, by module, of layers whose bias was corrected for int8.
FLOAT_BIASES = "octavo_float_biases"
_FLOAT: frozenset[str] = frozenset()  # the layers that are in int8 in the float model


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

    def __init__(self, prepared: fx.GraphModule, plan: Plan, unrounded: Collection[str] = ()) -> None:
        """Read the qparams that the observers and weights have now.

        What the layers in `unrounded` give is left as it is.
        """
        self._graph = prepared
        self._modules = dict(prepared.named_modules(remove_duplicate=False))
        self._int8 = plan.int8_layers
        self._unrounded = unrounded
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

    def run(self, *inputs: Tensor, int8: Collection[str] | None = None) -> tuple[Tensor, ...]:
        """The model's outputs with only these layers in int8; with None all that the plan names."""
        chosen = self._int8 if int8 is None else frozenset(int8)
        values: dict[fx.Node, Any] = {}
        for node in self._walk(inputs, values):
            self._advance(node, values, chosen)
        return self._outputs(values)

    def trace(self, *inputs: Tensor, visit: Callable[[LayerTrace], None]) -> None:
        """Run float and int8 side by side and show every int8 layer once, in order; only what is still read is held."""
        reference: dict[fx.Node, Any] = {}
        total: dict[fx.Node, Any] = {}
        own: dict[fx.Node, Any] = {}
        arriving: dict[str, list[tuple[Tensor, Tensor]]] = {}  # of a layer of several nodes: kept until its last
        for node in self._walk(inputs, reference, total, own):
            self._advance(node, reference, _FLOAT)
            self._advance(node, total, self._int8)
            if self._is_int8(node):
                arriving.setdefault(self._owner[node], []).extend(self._arriving(node, reference, total))
                own[node] = self._compute(node, functools.partial(self._read_own, node, reference, own), self._int8)
                if node in self._ends:
                    arrived = tuple(arriving.pop(self._owner[node]))
                    if isinstance(reference[node], Tensor):
                        visit(self._shown(node, arrived, reference[node], total[node], own[node]))

    def amend(self, *inputs: Tensor, meet: Callable[[fx.Node, Tensor, Tensor], Tensor]) -> None:
        """Run float and int8 side by side, and let `meet` change what every quantized weight gives in int8.

        It is given the node, its output in the float model, and its output in the int8 model, before any activation.
        """
        reference: dict[fx.Node, Any] = {}
        total: dict[fx.Node, Any] = {}
        before: dict[fx.Node, Tensor] = {}
        for node in self._walk(inputs, reference, total):
            met = node in self._weights
            note = functools.partial(before.setdefault, node) if met else None
            change = functools.partial(self._meet, meet, node, before) if met else None
            self._advance(node, reference, _FLOAT, note)
            self._advance(node, total, self._int8, change)

    @staticmethod
    def _meet(
        meet: Callable[[fx.Node, Tensor, Tensor], Tensor], node: fx.Node, before: dict[fx.Node, Tensor], found: Tensor
    ) -> Tensor:
        return meet(node, before.pop(node), found)

    def layers_before(self, functions: Collection[Callable[..., Any]]) -> frozenset[str]:
        """The layers with quantized weights whose output is read by these functions alone."""
        readers: dict[fx.Node, list[fx.Node]] = {}
        for node in self._graph.graph.nodes:
            if not self._observes(node):
                for source in node.all_input_nodes:
                    readers.setdefault(self._unobserved(source), []).append(node)
        ends = set(self._ends)
        return frozenset(
            self._owner[node]
            for node in self._weights
            if node in ends and readers.get(node) and all(each.target in functions for each in readers[node])
        )

    def weighted(self) -> Iterator[tuple[fx.Node, nn.Module]]:
        """The nodes whose weights are quantized, with their modules, in the graph's order."""
        for node in self._weights:
            yield node, self._modules[str(node.target)]

    def _walk(self, inputs: tuple[Tensor, ...], *ways: dict[fx.Node, Any]) -> Iterator[fx.Node]:
        """The nodes to compute, in order, the output last.

        Every way through the graph is given the inputs, and loses what nobody reads any more.
        """
        places = iter(inputs)
        for node in self._graph.graph.nodes:
            if node.op == "placeholder":
                given = next(places)
                for values in ways:
                    values[node] = given
            elif not self._observes(node):
                yield node
            for done in self._last_use.get(node, ()):
                for values in ways:
                    values.pop(done, None)

    # --- one node ----------------------------------------------------------------------------------------------------

    def _advance(
        self,
        node: fx.Node,
        values: dict[fx.Node, Any],
        int8: Collection[str],
        amend: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        values[node] = self._compute(node, functools.partial(self._read, node, values, int8), int8, amend)

    def _outputs(self, values: Mapping[fx.Node, Any]) -> tuple[Tensor, ...]:
        return tuple(values[next(reversed(self._graph.graph.nodes))])

    def _compute(
        self,
        node: fx.Node,
        read: Callable[[fx.Node], Any],
        int8: Collection[str],
        amend: Callable[[Tensor], Tensor] | None = None,
    ) -> Any:
        args, kwargs = fx.node.map_arg(node.args, read), fx.node.map_arg(node.kwargs, read)
        if node.op == "output":
            return args[0]
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
        others = self._other_tensors(node, module, quantized=quantized)
        if others or amend is not None:
            return _called_with(module, others, args, amend)
        if quantized or not isinstance(getattr(module, "weight_fake_quant", None), FakeQuantizeBase):
            return module(*args, **kwargs)
        with _without_fake_quantize(module.weight_fake_quant):
            return module(*args, **kwargs)

    def _other_tensors(self, node: fx.Node, module: nn.Module, *, quantized: bool) -> dict[str, Tensor]:
        """What a module computes with instead of its own: in int8 a quantized weight, in float its uncorrected bias."""
        if quantized:
            return {"weight": self._weights[node].of(module)} if node in self._weights else {}
        if str(node.target) not in self._float_biases:
            return {}
        bias = self._float_biases[str(node.target)]
        return {"bias": torch.zeros_like(first_layer(module).bias) if bias is None else bias}

    def _read(self, reader: fx.Node, values: Mapping[fx.Node, Any], int8: Collection[str], source: fx.Node) -> Any:
        """What a node sees of another: through the observers between them, if either is in int8."""
        source, quantizer, cap = self._observed(source)
        value = values[source] if cap is None else values[source].clamp(max=cap)
        in_int8 = self._owner[source] in int8 or self._owner[reader] in int8
        if quantizer is None or not in_int8 or self._owner[source] in self._unrounded:
            return value
        return quantizer(value)

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
        for source in node.all_input_nodes:
            origin = self._unobserved(source)
            arrived = reference.get(origin)
            if self._owner[origin] == self._owner[node] or not isinstance(arrived, Tensor):
                continue
            if arrived.is_floating_point():  # a mask or an index has no error
                yield self._read(node, reference, _FLOAT, source), self._read(node, total, self._int8, source)

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


@contextmanager
def _without_fake_quantize(weight: FakeQuantizeBase) -> Iterator[None]:
    """A trained module computes with its weight as it is."""
    was = weight.fake_quant_enabled.clone()
    weight.disable_fake_quant()
    try:
        yield
    finally:
        weight.fake_quant_enabled.copy_(was)


def simulate(prepared: fx.GraphModule, plan: Plan, unrounded: Collection[str] = ()) -> Simulation:
    """The simulation of a prepared and calibrated graph, with the qparams it has now; see `Simulation`."""
    # Of an earlier one: quantized weights and activations come and go, in pieces that the heap does not give back.
    collect_garbage(weight_bytes(prepared))
    return Simulation(prepared, plan, unrounded)


def _called_with(
    module: nn.Module, tensors: dict[str, Tensor], args: tuple[Any, ...], amend: Callable[[Tensor], Tensor] | None
) -> Any:
    """A module's output with other tensors of its first layer; `amend` sees what that gives before any activation."""
    activations = [*module][1:] if isinstance(module, nn.Sequential) else []
    layer = first_layer(module)
    result = functional_call(layer, tensors, args) if tensors else layer(*args)
    result = result if amend is None else amend(result)
    for activation in activations:
        result = activation(result)
    return result


def restore_float_bias(model: fx.GraphModule, name: str) -> None:
    """Give a layer of a prepared graph its own bias, in place: what was corrected for int8 is wrong in float."""
    biases = model.meta.get(FLOAT_BIASES, {})
    if name in biases:
        first_layer(model.get_submodule(name)).bias = biases[name]


def first_layer(module: nn.Module) -> Any:
    """The convolution or Linear of a module that is fused with an activation."""
    return module[0] if isinstance(module, nn.Sequential) else module


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
