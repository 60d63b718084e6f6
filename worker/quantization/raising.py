"""Raise an exported program: from its aten graph to a graph of modules under their original dotted names.

    settle   one flat functional graph in evaluation mode (settling.py)
    walk     every aten operator in the tables of operators.py becomes a module, a function or a method;
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
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from worker.quantization.loading import InputSpec, input_specs, output_names
from worker.quantization.naming import Names, origin
from worker.quantization.operators import FUNCTIONS, IDENTITIES, METHODS, MODULES, Function, Raised
from worker.quantization.settling import settle

_TRANSPOSITIONS = ("t.default", "permute.default", "transpose.int")
_ZEROS = ("zeros", "zeros_like", "full", "full_like", "new_zeros")
_INTERFACE = "octavo_interface"


@dataclass(frozen=True)
class Interface:
    """What goes in and what comes out of a raised module."""

    inputs: tuple[InputSpec, ...]
    outputs: tuple[str, ...]


def raise_program(program: ExportedProgram) -> fx.GraphModule:
    """The program as a graph of modules and functions that FX quantization recognises, in evaluation mode.

    Call it with the tensors of `input_specs(program)` in order; it returns a tuple, one tensor for each of
    `output_names(program)`. Weights are shared with the program, not copied. Raises ModelUnsupported.
    """
    raised = _Raiser(settle(program)).run()
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
        self.settled = settled
        self.graph = fx.Graph()
        self.root = nn.Module()
        self.become: dict[fx.Node, Any] = {}  # what a settled node has become: a node, or the tuple of its results
        self.weights: dict[tuple[str, bool], nn.Parameter] = {}  # (name, transposed): tied weights stay tied
        self.names = Names([str(node.target) for node in settled.graph.nodes if node.op == "get_attr"])

    def run(self) -> fx.GraphModule:
        for node in self.settled.graph.nodes:
            self.become[node] = self.translate(node)
        raised = fx.GraphModule(self.root, self.graph)
        raised.graph.eliminate_dead_code()
        raised.graph.lint()
        raised.delete_all_unused_submodules()
        raised.recompile()
        return raised.eval()

    # --- one node ----------------------------------------------------------------------------------------------------

    def translate(self, node: fx.Node) -> Any:
        match node.op:
            case "placeholder":
                return self.named(self.graph.placeholder(node.name), node, layer=node.name)
            case "get_attr":
                return self.attribute(node)
            case "output":
                return self.graph.output(self.read(node.args[0]))
        if isinstance(node.target, torch._ops.OpOverload):
            return self.operator(node, Call(node, self))
        if node.target is operator.getitem and isinstance(self.become[node.args[0]], tuple):  # type: ignore[index]
            return self.become[node.args[0]][node.args[1]]  # type: ignore[index] # a module's results, taken apart
        return self.emit(node, node.op, node.target, self.read(node.args), self.read(node.kwargs))

    def operator(self, node: fx.Node, call: Call) -> Any:
        if call.name in IDENTITIES or (call.name == "clone" and call["memory_format"] is not torch.contiguous_format):
            return self.read(node.args[0])
        module = call.look_up(MODULES)
        raised = module(call) if module is not None else None
        if raised is not None:
            return self.module(node, call, raised)
        function = call.look_up(FUNCTIONS)
        if function is not None and call.leaves_out(function.unset):
            return self.function(node, call, function)
        method = call.look_up(METHODS)
        if method is not None and call.leaves_out(method.unset):
            return self.emit(node, "call_method", method.target, self.arguments(call, method.arguments))
        return self.emit(node, node.op, node.target, self.read(node.args), self.read(node.kwargs))

    def module(self, node: fx.Node, call: Call, raised: Raised) -> Any:
        kind = type(raised.module).__name__
        target = self.names.module(origin(node), call.weight_name(), call.name, kind)
        self.root_of(target).add_module(target.rpartition(".")[2], raised.module)
        result = self.named(self.graph.call_module(target, self.module_inputs(call, raised)), node, layer=target)
        result.meta["op"] = kind
        if raised.results is None:
            return result
        return tuple(self.pick(node, result, path) for path in raised.results)

    def module_inputs(self, call: Call, raised: Raised) -> tuple[Any, ...]:
        inputs = self.arguments(call, raised.inputs)
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

    def function(self, node: fx.Node, call: Call, function: Function) -> fx.Node:
        given = [argument for argument in function.keywords.split() if not call.is_default(argument)]
        keywords = dict(function.fixed) | {argument: self.read(call[argument]) for argument in given}
        return self.emit(node, "call_function", function.target, self.arguments(call, function.arguments), keywords)

    def attribute(self, node: fx.Node) -> fx.Node:
        """A tensor of the model's own, read by something that is not a module."""
        name = self.names.free(str(node.target).replace(".", "_"))
        tensor = self.tensor(node)
        if isinstance(tensor, nn.Parameter):
            self.root.register_parameter(name, tensor)
        else:
            self.root.register_buffer(name, tensor)
        return self.named(self.graph.get_attr(name), node, layer=str(node.target))

    # --- arguments ---------------------------------------------------------------------------------------------------

    def arguments(self, call: Call, names: str) -> tuple[Any, ...]:
        """The named arguments in order, without the defaults at the end; `[]` stands for «not given» in pools."""
        wanted = names.split()
        while len(wanted) > 1 and call.is_default(wanted[-1]):
            wanted.pop()
        return tuple(None if name == "stride" and call[name] == [] else self.read(call[name]) for name in wanted)

    def read(self, value: Any) -> Any:
        """An argument of the settled graph in terms of the raised one."""
        return fx.node.map_arg(value, lambda node: self.become[node])

    def tensor(self, node: fx.Node) -> Tensor:
        """The model's tensor behind a `get_attr`."""
        owner, _, name = str(node.target).rpartition(".")
        found = getattr(self.settled.get_submodule(owner), name)
        assert isinstance(found, Tensor)
        return found

    def weight(self, value: Any, *, transposed: bool = False) -> nn.Parameter | None:
        """The weight that an argument is, or None; `transposed` asks for its transpose, made only where it is not stored."""
        if not isinstance(value, fx.Node):
            return None
        if transposed and is_transposition(value):
            return self.weight(value.args[0])
        if value.op != "get_attr":
            return None
        key = (str(value.target), transposed)
        if key not in self.weights:
            tensor = self.tensor(value)
            trainable = isinstance(tensor, nn.Parameter) and tensor.requires_grad
            if transposed:
                self.weights[key] = nn.Parameter(tensor.detach().t().contiguous(), requires_grad=trainable)
            else:
                self.weights[key] = tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor, trainable)
        return self.weights[key]

    # --- names -------------------------------------------------------------------------------------------------------

    def emit(
        self, node: fx.Node, op: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None
    ) -> fx.Node:
        return self.named(self.graph.create_node(op, target, args, kwargs or {}), node)

    def named(self, new: fx.Node, old: fx.Node, layer: str | None = None) -> fx.Node:
        """Tell a new node which layer it is and what it computes."""
        where = origin(old)
        op = str(old.target).removeprefix("aten.").partition(".")[0] if op_overload(old) else _plain_name(new.target)
        leaf = self.names.weightless_leaf(where)
        new.meta["layer"] = layer or self.names.free(where.path if leaf else f"{where.path}.{op}".lstrip("."))
        new.meta["op"] = leaf or op
        new.meta["val"] = old.meta.get("val")
        return new

    def root_of(self, path: str) -> nn.Module:
        """The container of a dotted name, made where it is missing."""
        owner = self.root
        for part in path.split(".")[:-1]:
            if part not in owner._modules:
                owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)
        return owner


def op_overload(node: fx.Node) -> bool:
    """Whether a node calls an operator of torch's dispatcher."""
    return isinstance(node.target, torch._ops.OpOverload)


def is_transposition(node: fx.Node) -> bool:
    """Whether a node transposes a matrix."""
    if not op_overload(node) or str(node.target).removeprefix("aten.") not in _TRANSPOSITIONS:
        return False
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.dim() == 2 and node.args[1:] in ((), ([1, 0],), (0, 1), (1, 0))


def _plain_name(target: Any) -> str:
    return target if isinstance(target, str) else getattr(target, "__name__", str(target))


class Call:
    """One call of an aten operator: what the tables may ask about it."""

    def __init__(self, node: fx.Node, raiser: _Raiser) -> None:
        assert isinstance(node.target, torch._ops.OpOverload)
        self._raiser = raiser
        self._schema = {argument.name: argument for argument in node.target._schema.arguments}
        self._given = dict(zip(self._schema, node.args, strict=False)) | node.kwargs
        self.name = node.target._schema.name.removeprefix("aten::")
        self._overload = node.target._overloadname

    def __getitem__(self, argument: str) -> Any:
        """An argument by its schema name: as given, else its default."""
        if argument in self._given:
            return self._given[argument]
        return self._schema[argument].default_value if argument in self._schema else None

    def look_up(self, table: dict[str, Any]) -> Any:
        """The operator's entry in a table, by `name.overload` or by `name`."""
        return table.get(f"{self.name}.{self._overload}", table.get(self.name))

    def is_default(self, argument: str) -> bool:
        """Whether an argument was left at its default."""
        if argument not in self._schema:
            return True
        declared = self._schema[argument]
        return argument not in self._given or (
            declared.has_default_value() and self._given[argument] == declared.default_value
        )

    def leaves_out(self, arguments: str) -> bool:
        """Whether all these arguments were left at their defaults."""
        return all(self.is_default(argument) for argument in arguments.split())

    def weight(self, argument: str, *, transposed: bool = False) -> nn.Parameter | None:
        """The model's own tensor that an argument is; None when it is absent or computed."""
        return self._raiser.weight(self[argument], transposed=transposed)

    def weights(self, argument: str) -> list[nn.Parameter | None]:
        """Likewise for a list of tensors."""
        return [self._raiser.weight(value) for value in self[argument]]

    def is_computed(self, argument: str) -> bool:
        """Whether an argument is a tensor that is not the model's own."""
        return self[argument] is not None and self.weight(argument) is None

    def dimensions(self, argument: str) -> int:
        """How many axes an argument has."""
        value: Tensor = self[argument].meta["val"]
        return value.dim()

    def is_zero(self, argument: str) -> bool:
        """Whether an argument is, or holds nothing but, zeros made on the spot."""
        value = self[argument]
        return all(_makes_zeros(item) for item in (value if isinstance(value, list | tuple) else [value]))

    def weight_name(self) -> str | None:
        """The dotted name of the first argument that is the model's own and called a weight."""
        for argument in ("weight", "mat2", "other", "w_ih", "params"):
            value = self[argument]
            value = value[0] if isinstance(value, list | tuple) and value else value
            if isinstance(value, fx.Node):
                value = value.args[0] if is_transposition(value) else value
                if isinstance(value, fx.Node) and value.op == "get_attr":
                    return str(value.target)
        return None


def _makes_zeros(node: Any) -> bool:
    if not isinstance(node, fx.Node) or not op_overload(node):
        return False
    name = str(node.target).removeprefix("aten.").partition(".")[0]
    return name in _ZEROS and ("full" not in name or node.args[1] == 0)
