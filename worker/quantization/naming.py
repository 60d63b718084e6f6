"""Names: what the layers of a raised graph are called, from the module paths that export keeps with every operator.

A layer's name is also the name of its module, and FX writes that into the source that it executes.
"""

from __future__ import annotations

import keyword
import re
import unicodedata
from dataclasses import dataclass

from torch import fx, nn

_MAX_CHARACTERS, _MAX_DOTS = 500, 50
_ROOT_ATTRIBUTES = frozenset(dir(fx.GraphModule(nn.Module(), fx.Graph())))
_ATTRIBUTES = frozenset(dir(nn.Module()))

_REUSE = re.compile(r"@\d+")  # export's mark on the second call of one module
_WEIGHT = re.compile(r"[._]?weight$")


@dataclass(frozen=True)
class Origin:
    """The innermost module that an operator was called in."""

    path: str
    module_class: str  #: such as `torch.nn.modules.conv.Conv2d`; empty when export kept none

    @property
    def leaf(self) -> str | None:
        """The class name of a module of torch.nn, whose one operator this is likely to be."""
        return self.module_class.rpartition(".")[2] if self.module_class.startswith("torch.nn.modules.") else None


def origin(node: fx.Node) -> Origin:
    """Where an operator of an exported graph was called."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    if not stack or stack[-1][0].startswith("_empty_nn_module_stack"):
        return Origin("", "")
    path, module_class = stack[-1]
    name = module_class if isinstance(module_class, str) else f"{module_class.__module__}.{module_class.__qualname__}"
    return Origin(safe_path(_REUSE.sub("", path)), name)


def safe_path(path: str) -> str:
    """The path as modules can be registered under and FX can write it; that of an honest module is its own.

    FX writes a part between double quotes, or bare where it is an identifier, which Python reads in its NFKC form.
    """
    if not path:
        return path  # the root's own
    first, *others = path[:_MAX_CHARACTERS].split(".", _MAX_DOTS)
    return ".".join([_safe_part(first, _ROOT_ATTRIBUTES), *(_safe_part(each, _ATTRIBUTES) for each in others)])


def _safe_part(part: str, attributes: frozenset[str]) -> str:
    safe = "".join(each if each.isprintable() and each not in "\"'\\." else "_" for each in part) or "_"
    if safe.isidentifier():
        safe = unicodedata.normalize("NFKC", safe)
    return f"{safe}_" if safe in attributes or keyword.iskeyword(safe) else safe


class Names:
    """Hands out each name once."""

    def __init__(self, tensors: list[str]) -> None:
        """`tensors`: the dotted names of all weights; a module that holds modules with weights cannot be a leaf."""
        self._taken: set[str] = set()
        self._modules: set[str] = set()
        self._owners = {safe_path(name.rpartition(".")[0]) for name in tensors}
        self._containers = {""}
        for owner in self._owners:
            parts = owner.split(".")
            self._containers.update(".".join(parts[:count]) for count in range(1, len(parts)))

    def module(self, where: Origin, weight: str | None, op: str, module_class: str) -> str:
        """A name for a module: its own path, else that of its weight (`attn.in_proj_weight` gives `attn.in_proj`)."""
        wanted = where.path
        if where.leaf != module_class and weight is not None:
            wanted = safe_path(_WEIGHT.sub("", weight))
        if wanted in self._containers or any(name.startswith(f"{wanted}.") for name in self._modules):
            wanted = f"{wanted}.{op}".lstrip(".")
        for leaf in self._modules:
            if wanted.startswith(f"{leaf}."):
                wanted = f"{leaf}_{wanted.removeprefix(f'{leaf}.')}"
        name = self.free(wanted)
        self._modules.add(name)
        return name

    def weightless_leaf(self, where: Origin) -> str | None:
        """The class of a module such as `nn.ReLU`, which is one function and may give it its name."""
        return where.leaf if where.path not in self._owners | self._containers else None

    def free(self, wanted: str) -> str:
        """The wanted name, or that with the first number that makes it new."""
        name, count = wanted, 0
        while name in self._taken:
            count += 1
            name = f"{wanted}_{count}"
        self._taken.add(name)
        return name


def holder(root: nn.Module, path: str) -> nn.Module:
    """The module of a dotted name, made where it is missing: what is put there has a place."""
    owner = root
    for part in path.split(".") if path else ():
        if part not in owner._modules:
            owner.add_module(part, nn.Module())
        owner = owner.get_submodule(part)
    return owner
