"""Settle an exported program: one flat graph, in evaluation mode, in which nothing is written in place.

    1. parameters become attributes, inputs and outputs become flat tuples of tensors
    2. training flags are turned off: dropout drops nothing, batch norm uses its running statistics
    3. an in-place operator becomes its functional form; where another view of the same memory is still read
       afterwards, the whole program is made functional by torch (`run_decompositions` with an empty table)

The third step is what keeps quantization honest: an int8 copy of a tensor no longer shares its memory, so a write
through a view would be lost without a word.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.fx.graph import CodeGen

from shared.errors import ModelUnsupported

aten = torch.ops.aten

#: Position of the flag, or of the probability, that is off in evaluation mode, and its value when off.
_EVALUATION_ARGUMENTS = {
    aten.batch_norm.default: (5, False),
    aten.dropout.default: (2, False),
    aten.dropout_.default: (2, False),
    aten.feature_dropout.default: (2, False),
    aten.feature_dropout_.default: (2, False),
    aten.alpha_dropout.default: (2, False),
    aten.alpha_dropout_.default: (2, False),
    aten.lstm.input: (6, False),
    aten.gru.input: (6, False),
    aten.rnn_tanh.input: (6, False),
    aten.rnn_relu.input: (6, False),
    aten.scaled_dot_product_attention.default: (4, 0.0),
}
#: Operators that only check or annotate.
_CHECKS = ("_assert", "sym_constrain_range", "_guards_fn", "_set_grad_enabled")
#: Decomposed normalisations, whose first result is the output.
_DECOMPOSED_BATCH_NORMS = (
    aten._native_batch_norm_legit_no_training.default,
    aten._native_batch_norm_legit_functional.default,
    aten._native_batch_norm_legit.default,
    aten.native_batch_norm.default,
)
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
#: Composite operators whose result is new memory although their schema does not say so by kind.
_FRESH = frozenset({
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear",
    "batch_norm", "layer_norm", "group_norm", "instance_norm", "embedding", "relu6", "silu", "mish", "gelu",
    "softmax", "log_softmax", "matmul", "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d",
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "cat", "stack",
    "scaled_dot_product_attention", "upsample_nearest2d", "upsample_bilinear2d", "lstm", "gru", "rnn_tanh",
    "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell", "embedding_bag", "zeros", "ones", "full",
    "arange", "zeros_like", "ones_like", "where",
})  # fmt: skip


def settle(program: ExportedProgram) -> fx.GraphModule:
    """The program as one flat functional graph in evaluation mode; attributes keep the program's names.

    Raises ModelUnsupported for state kept between calls and for control flow that is an operator of its own.
    """
    settled = flatten(program)
    if _writes_through_views(settled.graph):
        try:
            program = program.run_decompositions({})
        except Exception as error:
            raise ModelUnsupported(
                f"Its in-place operators cannot be made functional: {error}",
                hint="Replace writes into views (x[...] = y, x.add_(y)) by new tensors, then export again.",
            ) from error
        settled = flatten(program)
    _make_functional(settled.graph)
    settled.graph.eliminate_dead_code()
    settled.graph.lint()
    settled.recompile()
    return settled


def flatten(program: ExportedProgram) -> fx.GraphModule:
    """The program as it was exported, with flat inputs and outputs, in evaluation mode: what raising must reproduce."""
    lifted = program.module(check_guards=False)
    assert isinstance(lifted, fx.GraphModule)
    graph = lifted.graph
    graph.set_codegen(CodeGen())
    _inline_modes(lifted)
    _require_one_graph(graph)
    for node in list(graph.nodes):
        if node.op == "placeholder" and not isinstance(node.meta.get("val"), torch.Tensor):
            node.replace_all_uses_with(node.meta.get("val"))  # a constant fixed at export
            graph.erase_node(node)
        elif node.op == "output":
            node.args = (tuple(a for a in node.args[0] if isinstance(a, fx.Node) and _is_tensor(a)),)
        elif node.op in ("call_function", "call_module") and any(check in str(node.target) for check in _CHECKS):
            graph.erase_node(node)
    _evaluation_mode(graph)
    _drop_statistics_updates(graph)
    return fx.GraphModule(lifted, graph)  # a new one: the program's own checks its nested inputs in a hook


def functional_overload(target: object) -> torch._ops.OpOverload | None:
    """The operator that computes what an in-place one writes: `aten.relu_.default` gives `aten.relu.default`."""
    if not isinstance(target, torch._ops.OpOverload) or not target._schema.is_mutable:
        return None
    name = target._schema.name.split("::")[1]
    packet = getattr(getattr(torch.ops, target.namespace), name.removesuffix("_"), None)
    if packet is None or not name.endswith("_") or target._overloadname not in packet.overloads():
        return None
    overload = getattr(packet, target._overloadname)
    assert isinstance(overload, torch._ops.OpOverload)
    return overload


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), torch.Tensor) or node.op == "get_attr"


def _inline_modes(module: fx.GraphModule) -> None:
    """Take out of its wrapper what ran under `torch.no_grad` or with autocast turned off: inference has neither."""
    for node in list(module.graph.nodes):
        if node.target is torch.ops.higher_order.wrap_with_set_grad_enabled:
            body, inputs = node.args[1], node.args[2:]
        elif node.target is torch.ops.higher_order.wrap_with_autocast and not node.args[2]:
            body, inputs = node.args[4], node.args[5:]
        else:
            continue
        inner = getattr(module, body.target)
        _inline_modes(inner)
        if any(step.op == "get_attr" for step in inner.graph.nodes):
            continue  # a branch or loop of its own, which is refused
        places = [step for step in inner.graph.nodes if step.op == "placeholder"]
        with module.graph.inserting_before(node):
            results: Any = module.graph.graph_copy(inner.graph, dict(zip(places, inputs, strict=True)))
        for user in list(node.users):
            user.replace_all_uses_with(results[user.args[1]])
            module.graph.erase_node(user)
        module.graph.erase_node(node)
    module.graph.eliminate_dead_code()


def _require_one_graph(graph: fx.Graph) -> None:
    for node in graph.nodes:
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            raise ModelUnsupported(
                f"The program branches or loops by an operator of its own ({node.target}), which is not quantized.",
                hint="Export the branch that inference takes.",
            )


def _evaluation_mode(graph: fx.Graph) -> None:
    for node in list(graph.nodes):
        if node.target is aten.batch_norm.default and node.args[3] is None:
            continue  # it keeps no statistics, and uses those of the batch always
        if node.target in _EVALUATION_ARGUMENTS:
            position, off = _EVALUATION_ARGUMENTS[node.target]
            if len(node.args) > position:
                node.update_arg(position, off)
            else:
                name = node.target._schema.arguments[position].name
                node.kwargs = {key: value for key, value in node.kwargs.items() if key != name}
                if node.target is not aten.scaled_dot_product_attention.default:
                    node.kwargs = {**node.kwargs, name: off}
        elif node.target in _DECOMPOSED_BATCH_NORMS:
            _recompose_batch_norm(graph, node)
        elif node.target is aten.native_dropout.default:
            _replace_first_result(graph, node, aten.dropout.default, (node.args[0], node.args[1], False))


def _recompose_batch_norm(graph: fx.Graph, node: fx.Node) -> None:
    inputs, weight, bias, mean, variance, *rest = node.args
    momentum, eps = rest[-2:]
    _replace_first_result(
        graph, node, aten.batch_norm.default, (inputs, weight, bias, mean, variance, False, momentum, eps, False)
    )


def _replace_first_result(graph: fx.Graph, node: fx.Node, target: object, args: tuple[object, ...]) -> None:
    """Put an operator with one result in place of one with several; the others only feed statistics."""
    with graph.inserting_before(node):
        replacement = graph.call_function(target, args)  # type: ignore[arg-type] # an overload is callable
    replacement.meta = dict(node.meta)
    replacement.meta["val"] = node.meta["val"][0]
    for user in list(node.users):
        if user.args[1] == 0:
            user.replace_all_uses_with(replacement)
            graph.erase_node(user)
        else:
            for write in [w for w in user.users if _written_statistics(w)]:
                graph.erase_node(write)
            graph.erase_node(user)
    graph.erase_node(node)


def _written_statistics(node: fx.Node) -> bool:
    """Whether the node writes a batch norm's running statistics or counter."""
    if functional_overload(node.target) is None and node.target is not aten.copy_.default:
        return False
    target = node.args[0]
    return isinstance(target, fx.Node) and target.op == "get_attr" and str(target.target).endswith(_STATISTICS)


def _drop_statistics_updates(graph: fx.Graph) -> None:
    for node in reversed(list(graph.nodes)):
        if _written_statistics(node) and not node.users:
            graph.erase_node(node)


def _writes(graph: fx.Graph) -> Iterator[tuple[fx.Node, fx.Node]]:
    """Each in-place operator with the node that it writes."""
    for node in graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable:
            for schema_argument, value in zip(node.target._schema.arguments, node.args, strict=False):
                alias = schema_argument.alias_info
                if alias is not None and alias.is_write and isinstance(value, fx.Node):
                    yield node, value


def _writes_through_views(graph: fx.Graph) -> bool:
    """Whether some in-place operator writes memory that is read afterwards under another name."""
    nodes = list(graph.nodes)
    order = {node: index for index, node in enumerate(nodes)}
    memory: dict[fx.Node, frozenset[fx.Node]] = {}  # the nodes whose memory a node may share
    same: dict[fx.Node, fx.Node] = {}  # an in-place result is the very tensor that it wrote
    for node in nodes:
        sharing = [source for source in node.all_input_nodes if _may_share_memory(node)]
        memory[node] = frozenset({node}).union(*(memory[source] for source in sharing))
    for node, written in _writes(graph):
        if functional_overload(node.target) is None:
            return True
        same[node] = same.get(written, written)
        for other in nodes[: order[node]]:
            overlaps = not memory[other].isdisjoint(memory[written]) and same.get(other, other) is not same[node]
            if overlaps and any(order[user] > order[node] for user in other.users):
                return True
    return False


def _may_share_memory(node: fx.Node) -> bool:
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return True  # getitem and the like
    schema = target._schema
    if any(result.alias_info is not None for result in schema.returns):
        return True
    composite = torch._C._dispatch_has_kernel_for_dispatch_key(target.name(), "CompositeImplicitAutograd")
    return composite and schema.name.split("::")[1] not in _FRESH


def _make_functional(graph: fx.Graph) -> None:
    """Replace each in-place operator by its functional form, and send later readers of the written tensor to it."""
    order = {node: index for index, node in enumerate(graph.nodes)}
    same: dict[fx.Node, list[fx.Node]] = {}
    for node, written in list(_writes(graph)):
        if written.op == "get_attr":
            raise ModelUnsupported(
                f"The model keeps state between calls: it writes its buffer {written.target}.",
                hint="Pass the state in and out as tensors, or export the stateless part.",
            )
        overload = functional_overload(node.target)
        assert overload is not None, node.target
        names = same.setdefault(written, [written])
        node.target = overload
        for name in names:
            for user in [user for user in name.users if user is not node and order[user] > order[node]]:
                user.replace_input_with(name, node)
        same[node] = [*names, node]
