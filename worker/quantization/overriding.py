"""Which override holds for which layer: the last match wins; one that matches nothing is an error with near names."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Sequence

from pydantic import ValidationError
from torch import fx

from shared.errors import SpecInvalid
from shared.quantization_spec import ActivationOverride, ActivationSettings, Override, WeightOverride, WeightSettings
from worker.quantization.grouping import Group


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


def asked_by(override: Override) -> str:
    """Such as `layer layer1.* and op Conv2d`."""
    return " and ".join(f"{key} {value}" for key, value in (("layer", override.layer), ("op", override.op)) if value)


def overridden_activation(settings: ActivationSettings, override: ActivationOverride) -> ActivationSettings:
    """Settled activation settings with an override's over them.

    Raises SpecInvalid when the limits contradict each other.
    """
    try:
        return ActivationSettings(**settings.model_dump() | override.model_dump(exclude_none=True))
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
        plain = merged["observer"].replace("per_channel_", "")
        merged["observer"] = (
            plain if "per_tensor" in merged["qscheme"] else plain.replace("minmax", "per_channel_minmax")
        )
    try:
        return WeightSettings(**merged)
    except ValidationError as error:
        raise SpecInvalid(f"An override of weights: {error.errors()[0]['msg']}.") from error


def _matches(node: fx.Node, override: Override) -> bool:
    layer, op = str(node.meta["layer"]), str(node.meta["op"])
    by_layer = override.layer is None or fnmatch.fnmatchcase(layer, override.layer)
    return by_layer and (override.op is None or _plain(op) == _plain(override.op))


def _plain(op: str) -> str:
    return op.lower().replace("_", "")


def _no_match(index: int, override: Override, all_groups: Sequence[Group]) -> str:
    nodes = [node for group in all_groups for node in group.nodes]
    asked, known = (
        (override.layer, [str(node.meta["layer"]) for node in nodes])
        if override.layer is not None
        else (override.op or "", [str(node.meta["op"]) for node in nodes])
    )
    near = difflib.get_close_matches(asked, sorted(set(known)), n=3, cutoff=0.3) or sorted(set(known))[:5]
    return f"overrides[{index}] matches nothing in this model: {asked!r}. Near it: {', '.join(near)}."
