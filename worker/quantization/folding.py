"""Fold computed weights: where a layer's weight is computed from parameters and buffers alone, compute it once.

So are the weights of `torch.nn.utils.parametrizations` (weight norm, spectral norm, orthogonal ...), those standardized
in `forward`, and adapters added to a matrix: an exported program computes them anew at every call, and no kernel could
hold them in int8. What is folded is a plain weight from then on: QAT trains it and not what it was computed from.

Nothing else is folded: of a constant that is no weight, such as a mask from `arange`, int8 has nothing to gain, and the
file would grow by it.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from worker.quantization.calls import Call, Weights, is_transposition
from worker.quantization.modules import MODULES
from worker.quantization.naming import holder

#: The arguments of operators with weights that a module would hold.
_HELD = ("weight", "bias", "running_mean", "running_var", "w_ih", "w_hh", "b_ih", "b_hh", "params")
_MATRICES = {"mm": ("mat2",), "matmul": ("other",), "addmm": ("mat2", "self")}
#: A weight may be greater than what it is computed from (a product of two narrow matrices), but where the file would
#: grow by more than this it stays computed.
_MOST_GROWTH, _MOST_NEW_WEIGHTS = 16, 1 << 20
_PARAMETRIZED = ".parametrizations."


def fold_weights(settled: fx.GraphModule) -> None:
    """Put a tensor in place of every weight that a settled graph computes from the model's own tensors alone.

    What is computed at random, or from an input, stays. What only the folded weights were computed from is dropped.
    """
    weights, constants = Weights(settled), _constants(settled.graph)
    folded: list[tuple[fx.Node, str]] = []
    for node in [node for node in settled.graph.nodes if node not in constants]:
        for computed in _computed_weights(node, weights):
            if computed in constants and computed.op != "get_attr":
                sources = {source: weights.tensor(source) for source in _sources(computed)}
                if sources and not _grows(computed, list(sources.values())):
                    folded.append((_fold(settled, computed, sources, weights), _plain_name(sources)))
    settled.graph.eliminate_dead_code()
    _name(settled, folded)
    settled.graph.lint()
    settled.recompile()


def _constants(graph: fx.Graph) -> set[fx.Node]:
    """The nodes that give the same at every call: no input reaches them, and nothing random."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "get_attr" or (_is_pure(node) and all(source in found for source in node.all_input_nodes)):
            found.add(node)
    return found


def _is_pure(node: fx.Node) -> bool:
    if node.target is operator.getitem:
        return True
    target = node.target
    if node.op != "call_function" or not isinstance(target, torch._ops.OpOverload):
        return False
    return torch.Tag.nondeterministic_seeded not in target.tags and not target._schema.is_mutable


def _computed_weights(node: fx.Node, weights: Weights) -> Iterator[fx.Node]:
    """The nodes that an operator with weights takes them from; a transposed matrix is as good as the matrix."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return
    call = Call(node, weights)
    if call.look_up(MODULES) is None:
        return
    matrices = _MATRICES.get(call.name, ())
    for argument in (*_HELD, *matrices):
        value = call[argument]
        for each in value if isinstance(value, list | tuple) else (value,):
            if isinstance(each, fx.Node):
                yield each.all_input_nodes[0] if argument in matrices and is_transposition(each) else each


def _sources(computed: fx.Node) -> list[fx.Node]:
    """The tensors of the model that a node is computed from."""
    found: dict[fx.Node, None] = {}
    seen, waiting = {computed}, [computed]
    while waiting:
        node = waiting.pop()
        if node.op == "get_attr":
            found[node] = None
        fresh = [source for source in node.all_input_nodes if source not in seen]
        seen.update(fresh)
        waiting.extend(fresh)
    return list(found)


def _grows(computed: fx.Node, sources: list[Tensor]) -> bool:
    value: Any = computed.meta.get("val")
    if not isinstance(value, Tensor):
        return True
    held = sum(source.numel() for source in sources)
    return value.numel() > _MOST_NEW_WEIGHTS and value.numel() > _MOST_GROWTH * held


def _fold(settled: fx.GraphModule, computed: fx.Node, sources: dict[fx.Node, Tensor], weights: Weights) -> fx.Node:
    """Compute a weight, keep it in the module, and read it from there; what reads it."""
    with torch.no_grad():
        value = _evaluated(computed, weights).clone(memory_format=torch.contiguous_format)
    name = f"folded_{computed.name}"
    if value.is_floating_point() and any(isinstance(source, nn.Parameter) for source in sources.values()):
        trained = any(source.requires_grad for source in sources.values())
        settled.register_parameter(name, nn.Parameter(value, requires_grad=trained))
    else:
        settled.register_buffer(name, value)
    with settled.graph.inserting_before(computed):
        stored = settled.graph.get_attr(name)
    stored.meta["val"] = computed.meta["val"]
    computed.replace_all_uses_with(stored)
    return stored


def _name(settled: fx.GraphModule, folded: list[tuple[fx.Node, str]]) -> None:
    """Give folded weights the names of what they replace, where nothing else is read by these any more."""
    ours = {node for node, _ in folded}
    taken = {str(node.target) for node in settled.graph.nodes if node.op == "get_attr" and node not in ours}
    for node, wanted in folded:
        owner, _, leaf = wanted.rpartition(".")
        name, count = wanted, 0
        while name in taken:
            count += 1
            name = f"{owner or 'folded'}_{count}.{leaf}"
        taken.add(name)
        tensor = getattr(settled, str(node.target))
        delattr(settled, str(node.target))
        container, leaf = holder(settled, name.rpartition(".")[0]), name.rpartition(".")[2]
        if isinstance(tensor, nn.Parameter):
            container.register_parameter(leaf, tensor)
        else:
            container.register_buffer(leaf, tensor)
        node.target = name


def _evaluated(node: fx.Node, weights: Weights) -> Tensor:
    """A constant node's value. Only what is still needed is held."""
    needed: dict[fx.Node, None] = {}
    _require(node, needed)
    left = {each: sum(user in needed for user in each.users) for each in needed}
    values: dict[fx.Node, Any] = {}
    for each in needed:  # sources come before what reads them
        if each.op == "get_attr":
            values[each] = weights.tensor(each).detach()
        else:
            arguments = fx.node.map_arg((each.args, each.kwargs), values.__getitem__)
            values[each] = each.target(*arguments[0], **arguments[1])  # type: ignore[operator] # an overload is callable
        for source in each.all_input_nodes:
            left[source] -= 1
            if not left[source]:
                del values[source]
    found = values[node]
    assert isinstance(found, Tensor)
    return found


def _require(node: fx.Node, needed: dict[fx.Node, None]) -> None:
    """Enter a node behind all that it is computed from."""
    waiting = [node]
    while waiting:
        fresh = [source for source in waiting[-1].all_input_nodes if source not in needed]
        if fresh:
            waiting.extend(fresh)
        else:
            needed.setdefault(waiting.pop())


def _plain_name(sources: dict[fx.Node, Tensor]) -> str:
    """The name that the weight would have if nothing had computed it: that of the greatest source, more or less."""
    wanted = str(max(sources, key=lambda source: sources[source].numel()).target)
    if _PARAMETRIZED in wanted:  # `layer.parametrizations.weight.original0` is `layer.weight`
        owner, _, inner = wanted.partition(_PARAMETRIZED)
        return f"{owner}.{inner.partition('.')[0]}"
    return wanted.removesuffix("_v").removesuffix("_orig")  # of the older `weight_norm` and `spectral_norm`
