"""What FX fused into one kernel, which neighbours it could not fuse, and why.

convolution | Linear → batch norm     folded into the weights
convolution | Linear | batch norm | add | mul → ReLU     one kernel
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from torch import fx, nn

from shared.layer_report import Fusion
from shared.quantization_spec import DynamicSpec
from worker.quantization.grouping import BATCH_NORMS, TRANSPOSED, Group, module_of
from worker.quantization.labelling import Labelled, passes_on, plain
from worker.quantization.plans import Plan

#: Activations that follow a convolution or Linear as a pass over the tensor of their own.
_ACTIVATIONS = frozenset({
    "relu", "relu6", "hardtanh", "hardswish", "hardsigmoid", "silu", "gelu", "leakyrelu", "elu", "sigmoid", "tanh",
    "mish", "prelu",
})  # fmt: skip
_NAMES_OF_RELU6 = ("relu6", "hardtanh")


@dataclass(frozen=True)
class Fusions:
    """What runs as one in int8, and what might."""

    told: list[Fusion]  #: in the graph's order
    beyond_kernels: frozenset[tuple[str, ...]]  #: layers that no kernel holds together, however they were arranged


def fusions(graphs: Labelled, plan: Plan) -> Fusions:
    """Every pair of neighbours that runs as one in int8, or might.

    Dynamic quantization fuses nothing, and has no such list.
    """
    if isinstance(plan.spec, DynamicSpec):
        return Fusions([], frozenset())
    raised, left = graphs.raised, graphs.left
    found: list[Fusion] = []
    beyond: set[tuple[str, ...]] = set()
    for group in graphs.groups:
        if group.name not in plan.int8_layers:
            continue
        gone = [node for node in group.nodes[1:] if _layer(node) not in left]
        nodes = [group.nodes[0], *gone]
        while (follower := _folded_follower(raised, nodes[-1], left)) is not None:  # what FX fuses beyond grouping.py
            nodes.append(follower)
        if len(nodes) > 1:
            found.append(Fusion(layers=[_layer(node) for node in nodes], pattern=_pattern(nodes), fused=True))
        follower = _missed_follower(raised, group, nodes[-1], left)
        if follower is not None:
            apart = [*nodes, follower]
            names, obstacle = [_layer(node) for node in apart], _obstacle(raised, group, nodes[-1], follower)
            reason = _activation_reason(group, str(follower.meta["op"])) if obstacle is None else obstacle
            found.append(Fusion(layers=names, pattern=_pattern(apart), fused=False, reason=reason))
            if obstacle is None:
                beyond.add(tuple(names))
    return Fusions(found, frozenset(beyond))


def _folded_follower(raised: fx.GraphModule, node: fx.Node, left: Collection[str]) -> fx.Node | None:
    """The only reader of a node, if it is in no int8 graph any more and computes something."""
    if len(node.users) != 1:
        return None
    (user,) = node.users
    gone = user.op != "output" and _layer(user) not in left and not passes_on(raised, user)
    return user if gone and (plain(user.meta["op"]) in _ACTIVATIONS or "BatchNorm" in user.meta["op"]) else None


def _missed_follower(raised: fx.GraphModule, group: Group, last: fx.Node, left: Collection[str]) -> fx.Node | None:
    """The neighbour that still runs by itself after the fused nodes."""
    if not (group.is_weighted or isinstance(group.module, BATCH_NORMS)):
        return None
    candidates = [user for user in last.users if user.op != "output" and _layer(user) in left]
    return next((user for user in candidates if _is_partner(raised, user)), None)


def _is_partner(raised: fx.GraphModule, node: fx.Node) -> bool:
    return isinstance(module_of(raised, node), BATCH_NORMS) or plain(str(node.meta.get("op", ""))) in _ACTIVATIONS


def _obstacle(raised: fx.GraphModule, group: Group, last: fx.Node, follower: fx.Node) -> str | None:
    """What in the model keeps two apart; None when it is only that no kernel holds both."""
    others = [_layer(user) if user.op != "output" else "the model's output" for user in last.users if user != follower]
    if others:
        return f"the output of {_layer(last)} is read by {' and '.join(others)} as well: it has to exist by itself"
    if isinstance(module_of(raised, follower), BATCH_NORMS):
        if plain(str(last.meta["op"])) in _ACTIVATIONS:
            return f"batch norm comes after {last.meta['op']}: it folds only into the convolution or Linear before it"
        return f"FX folds no batch norm into {type(group.module).__name__}"
    return None


def _activation_reason(group: Group, activation: str) -> str:
    if plain(activation) in _NAMES_OF_RELU6:
        return "int8 kernels hold ReLU and no ReLU6: the clamp is a pass over the tensor of its own"
    if plain(activation) != "relu":
        kind = "Linear" if isinstance(group.module, nn.Linear) else "convolution" if group.is_weighted else group.op
        return f"no int8 kernel fuses {kind} and {activation}: only ReLU"
    if isinstance(group.module, TRANSPOSED):
        return "int8 kernels of transposed convolutions hold no ReLU"
    return f"FX has no fused form of {group.op} and ReLU here"


def _pattern(nodes: list[fx.Node]) -> str:
    return " + ".join(_word(str(node.meta["op"])) for node in nodes)


def _word(op: str) -> str:
    return "ReLU" if op == "relu" else op


def _layer(node: fx.Node) -> str:
    return str(node.meta.get("layer", node.name))
