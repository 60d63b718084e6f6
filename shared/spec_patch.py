"""Making a spec of another: a patch is a JSON merge patch (RFC 7396), but for three things.

- `overrides` are added behind the spec's, where they have the last word; null takes all of them away. One that gives
  other settings to the same layer and op as an earlier one keeps the earlier one's `weight` or `activation` where it
  says nothing of it.
- `max_accuracy_drop: null` means no target, as it does in a spec; elsewhere null brings the default back.
- With another `method`, what the new method does not know is left behind.

What a report suggests was written in the process that ran the upload: it may change how a model is quantized, and
nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from shared.job_spec import SPECS

_FREE = frozenset({"metadata"})  #: whose names are the user's own
_NULL_IS_A_VALUE = "max_accuracy_drop"
_ADDED_UP = "overrides"
_SUGGESTED = frozenset(
    {"method", "precision", "qengine", "weight", "activation", "overrides", "recovery", "qat"}
)  # fmt: skip
_SUGGESTED_DATA = frozenset({"calibration", "training"})


def apply_patch(spec: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """The spec with the patch applied; not validated, and neither argument is changed."""
    method = patch.get("method", spec.get("method"))
    other = SPECS.get(method) if isinstance(method, str) and method != spec.get("method") else None
    base = {name: value for name, value in spec.items() if other is None or name in other.model_fields}
    patched = _merged(base, patch)
    if added := overrides_of(patch):
        patched[_ADDED_UP] = _added_up(overrides_of(base), added)
    if patch.get(_NULL_IS_A_VALUE, 0) is None:
        patched[_NULL_IS_A_VALUE] = None
    return patched


def beyond_suggesting(spec: Mapping[str, Any], patch: Mapping[str, Any]) -> list[str]:
    """The fields of a patch that no report may suggest to change.

    Settings of quantization it may, and to calibrate or train on a dataset that the spec names itself; but no other
    object, no target, and nothing that says what is measured.
    """
    named = {spec.get(role) for role in ("calibration", "evaluation", "training")} - {None}
    return [
        field
        for field, value in patch.items()
        if field not in _SUGGESTED and not (field in _SUGGESTED_DATA and isinstance(value, str) and value in named)
    ]


def compose_patches(patches: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """One patch for several: the later ones win field by field, and their overrides come later."""
    composed: dict[str, Any] = {}
    for patch in patches:
        earlier = overrides_of(composed)
        composed = _composed(composed, patch)
        if added := overrides_of(patch):
            composed[_ADDED_UP] = _added_up(earlier, added)
    return composed


def unknown_nulls(patch: Mapping[str, Any]) -> list[str]:
    """The dotted names that a patch sets to null and no method's spec has; every other wrong one is in the result."""
    return [name for name in _nulls(patch) if not any(_has(spec, name.split(".")) for spec in SPECS.values())]


def overrides_of(patch: Mapping[str, Any]) -> list[Any]:
    """The overrides in a patch or a spec, as far as they are a list."""
    found = patch.get(_ADDED_UP)
    return found if isinstance(found, list) else []


def _added_up(earlier: list[Any], added: list[Any]) -> list[Any]:
    """The last match wins as a whole, so what an added override leaves open would be lost without being asked for."""
    result = list(earlier)
    latest = {_target(each): each for each in result}
    for entry in added:
        kept = _settings(latest.get(_target(entry))) if _settings(entry) else {}
        result.append({**kept, **entry} if kept else entry)
        latest[_target(entry)] = result[-1]
    return result


def _target(override: Any) -> tuple[str | None, ...]:
    named = [override.get(each) for each in ("layer", "op")] if isinstance(override, Mapping) else []
    return tuple(each if isinstance(each, str) else None for each in named)


def _nulls(patch: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for name, value in patch.items():
        if value is None:
            yield f"{path}{name}"
        elif isinstance(value, Mapping) and name not in _FREE:
            yield from _nulls(value, f"{path}{name}.")


def _has(model: type[BaseModel], path: list[str]) -> bool:
    field = model.model_fields.get(path[0])
    if field is None or len(path) == 1:
        return field is not None
    inner = field.annotation
    return isinstance(inner, type) and issubclass(inner, BaseModel) and _has(inner, path[1:])


def _settings(override: Any) -> dict[str, Any]:
    if not isinstance(override, Mapping):  # whoever validates the result says so
        return {}
    return {name: override[name] for name in ("weight", "activation") if override.get(name)}


def _merged(target: Any, patch: Mapping[str, Any]) -> dict[str, Any]:
    """MergePatch of RFC 7396, section 2, for a patch that is an object."""
    result = dict(target) if isinstance(target, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = _merged(result.get(name), value) if isinstance(value, Mapping) else value
    return result


def _composed(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    both = {
        name: _composed(first[name], value)
        for name, value in second.items()
        if isinstance(value, Mapping) and isinstance(first.get(name), Mapping)
    }
    return {**first, **second, **both}
