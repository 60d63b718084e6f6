"""A patch makes a spec of another, and several patches are one."""

from __future__ import annotations

from copy import deepcopy
from types import NoneType
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from shared.quantization_spec import DynamicSpec, QatSpec, StaticSpec, spec_adapter
from shared.spec_patch import apply_patch, beyond_suggesting, compose_patches, unknown_nulls

MODEL = "mdl_019abc5d1f0e7a33c49d20"
DATASET = "dst_019abc5d20c17a3391be04"
STATIC: dict[str, Any] = spec_adapter.validate_python(
    {
        "method": "static",
        "model": MODEL,
        "calibration": DATASET,
        "name": "a name",
        "max_accuracy_drop": 0.5,
        "overrides": [{"layer": "a"}],
        "activation": {"observer": "minmax", "percentile": 99.0},
    }
).model_dump(mode="json")


def patched(patch: dict[str, Any], spec: dict[str, Any] = STATIC) -> Any:
    """The validated spec; neither argument is changed on the way."""
    before = deepcopy((spec, patch))
    found = spec_adapter.validate_python(apply_patch(spec, patch))
    assert (spec, patch) == before
    return found


# RFC 7396, appendix A; what it says of targets that are no objects has no meaning for a spec.
@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
        ({"a": "text"}, {"a": {"b": 1}}, {"a": {"b": 1}}),
    ],
)
def test_what_is_said_of_no_field_in_particular_is_rfc_7396(target: Any, patch: Any, result: Any) -> None:
    assert apply_patch(target, patch) == result


def test_an_added_override_keeps_what_an_earlier_one_of_the_same_layer_gives_and_it_does_not() -> None:
    """Two suggestions for one layer, one after the other or together, both hold; float takes all with it."""
    weight, percentile = {"observer": "per_channel_minmax"}, {"observer": "percentile", "percentile": 99.0}
    first, second = (
        {"overrides": [{"layer": "c", **each}]} for each in ({"weight": weight}, {"activation": percentile})
    )
    one_by_one = apply_patch(apply_patch(STATIC, first), second)
    last = patched({}, one_by_one).overrides[-1]
    assert last.weight is not None
    assert last.weight.model_dump(exclude_none=True) == weight
    assert last.activation is not None
    assert last.activation.model_dump(exclude_none=True) == percentile
    assert one_by_one == apply_patch(STATIC, compose_patches([first, second]))

    other = {"overrides": [{"layer": "c", "activation": {"observer": "minmax"}}]}
    last = patched(other, one_by_one).overrides[-1]
    assert last.activation is not None
    assert last.activation.model_dump(exclude_none=True) == {"observer": "minmax"}
    assert last.weight is not None
    assert patched({"overrides": [{"layer": "c", "precision": "float32"}]}, one_by_one).overrides[-1].weight is None
    assert patched({"overrides": [{"layer": "d", "activation": percentile}]}, one_by_one).overrides[-1].weight is None


def test_overrides_come_behind_those_that_are_there_and_null_takes_all_away() -> None:
    both = patched({"overrides": [{"layer": "b"}]}).overrides
    assert [each.layer for each in both] == ["a", "b"]
    assert patched({"overrides": None}).overrides == []
    assert apply_patch({}, {"overrides": [1]}) == {"overrides": [1]}


def test_nested_settings_are_merged_and_null_brings_a_default_back() -> None:
    found = patched({"activation": {"observer": None, "reduce_range": True}, "name": None})
    assert (found.activation.observer, found.activation.reduce_range) == ("auto", True)
    assert found.activation.percentile == 99.0
    assert found.name is None


def test_null_is_no_target_because_that_is_what_it_means_in_a_spec() -> None:
    assert patched({"max_accuracy_drop": None}).max_accuracy_drop is None
    assert patched({}).max_accuracy_drop == 0.5


def nullable(kind: type[BaseModel], path: str = "") -> set[str]:
    """Fields that take null where null is not their default."""
    found = set()
    for name, field in kind.model_fields.items():
        if NoneType in get_args(field.annotation) and field.default is not None:
            found.add(path + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= nullable(field.annotation, f"{path}{name}.")
    return found


@pytest.mark.parametrize("kind", [DynamicSpec, StaticSpec, QatSpec])
def test_no_other_field_needs_null_for_anything_but_its_default(kind: type[BaseModel]) -> None:
    """A merge patch cannot set null: a new field for which null means something must be made an exception too."""
    assert nullable(kind) == {"max_accuracy_drop"}


def test_another_method_leaves_behind_what_it_does_not_know() -> None:
    dynamic = patched({"method": "dynamic"})
    assert (dynamic.method, dynamic.name, dynamic.overrides[0].layer) == ("dynamic", "a name", "a")
    halved = dynamic.model_dump(mode="json") | {"precision": "float16"}
    static = patched({"method": "static", "calibration": DATASET, "recovery": {"smooth_quant": True}}, halved)
    assert static.recovery.smooth_quant is True
    assert "precision" not in apply_patch(halved, {"method": "static"})


def test_what_the_patch_itself_says_stays_also_if_the_method_does_not_know_it() -> None:
    """Validation then names the field; were it dropped, nobody would learn that it had no effect."""
    assert "qat" in apply_patch(STATIC, {"method": "dynamic", "qat": {"epochs": 1}})
    assert apply_patch(STATIC, {"method": "magic"}) == {**STATIC, "method": "magic"}
    assert apply_patch(STATIC, {"method": ["dynamic"]})["method"] == ["dynamic"]


PATCHES: list[dict[str, Any]] = [
    {"overrides": [{"layer": "b"}]},
    {"overrides": [{"op": "add"}], "seed": 3},
    {"activation": {"observer": "histogram"}},
    {"activation": {"observer": "percentile", "percentile": 99.9}, "name": None},
    {"max_accuracy_drop": None},
    {"max_accuracy_drop": 0.1, "overrides": None},
    {"weight": {"observer": "minmax"}, "benchmark": {"threads": [1, 2]}},
]


# No single patch can take overrides away and add others: the composed one only adds, so that pair is left out.
PAIRS = [
    (first, second)
    for first in PATCHES
    for second in PATCHES
    if first.get("overrides", []) is not None or not second.get("overrides")
]


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_one_patch_for_two_does_what_they_do_one_after_the_other(first: Any, second: Any) -> None:
    before = deepcopy((first, second))
    composed = compose_patches([first, second])
    assert apply_patch(STATIC, composed) == apply_patch(apply_patch(STATIC, first), second)
    assert (first, second) == before


def test_no_patch_changes_nothing() -> None:
    assert compose_patches([]) == {}
    assert apply_patch(STATIC, {}) == STATIC


# --- what a report may suggest ---------------------------------------------------------------------------------------

OTHER = "dst_019abc5d20c17a3391be05"
SETTINGS = {"method", "precision", "qengine", "weight", "activation", "overrides", "recovery", "qat"}


@pytest.mark.parametrize("model", [DynamicSpec, StaticSpec, QatSpec])
def test_a_suggestion_may_change_how_is_quantized_and_nothing_else(model: type[BaseModel]) -> None:
    """A new field of the spec is refused until it is named here and there."""
    refused = {field for field in model.model_fields if beyond_suggesting(STATIC, {field: None})}
    assert refused == model.model_fields.keys() - SETTINGS


def test_a_suggestion_names_no_data_but_that_of_the_spec() -> None:
    spec = {**STATIC, "evaluation": OTHER}
    assert beyond_suggesting(spec, {"calibration": OTHER, "training": DATASET, "method": "qat"}) == []
    foreign = "dst_00000000000000000000ff"
    for value in (foreign, MODEL, None, [OTHER], {"calibration": OTHER}):
        assert beyond_suggesting(spec, {"calibration": value}) == ["calibration"]
    assert beyond_suggesting(spec, {"evaluation": DATASET, "model": MODEL}) == ["evaluation", "model"]


def test_a_null_brings_a_default_back_where_there_is_a_field() -> None:
    """Of any method, for the patch may bring another one; names in metadata are the user's own."""
    known = {"qat": None, "activation": {"percentile": None}, "metadata": {"mine": None}, "recovery": None}
    assert unknown_nulls(known) == []
    unknown = {"colour": None, "activation": {"percentle": None}, "seed": {"x": None}, "qat": {"activation": None}}
    assert unknown_nulls(unknown) == ["colour", "activation.percentle", "seed.x", "qat.activation"]


def test_overrides_are_added_up_in_one_pass() -> None:
    """Each is looked at a few times, however many there are: 5500 of them once took 50 seconds."""
    seen = 0

    class Counted(dict[str, Any]):
        def get(self, key: str, default: Any = None) -> Any:
            nonlocal seen
            seen += 1
            return super().get(key, default)

    many = [Counted(layer=f"l{number}", weight={"quant_min": -8}) for number in range(500)]
    assert len(compose_patches([{"overrides": many}, {"overrides": many}])["overrides"]) == 1000
    assert seen < 20 * len(many)
