"""int8 islands: operators that multiply by no matrix and would be int8 with nothing but float around them.

There int8 costs two conversions and an error, and there is no arithmetic to save. The `flatten` between an average in
float and a head that was left in float cost a network of the zoo 12 dB.
"""

from __future__ import annotations

from torch import fx

from worker.quantization.float_reasons import FloatReason
from worker.quantization.grouping import TABLES, Group, groups
from worker.quantization.plans import Plan

_REASON = FloatReason("island", "it multiplies no matrix and stands between float layers: int8 would save it nothing")


def without_islands(raised: fx.GraphModule, plan: Plan) -> Plan:
    """The same plan with those operators in float; what an override asked for stays in int8."""
    for island in _islands(groups(raised), plan):
        plan = plan.without(island, _REASON)
    return plan


def _islands(all_groups: list[Group], plan: Plan) -> list[str]:
    """int8 operators that reach no convolution and no Linear in int8, by way of int8 operators alone.

    A table of vectors gives floats whatever its weights are: it is no island, and no land for others.
    """
    int8 = {
        node: group
        for group in all_groups
        if group.name in plan.int8_layers and not isinstance(group.module, TABLES)
        for node in group.nodes
    }
    frontier = [group for group in int8.values() if group.is_weighted or group.name in plan.asked_layers]
    reached = {group.name for group in frontier}
    while frontier:
        for node in frontier.pop().nodes:
            for neighbour in (*node.all_input_nodes, *node.users):
                group = int8.get(neighbour)
                if group is not None and group.name not in reached:
                    reached.add(group.name)
                    frontier.append(group)
    return [name for name in dict.fromkeys(group.name for group in int8.values()) if name not in reached]
