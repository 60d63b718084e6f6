"""Pydantic's errors become pointers into what was sent, and sentences."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from api.field_errors import field_errors, spec_error
from shared.errors import DataRequired, SpecInvalid, WrongKind
from shared.quantization_spec import spec_adapter

MODEL = "mdl_019abc5d1f0e7a33c49d20"
DATASET = "dst_019abc5d20c17a3391be04"


def errors_of(body: Any) -> list[Any]:
    """As FastAPI hands them over: with `body` before every place."""
    with pytest.raises(ValidationError) as caught:
        spec_adapter.validate_python(body)
    found = [{**each, "loc": ("body", *each["loc"])} for each in caught.value.errors()]
    return field_errors(found, body)


def test_the_alternatives_of_a_union_are_one_place_and_one_sentence() -> None:
    body = {"method": "static", "model": MODEL, "calibration": DATASET, "activation": {"reduce_range": "x"}}
    (found,) = errors_of(body)
    assert found.pointer == "/activation/reduce_range"
    assert found.detail == ("Input should be a valid boolean, unable to interpret input, or input should be 'auto'.")


@pytest.mark.parametrize(
    ("change", "pointer", "detail"),
    [
        ({"overrides": [{}]}, "/overrides/0", "An override names a layer, an op, or both"),
        ({"activation": {"quant_min": 9, "quant_max": 3}}, "/activation", "Quant_min 9 is not below quant_max 3."),
        ({"weight": {"quant_min": 2}}, "/weight", "The integers 2 to 127 leave out 0, which observers need."),
        (
            {"activation": {"qscheme": "per_channel_affine"}},
            "/activation/qscheme",
            "Int8 kernels take activations with",
        ),
        ({"weight": {"observer": "minmax", "qscheme": "per_channel_affine"}}, "/weight", "Observer minmax and qscheme"),
    ],
)
def test_options_that_contradict_each_other_are_told_in_our_own_words(
    change: dict[str, Any], pointer: str, detail: str
) -> None:
    (found,) = errors_of({"method": "static", "model": MODEL, "calibration": DATASET, **change})
    assert found.pointer == pointer
    assert found.detail.startswith(detail)
    assert found.detail.endswith(".")


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ({"seeds": 1}, "`seeds` is not a field of the method static. Did you mean `seed`?"),
        ({"qat": {}}, "`qat` is not a field of the method static."),
        ({"benchmark": {"batch_size": [1]}}, "`batch_size` is not a field of `benchmark`. Did you mean `batch_sizes`?"),
        ({"recovery": {"zzz": 1}}, "`zzz` is not a field of `recovery`."),
        ({"overrides": [{"layr": "a"}]}, "`layr` is not a field of `overrides`. Did you mean `layer`?"),
    ],
)
def test_a_field_that_is_none_is_told_with_what_it_is_none_of(change: dict[str, Any], detail: str) -> None:
    assert errors_of({"method": "static", "model": MODEL, "calibration": DATASET, **change})[0].detail == detail


def test_only_the_methods_of_the_request_are_offered() -> None:
    (found,) = errors_of({"method": "benchmark"})
    assert found.detail == "`method` must be one of `dynamic`, `static`, `qat`, not 'benchmark'."


@pytest.mark.parametrize("histograms", [0, 1000, "all"])
def test_a_number_or_a_word_is_taken(histograms: int | str) -> None:
    spec = spec_adapter.validate_python({"method": "dynamic", "model": MODEL, "analysis": {"histograms": histograms}})
    assert spec.analysis.histograms == histograms


def test_neither_a_number_in_range_nor_the_word_is_refused_in_one_place() -> None:
    (found,) = errors_of({"method": "dynamic", "model": MODEL, "analysis": {"histograms": -1}})
    assert found.pointer == "/analysis/histograms"


def test_keys_are_escaped_and_list_positions_counted() -> None:
    body = {"method": "dynamic", "model": MODEL, "a/b~": 1, "overrides": [{"op": "add"}, {"precision": "int4"}]}
    assert {each.pointer for each in errors_of(body)} == {"/a~1b~0", "/overrides/1/precision"}


@pytest.mark.parametrize("body", [{"method": "\ud800"}, {"method": "dynamic", "model": MODEL, "\ud800": 1}])
def test_a_lone_surrogate_does_not_keep_the_answer_from_being_written(body: Any) -> None:
    (found,) = errors_of(body)
    found.model_dump_json().encode()


def test_a_field_called_like_a_method_is_not_taken_for_the_union_member() -> None:
    (found,) = errors_of({"method": "dynamic", "model": MODEL, "qat": {}})
    assert found.pointer == "/qat"


def test_a_method_called_like_a_field_is_not_taken_for_the_field() -> None:
    found = errors_of({"method": "qat", "qat": {"epochs": 0}})
    assert {each.pointer for each in found} == {"/model", "/training", "/qat/epochs"}


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"method": "static", "model": MODEL}, DataRequired),
        ({"method": "qat", "model": MODEL, "training": None}, DataRequired),
        ({"method": "static", "model": MODEL, "seed": -1}, SpecInvalid),
        ({"method": "static"}, SpecInvalid),
        ({"method": "dynamic", "model": DATASET}, WrongKind),
        ({"method": "dynamic", "model": DATASET, "seed": -1}, SpecInvalid),
        ({"method": "dynamic", "model": "mdl_!"}, SpecInvalid),
        ({"method": "dynamic", "model": 3}, SpecInvalid),
        ({}, SpecInvalid),
    ],
)
def test_the_finest_error_that_is_true_of_every_place_is_chosen(body: Any, kind: type[Exception]) -> None:
    assert type(spec_error(errors_of(body))) is kind


def test_the_message_tells_the_first_place_and_how_many_more() -> None:
    error = spec_error(errors_of({"method": "dynamic", "model": MODEL, "seed": -1, "colour": 1}))
    assert error.message.startswith("/seed: ")
    assert error.message.endswith("(and 1 more)")


def test_of_tens_of_thousands_of_wrong_places_the_first_are_looked_at() -> None:
    body = {"method": "dynamic", "model": MODEL} | {f"u{number}": 1 for number in range(1000)}
    places = iter([{"type": "extra_forbidden", "loc": ("body", "dynamic", f"u{n}"), "input": 1} for n in range(1000)])
    assert len(field_errors(places, body)) == 50
    assert len(list(places)) > 900
