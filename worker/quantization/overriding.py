"""Which override holds for which layer: the last match wins; one that matches nothing is an error with near names."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Callable, Mapping, Sequence

from pydantic import ValidationError
from torch import fx

from shared.errors import SpecInvalid
from shared.quantization_spec import (
    REDUCED_MAX,
    ActivationOverride,
    ActivationSettings,
    Override,
    WeightOverride,
    WeightSettings,
)
from worker.quantization.float_reasons import FloatReason
from worker.quantization.grouping import Group
from worker.quantization.labelling import plain

_TOLD = 5


def overrides_by_group(all_groups: Sequence[Group], overrides: Sequence[Override]) -> dict[str, Override]:
    """The override that holds for each group that one matches, by the group's name.

    A group is matched with any of its layers, for they share one precision. Raises SpecInvalid when an override
    matches no layer of the model.
    """
    found: dict[str, Override] = {}
    for index, override in enumerate(overrides):
        matched = [group.name for group in all_groups if any(_matches(node, override) for node in group.nodes)]
        if not matched:
            raise SpecInvalid(_no_match(index, override, all_groups))
        found |= dict.fromkeys(matched, override)
    return found


def without_kernels(
    all_groups: Sequence[Group],
    overrides: Sequence[Override],
    overridden: Mapping[str, Override],
    why: Callable[[Group], FloatReason | None],
) -> dict[int, dict[str, FloatReason]]:
    """For each override, by its number, that asks for int8 what cannot have it: these layers, and why.

    `why` tells what keeps a group in float whatever is asked, or None. Raises SpecInvalid when it is all of what an
    override holds for.
    """
    found: dict[int, dict[str, FloatReason]] = {}
    for index, override in enumerate(overrides):
        held = [group for group in all_groups if overridden.get(group.name) is override]
        if override.is_float or not held:
            continue
        refused = {group.name: reason for group in held if (reason := why(group)) is not None}
        if len(refused) == len(held):
            layer, reason = next(iter(refused.items()))
            raise SpecInvalid(f"overrides[{index}] asks for int8, and {layer} cannot have it: {reason.text}.")
        if refused:
            found[index] = refused
    return found


def _asked_by(override: Override) -> str:
    """Such as `layer layer1.* and op Conv2d`."""
    return " and ".join(f"{key} {value}" for key, value in (("layer", override.layer), ("op", override.op)) if value)


def overridden_to_float(override: Override) -> FloatReason:
    """Why what matches it stays in float."""
    return FloatReason("asked", f"overridden: {_asked_by(override)}")


def overridden_activation(settings: ActivationSettings, override: ActivationOverride) -> ActivationSettings:
    """Settled activation settings with an override's over them.

    Raises SpecInvalid when the limits contradict each other.
    """
    merged = settings.model_dump() | override.model_dump(exclude_none=True)
    if merged["reduce_range"] and merged["quant_max"] is not None:  # the spec left it open, and the kernels settled it
        merged["quant_max"] = min(merged["quant_max"], REDUCED_MAX)
    try:
        return ActivationSettings(**merged)
    except ValidationError as error:
        raise SpecInvalid(f"An override of activations: {error.errors()[0]['msg']}.") from error


def overridden_weight(settings: WeightSettings, override: WeightOverride) -> WeightSettings:
    """Settled weight settings with an override's over them; of observer and qscheme, the one not given follows.

    Raises SpecInvalid when the two that are given, or the limits, contradict each other.
    """
    asked = override.model_dump(exclude_none=True)
    merged = settings.model_dump() | asked
    if "observer" in asked and "qscheme" not in asked:
        granularity = "per_channel" if "per_channel" in merged["observer"] else "per_tensor"
        merged["qscheme"] = f"{granularity}_{merged['qscheme'].rpartition('_')[2]}"
    elif "qscheme" in asked and "observer" not in asked:
        observer = merged["observer"].replace("per_channel_", "")
        if "per_channel" in merged["qscheme"]:
            observer = observer.replace("minmax", "per_channel_minmax")
        merged["observer"] = observer
    try:
        return WeightSettings(**merged)
    except ValidationError as error:
        raise SpecInvalid(f"An override of weights: {error.errors()[0]['msg']}.") from error


def _matches(node: fx.Node, override: Override) -> bool:
    return _matches_layer(node, override.layer) and _matches_op(node, override.op)


def _matches_layer(node: fx.Node, pattern: str | None) -> bool:
    return pattern is None or fnmatch.fnmatchcase(str(node.meta["layer"]), pattern)


def _matches_op(node: fx.Node, op: str | None) -> bool:
    return op is None or plain(str(node.meta["op"])) == plain(op)


def _no_match(index: int, override: Override, all_groups: Sequence[Group]) -> str:
    """What was asked for and is not there; where layer and op are there, and not together, what each is."""
    nodes = [node for group in all_groups for node in group.nodes]
    layers, ops = [str(node.meta["layer"]) for node in nodes], [str(node.meta["op"]) for node in nodes]
    told = f"overrides[{index}] matches nothing in this model:"
    named = [op for node, op in zip(nodes, ops, strict=True) if _matches_layer(node, override.layer)]
    of_type = [layer for node, layer in zip(nodes, layers, strict=True) if _matches_op(node, override.op)]
    if override.layer is not None and not named:
        return f"{told} no layer {override.layer!r}. Near it: {_near(override.layer, layers)}."
    if override.op is not None and not of_type:
        return f"{told} no op {override.op!r}. Near it: {_near(override.op, ops)}."
    return (
        f"{told} layer {override.layer!r} matches {first_few(named)}, and op {override.op!r} matches "
        f"{first_few(of_type)}, but no layer matches both."
    )


def _near(asked: str, known: Sequence[str]) -> str:
    names = sorted(set(known))
    return ", ".join(difflib.get_close_matches(asked, names, n=3, cutoff=0.3) or names[:_TOLD])


def first_few(names: Sequence[str]) -> str:
    """The first few of them, each once."""
    once = list(dict.fromkeys(names))
    more = f" and {len(once) - _TOLD} more" if len(once) > _TOLD else ""
    return f"{', '.join(once[:_TOLD])}{more}"
