"""Raise an exported program: from its aten graph to a graph of modules under their original dotted names.

    settle   one flat functional graph in evaluation mode (settling.py)
    fold     weights that are computed from other tensors of the model become tensors themselves (folding.py)
    walk     every aten operator in the tables (operators.py, modules.py) becomes a module, a function or a method;
             the others stay as they are
    name     every node learns which layer it is: `node.meta["layer"]` is unique, `node.meta["op"]` is its type

`torch.export` flattens a network to some hundred operators over bare tensors. FX quantization wants the level above:
`nn.Conv2d` followed by `nn.BatchNorm2d`, `torch.add`, `Tensor.view`. The tables say how to climb back.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram

from worker.quantization.calls import Call, Weights
from worker.quantization.folding import fold_weights
from worker.quantization.loading import InputSpec, input_specs, output_names
from worker.quantization.modules import MODULES, Raised
from worker.quantization.naming import Names, holder, origin, safe_path
from worker.quantization.operators import FUNCTIONS, IDENTITIES, METHODS, OVERWRITES, Function
from worker.quantization.settling import settle
from worker.quantization.slicing import Piece, is_whole_slice, pieces, varying_slice

_INTERFACE = "octavo_interface"


@dataclass(frozen=True)
class Interface:
    """What goes in and what comes out of a raised module."""

    inputs: tuple[InputSpec, ...]
    outputs: tuple[str, ...]


def raise_program(program: ExportedProgram) -> fx.GraphModule:
    """The program as a graph of modules and functions that FX quantization recognises, in evaluation mode.

    Call it with the tensors of `input_specs(program)` in order; it returns a tuple, one tensor for each of
    `output_names(program)`. Weights are shared with the program, not copied, but for those that it computes: they are
    plain weights from here on. Raises ModelUnsupported.
    """
    settled = settle(program)
    fold_weights(settled)
    raised = _Raiser(settled).run()
    raised.meta[_INTERFACE] = Interface(tuple(input_specs(program)), tuple(output_names(program)))
    return raised


def interface(module: nn.Module) -> Interface:
    """The inputs and outputs of a raised module, or of one made from it."""
    assert isinstance(module, fx.GraphModule)
    found = module.meta[_INTERFACE]
    assert isinstance(found, Interface)
    return found


class _Raiser:
    """One walk over a settled graph."""

    def __init__(self, settled: fx.GraphModule) -> None:
        self.settled = settled.graph
        self.weights = Weights(settled)
        self.names = Names([str(node.target) for node in settled.graph.nodes if node.op == "get_attr"])
        self.graph = fx.Graph()
        self.root = nn.Module()
        self.become: dict[fx.Node, Any] = {}  # what a settled node has become: a node, or the tuple of its results

    def run(self) -> fx.GraphModule:
        for node in self.settled.nodes:
            self.become[node] = self.translate(node)
        raised = fx.GraphModule(self.root, self.graph)
        raised.graph.eliminate_dead_code()
        raised.graph.lint()
        raised.delete_all_unused_submodules()
        _delete_unread_tensors(raised)
        raised.recompile()
        return raised.eval()

    # --- what a node becomes -----------------------------------------------------------------------------------------

    def translate(self, node: fx.Node) -> Any:
        match node.op:
            case "placeholder":
                return self.named(self.graph.placeholder(node.name), node, layer=node.name)
            case "get_attr":
                return self.attribute(node)
            case "output":
                return self.graph.output(self.read(node.args[0]))
        if isinstance(node.target, torch._ops.OpOverload):
            return self.operator(node, Call(node, self.weights))
        if node.target is operator.getitem:
            source = self.read(node.args[0])
            if isinstance(source, tuple):  # several results, already taken apart
                return source[node.args[1]]  # type: ignore[index] # getitem's index is an int
        return self.as_it_is(node)

    def operator(self, node: fx.Node, call: Call) -> Any:
        if _is_identity(call):
            return self.read(node.args[0])
        taken = pieces(call)
        if taken is not None:
            narrowed = [self.narrow(node, call, piece) for piece in taken]
            return narrowed[0] if call.name == "slice" else self.results(node, narrowed)
        module = call.look_up(MODULES)
        raised = module(call) if module is not None else None
        if raised is not None:
            return self.module(node, call, raised)
        return self.renamed(node, call)

    def renamed(self, node: fx.Node, call: Call) -> fx.Node:
        if call.look_up(OVERWRITES):
            return self.overwrite(node)
        function = call.look_up(FUNCTIONS)
        if function is not None and call.leaves_out(function.unset):
            return self.function(node, call, function)
        method = call.look_up(METHODS)
        if method is not None and call.leaves_out(method.unset):
            return self.emit(node, "call_method", method.target, self.arguments(call, method.arguments))
        index = varying_slice(call)
        if index is not None:
            return self.emit(node, "call_function", operator.getitem, self.read((call["self"], index)))
        return self.as_it_is(node)

    def narrow(self, node: fx.Node, call: Call, piece: Piece) -> Any:
        source = self.read(call["self"])
        if piece.is_whole:
            return source
        return self.emit(node, "call_function", torch.narrow, (source, piece.axis, piece.start, piece.length))

    def overwrite(self, node: fx.Node) -> fx.Node:
        """The values that replace all of a tensor, in its dtype and shape; the operator cannot be traced or trained."""
        written, values = self.read(node.args[:2])
        return self.emit(
            node, "call_method", "expand_as", (self.emit(node, "call_method", "type_as", (values, written)), written)
        )

    def module(self, node: fx.Node, call: Call, raised: Raised) -> Any:
        kind = type(raised.module).__name__
        target = self.names.module(origin(node), call.weight_name(), call.name, kind)
        owner, _, leaf = target.rpartition(".")
        holder(self.root, owner).add_module(leaf, raised.module)
        inputs = self.module_inputs(node, call, raised)
        result = self.named(self.graph.call_module(target, inputs), node, layer=target)
        result.meta["op"] = kind
        if raised.results is None:
            return result
        return self.results(node, [self.pick(node, result, path) for path in raised.results])

    def module_inputs(self, node: fx.Node, call: Call, raised: Raised) -> tuple[Any, ...]:
        inputs = self.arguments(call, raised.inputs)
        if isinstance(raised.module, nn.Embedding):  # its int8 kernel wants them contiguous; expanded positions are not
            indices = self.emit(node, "call_method", "contiguous", inputs)
            indices.meta["val"] = call["indices"].meta["val"]  # integers, though the embedding gives floats
            return (indices,)
        if "hx" not in raised.inputs:
            return inputs
        if call.is_zero("hx"):
            return inputs[:1]  # where a recurrent module starts from by itself
        return (inputs[0], tuple(inputs[1]) if isinstance(inputs[1], list | tuple) else inputs[1])

    def pick(self, node: fx.Node, result: fx.Node, path: tuple[int, ...]) -> fx.Node:
        """One of a module's results, which may be nested: `(1, 0)` is `result[1][0]`."""
        for index in path:
            result = self.emit(node, "call_function", operator.getitem, (result, index))
        return result

    def results(self, node: fx.Node, nodes: list[fx.Node]) -> tuple[fx.Node, ...]:
        """The nodes that stand for the results of an operator with several, each with its own value."""
        for new, value in zip(nodes, node.meta["val"], strict=False):
            new.meta["val"] = value
        return tuple(nodes)

    def function(self, node: fx.Node, call: Call, function: Function) -> fx.Node:
        given = [argument for argument in function.keywords.split() if not call.leaves_out(argument)]
        given += function.always.split()
        keywords = dict(function.fixed) | {argument: self.read(call[argument]) for argument in given}
        return self.emit(node, "call_function", function.target, self.arguments(call, function.arguments), keywords)

    def attribute(self, node: fx.Node) -> fx.Node:
        """A tensor of the model's own, read by something that is not a module."""
        name = self.names.free(safe_path(str(node.target).replace(".", "_")))
        tensor = self.weights.tensor(node)
        if isinstance(tensor, nn.Parameter):
            self.root.register_parameter(name, tensor)
        else:
            self.root.register_buffer(name, tensor)
        return self.named(self.graph.get_attr(name), node, layer=str(node.target))

    def as_it_is(self, node: fx.Node) -> fx.Node:
        return self.emit(node, node.op, node.target, self.read(node.args), self.read(node.kwargs))

    # --- arguments and names -----------------------------------------------------------------------------------------

    def arguments(self, call: Call, names: str) -> tuple[Any, ...]:
        """The named arguments in order, without the defaults at the end; a stride of `[]` stands for «not given»."""
        wanted = names.split()
        while len(wanted) > 1 and call.leaves_out(wanted[-1]):
            wanted.pop()
        return tuple(None if name == "stride" and call[name] == [] else self.read(call[name]) for name in wanted)

    def read(self, value: Any) -> Any:
        """An argument of the settled graph in terms of the raised one."""
        return fx.node.map_arg(value, lambda node: self.become[node])

    def emit(
        self, node: fx.Node, op: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None
    ) -> fx.Node:
        return self.named(self.graph.create_node(op, target, args, kwargs or {}), node)

    def named(self, new: fx.Node, old: fx.Node, layer: str | None = None) -> fx.Node:
        """Tell a new node which layer it is and what it computes."""
        where = origin(old)
        leaf = self.names.weightless_leaf(where)
        op = _name_of(old.target)
        new.meta["layer"] = layer or self.names.free(where.path if leaf else f"{where.path}.{op}".lstrip("."))
        new.meta["op"] = leaf or op
        new.meta["val"] = old.meta.get("val")
        return new


def _delete_unread_tensors(raised: fx.GraphModule) -> None:
    """Most weights were read by operators that are modules now, and stay with those alone."""
    read = {str(node.target) for node in raised.graph.nodes if node.op == "get_attr"}
    for tensors in (raised._parameters, raised._buffers):
        for name in set(tensors) - read:
            del tensors[name]


def _is_identity(call: Call) -> bool:
    """Whether a call gives what it was given, now that nothing is written in place."""
    plain_copy = call.name == "clone" and call["memory_format"] is not torch.contiguous_format
    return call.name in IDENTITIES or plain_copy or is_whole_slice(call)


def _name_of(target: Any) -> str:
    """`relu` for `aten.relu.default`, `getitem` for `operator.getitem`."""
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.partition("::")[2]
    return target if isinstance(target, str) else getattr(target, "__name__", str(target))
