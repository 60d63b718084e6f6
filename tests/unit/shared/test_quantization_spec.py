"""What a spec refuses since two of its fields contradict each other, or one would be ignored without a word."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from shared.quantization_spec import DynamicSpec, QatSpec, StaticSpec, spec_adapter

MODEL, DATASET = "mdl_0123456789abcdef", "dst_0123456789abcdef"
FULL, SEVEN_BITS = {"quant_max": 255}, {"reduce_range": True}
FEW = {"quant_min": -8, "quant_max": 7}


def spec(method: str, **asked: Any) -> DynamicSpec | StaticSpec | QatSpec:
    data = {"static": {"calibration": DATASET}, "qat": {"training": DATASET}, "dynamic": {}}[method]
    return spec_adapter.validate_python({"method": method, "model": MODEL} | data | asked)


@pytest.mark.parametrize("method", ["static", "qat"])
@pytest.mark.parametrize(
    ("activation", "override"),
    [(FULL | SEVEN_BITS, None), (SEVEN_BITS, FULL), (FULL, SEVEN_BITS), ({}, FULL | SEVEN_BITS)],
)
def test_seven_bits_and_a_greater_limit_are_refused(
    method: str, activation: dict[str, Any], override: dict[str, Any] | None
) -> None:
    overrides = [] if override is None else [{"layer": "fc", "activation": override}]
    with pytest.raises(ValidationError, match="reduce_range leaves activations the integers to 127, and quant_max 255"):
        spec(method, activation=activation, overrides=overrides)


@pytest.mark.parametrize(
    "activation", [FULL, FULL | {"reduce_range": False}, SEVEN_BITS | {"quant_max": 127}, SEVEN_BITS]
)
def test_limits_that_agree_are_taken(activation: dict[str, Any]) -> None:
    spec("static", activation=activation, overrides=[{"layer": "fc", "activation": {"observer": "minmax"}}])


@pytest.mark.parametrize("weight", [FEW, {"observer": "minmax"}])
def test_settings_of_weights_that_have_none_are_refused(weight: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="float16 weights have no qparams"):
        spec("dynamic", precision="float16", weight=weight)
    spec("dynamic", precision="float16", weight=weight, overrides=[{"layer": "fc", "precision": "int8"}])
    written = spec("dynamic", precision="float16").model_dump(mode="json")
    assert spec_adapter.validate_python(written).method == "dynamic", "with every default written out"
