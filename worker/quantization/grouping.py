"""Which nodes of a raised graph stand or fall together: FX fuses them, so they share one precision.

Conv | ConvTranspose | Linear [→ BatchNorm] [→ ReLU | ReLU6]
BatchNorm [→ ReLU | ReLU6]
add | mul [→ ReLU | ReLU6]
any other operator, alone

ReLU6 stands for every clamp from zero up: FX has no kernel for it, but one that saturates at its end does the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812 - its name everywhere

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
WEIGHTED = (*CONVOLUTIONS, *TRANSPOSED, nn.Linear)
TABLES = (nn.Embedding, nn.EmbeddingBag)  #: of vectors: int8 shrinks them, and what they give is float
RECURRENT = (nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell, nn.GRUCell, nn.RNNCell)
BATCH_NORM_OF = {
    nn.Conv1d: nn.BatchNorm1d,
    nn.Conv2d: nn.BatchNorm2d,
    nn.Conv3d: nn.BatchNorm3d,
    nn.ConvTranspose1d: nn.BatchNorm1d,
    nn.ConvTranspose2d: nn.BatchNorm2d,
    nn.ConvTranspose3d: nn.BatchNorm3d,
    nn.Linear: nn.BatchNorm1d,
}
_BEFORE_RELU = (*CONVOLUTIONS, nn.Linear, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True)
class Group:
    """Nodes that share one precision; the first gives the name."""

    nodes: tuple[fx.Node, ...]
    module: nn.Module | None  #: of the first node, when it calls one

    @property
    def name(self) -> str:
        """The layer's name."""
        return str(self.nodes[0].meta["layer"])

    @property
    def op(self) -> str:
        """A module's class name, or an operator's name."""
        return str(self.nodes[0].meta["op"])

    @property
    def is_weighted(self) -> bool:
        """Whether it is a convolution or a Linear: what int8 is for."""
        return isinstance(self.module, WEIGHTED)

    @property
    def is_embedding(self) -> bool:
        """Whether it is a table of vectors, of which int8 shrinks the weights and nothing else."""
        return isinstance(self.module, nn.Embedding)


def module_of(raised: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """The module that a node calls."""
    return raised.get_submodule(str(node.target)) if node.op == "call_module" else None


def argument(node: fx.Node, position: int, name: str) -> Any:
    """What a node is called with, by place or by name; None when it is not given."""
    return node.args[position] if len(node.args) > position else node.kwargs.get(name)


def cap_of(node: fx.Node) -> float | None:
    """Where a clamp from zero ends, such as 6 for ReLU6; None for any other operator."""
    if node.op != "call_function" or node.kwargs:
        return None
    if node.target is F.relu6:
        return 6.0
    if node.target not in (F.hardtanh, torch.clamp) or len(node.args) < 3:
        return None
    low, high = node.args[1:3]
    return float(high) if low == 0 and isinstance(high, int | float) and high > 0 else None


def groups(raised: fx.GraphModule) -> list[Group]:
    """Every operator on float tensors, in the graph's order."""
    found, grouped = [], set()
    for node in raised.graph.nodes:
        if node in grouped or not _computes_float(node):
            continue
        nodes = [node]
        while (follower := _fused_follower(raised, nodes)) is not None:
            nodes.append(follower)
        grouped.update(nodes)
        found.append(Group(tuple(nodes), module_of(raised, node)))
    return found


def _computes_float(node: fx.Node) -> bool:
    if node.op not in ("call_module", "call_function", "call_method"):
        return False
    value = node.meta.get("val")
    values = value if isinstance(value, list | tuple) else [value]
    return any(isinstance(item, Tensor) and item.is_floating_point() for item in values)


def _fused_follower(raised: fx.GraphModule, nodes: list[fx.Node]) -> fx.Node | None:
    """The only reader of the last node, when FX fuses it."""
    last = nodes[-1]
    if len(last.users) != 1:
        return None
    (user,) = last.users
    module, next_module = module_of(raised, last), module_of(raised, user)
    if module is not None and len(nodes) == 1 and type(next_module) is BATCH_NORM_OF.get(type(module), nn.Module):
        return user
    if user.target is not F.relu and cap_of(user) is None:
        return None
    after_norm = (
        isinstance(module, nn.BatchNorm1d)
        and len(nodes) == 2
        and not isinstance(module_of(raised, nodes[0]), TRANSPOSED)
    )
    arithmetic = last.op == "call_function" and last.target in (torch.add, torch.mul)
    return user if isinstance(module, _BEFORE_RELU) or after_norm or arithmetic else None
