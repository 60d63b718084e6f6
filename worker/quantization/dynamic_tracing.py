"""Run a dynamically quantized model beside the float one, layer by layer: its modules are the float ones' or int8.

Both graphs have the same nodes, for quantization only put other modules in their places; so any layer can be taken from
either, and nothing needs to be simulated.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from torch import Tensor, fx

from worker.quantization.int8_modules import precision_of
from worker.quantization.observing import first_tensor
from worker.quantization.simulating import LayerTrace


class DynamicModel:
    """The quantized model as a Simulation is: any layers in int8, the others in float."""

    def __init__(self, raised: fx.GraphModule, quantized: fx.GraphModule) -> None:
        """`quantized` is what `quantize_dynamic` made of `raised`."""
        self._raised = raised
        self._quantized = dict(quantized.named_modules(remove_duplicate=False))
        self.layers = tuple(
            str(node.target)
            for node in raised.graph.nodes
            if node.op == "call_module" and precision_of(self._quantized.get(str(node.target))) != "float32"
        )

    def run(self, *inputs: Tensor, int8: Collection[str] | None = None) -> tuple[Tensor, ...]:
        """The model's outputs with only these layers in int8; with None all that are."""
        mixed = _Mixed(self._raised, self._quantized, self.layers if int8 is None else int8)
        return tuple(mixed.run(*inputs))

    def trace(self, *inputs: Tensor, visit: Callable[[LayerTrace], None]) -> None:
        """Run float and int8 side by side and show every int8 layer once, in order; only what is still read is held."""
        reference = _Mixed(self._raised, self._quantized, ())
        total = _Mixed(self._raised, self._quantized, self.layers)
        places = (iter(inputs), iter(inputs))
        for node in self._raised.graph.nodes:
            if node.op == "output":
                break
            for each, given in zip((reference, total), places, strict=True):
                each.env[node] = next(given) if node.op == "placeholder" else each.run_node(node)
            if node.op == "call_module" and str(node.target) in self.layers:
                shown = self._shown(node, reference, total)
                if shown is not None:
                    visit(shown)
            for done in reference.user_to_last_uses.get(node, ()):
                del reference.env[done], total.env[done]

    def _shown(self, node: fx.Node, reference: _Mixed, total: _Mixed) -> LayerTrace | None:
        args, kwargs = reference.fetch_args_kwargs_from_env(node)
        outputs = [first_tensor(value) for value in (reference.env[node], total.env[node])]
        own = first_tensor(self._quantized[str(node.target)](*args, **kwargs))
        if own is None or outputs[0] is None or outputs[1] is None:
            return None
        arriving = [(reference.env[source], total.env[source]) for source in node.all_input_nodes]
        return LayerTrace(
            layer=str(node.target),
            reference=outputs[0],
            total=outputs[1],
            own=own,
            arriving=tuple(
                (of_float, found)
                for of_float, found in arriving
                if isinstance(of_float, Tensor) and of_float.is_floating_point()
            ),
            quantizer=None,
        )


class _Mixed(fx.Interpreter):
    """The raised graph with some of its modules taken from the quantized model."""

    def __init__(self, raised: fx.GraphModule, quantized: dict[str, Any], int8: Collection[str]) -> None:
        super().__init__(raised)
        self._replaced = {name: quantized[name] for name in int8}

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        module = self._replaced.get(str(target))
        return super().call_module(target, args, kwargs) if module is None else module(*args, **kwargs)
