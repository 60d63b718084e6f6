"""Functions as modules: export keeps the names of modules with every operator, and of functions nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from torch import fx, nn

_HOLDER = "octavo_functions"
_DOT = "/"
"""Instead of a dot, which would make a function a module inside of another, and at the end: what a Module has of its
own bears no such name."""

_NO_MODULE = "_empty_nn_module_stack"  # export's word where it lost it


class _Function(nn.Module):
    """A function, or a tensor's method by its name."""

    def __init__(self, target: Callable[..., Any] | str) -> None:
        super().__init__()
        self._target = target

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What it gives."""
        if isinstance(self._target, str):
            return getattr(args[0], self._target)(*args[1:], **kwargs)
        return self._target(*args, **kwargs)


def with_named_functions(module: fx.GraphModule) -> fx.GraphModule:
    """The same model, in which each function that is a layer is called as a module of its layer's name."""
    named = fx.GraphModule(module, copy.deepcopy(module.graph))
    holder = nn.Module()
    named.add_module(_HOLDER, holder)
    for node in named.graph.nodes:
        layer = node.meta.get("layer")
        if layer and node.op in ("call_function", "call_method"):
            name = f"{layer}.".replace(".", _DOT)
            holder.add_module(name, _Function(node.target))
            node.op, node.target = "call_module", f"{_HOLDER}.{name}"
    named.recompile()
    return named


def is_function(module: str) -> bool:
    """Whether this is no module of the user's, but a function."""
    return module.partition(".")[0] == _HOLDER


def layer_of_scopes(scopes: Sequence[str]) -> str | None:
    """The layer that an exported operator is of, by the modules that it was called in, the outermost first.

    The last of the scopes is the operator itself, and an empty one the whole model.
    """
    modules = [scope for scope in scopes[:-1] if scope and not scope.startswith(_NO_MODULE)]
    if not modules:
        return None
    if is_function(modules[0]):
        return modules[0].removeprefix(f"{_HOLDER}.").replace(_DOT, ".").removesuffix(".")
    return modules[0]
