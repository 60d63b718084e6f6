"""What the operator tables may ask about one call of an aten operator: its arguments by name, and which are weights."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn

_TRANSPOSITIONS = ("aten.t.default", "aten.permute.default", "aten.transpose.int")
_ZEROS = ("aten.zeros.default", "aten.zeros_like.default", "aten.new_zeros.default")
_FULL = ("aten.full.default", "aten.full_like.default")
_WEIGHT_ARGUMENTS = ("weight", "mat2", "other", "w_ih", "params")
_Entry = TypeVar("_Entry")


class Weights:
    """The model's own tensors behind the `get_attr` nodes of a settled graph; tied weights stay one object."""

    def __init__(self, settled: fx.GraphModule) -> None:
        self._settled = settled
        self._parameters: dict[tuple[str, bool], nn.Parameter] = {}

    def tensor(self, node: fx.Node) -> Tensor:
        """The tensor that a `get_attr` reads."""
        owner, _, name = str(node.target).rpartition(".")
        found = getattr(self._settled.get_submodule(owner), name)
        assert isinstance(found, Tensor)
        return found

    def parameter(self, value: Any, *, transposed: bool = False) -> nn.Parameter | None:
        """The weight that an argument is, or its transpose, which is made only where it is not what is stored."""
        if not isinstance(value, fx.Node):
            return None
        if transposed and is_transposition(value):
            return self.parameter(value.args[0])
        if value.op != "get_attr":
            return None
        key = (str(value.target), transposed)
        if key not in self._parameters:
            self._parameters[key] = _as_parameter(self.tensor(value), transposed=transposed)
        return self._parameters[key]


class Call:
    """One call of an aten operator."""

    def __init__(self, node: fx.Node, weights: Weights) -> None:
        assert isinstance(node.target, torch._ops.OpOverload)
        self._weights = weights
        self._schema = {argument.name: argument for argument in node.target._schema.arguments}
        self._given = dict(zip(self._schema, node.args, strict=False)) | node.kwargs
        self.name = node.target._schema.name.removeprefix("aten::")
        self._overload = node.target._overloadname

    def __getitem__(self, argument: str) -> Any:
        """An argument by its schema name: as given, else its default, else None."""
        if argument in self._given:
            return self._given[argument]
        return self._schema[argument].default_value if argument in self._schema else None

    def look_up(self, table: dict[str, _Entry]) -> _Entry | None:
        """The operator's entry in a table, by `name.overload` or by `name`."""
        return table.get(f"{self.name}.{self._overload}", table.get(self.name))

    def leaves_out(self, arguments: str) -> bool:
        """Whether all these arguments were left at their defaults."""
        return all(self._is_default(argument) for argument in arguments.split())

    def weight(self, argument: str, *, transposed: bool = False) -> nn.Parameter | None:
        """The model's own tensor that an argument is; None when it is absent or computed."""
        return self._weights.parameter(self[argument], transposed=transposed)

    def weights(self, argument: str) -> list[nn.Parameter | None]:
        """Likewise for a list of tensors."""
        return [self._weights.parameter(value) for value in self[argument]]

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
        """The dotted name of the weight, when the model has one."""
        for argument in _WEIGHT_ARGUMENTS:
            value = self[argument]
            value = value[0] if isinstance(value, list | tuple) and value else value
            if isinstance(value, fx.Node) and is_transposition(value):
                value = value.args[0]
            if isinstance(value, fx.Node) and value.op == "get_attr":
                return str(value.target)
        return None

    def _is_default(self, argument: str) -> bool:
        if argument not in self._given:
            return True
        declared = self._schema[argument]
        return declared.has_default_value() and bool(self._given[argument] == declared.default_value)


def is_transposition(node: fx.Node) -> bool:
    """Whether a node transposes a matrix."""
    value = node.meta.get("val")
    if str(node.target) not in _TRANSPOSITIONS or not isinstance(value, Tensor) or value.dim() != 2:
        return False
    return tuple(node.args[1:]) in ((), ([1, 0],), (0, 1), (1, 0))


def _makes_zeros(node: Any) -> bool:
    if not isinstance(node, fx.Node):
        return False
    return str(node.target) in _ZEROS or (str(node.target) in _FULL and bool(node.args[1] == 0))


def _as_parameter(tensor: Tensor, *, transposed: bool) -> nn.Parameter:
    if isinstance(tensor, nn.Parameter) and not transposed:
        return tensor
    stored = tensor.detach().t().contiguous() if transposed else tensor
    return nn.Parameter(stored, requires_grad=isinstance(tensor, nn.Parameter) and tensor.requires_grad)
