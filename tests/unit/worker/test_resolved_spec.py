"""What a report may say of the spec: what a recipe settles, and nothing that was asked otherwise."""

from __future__ import annotations

from typing import Any

import pytest

from shared.job_spec import job_spec_adapter
from worker.resolved_spec import resolved_spec

MODEL, DATA = "mdl_0123456789abcdef", "dst_0123456789abcdef"
ASKED: dict[str, dict[str, Any]] = {
    "dynamic": {"method": "dynamic", "model": MODEL},
    "static": {"method": "static", "model": MODEL, "calibration": DATA},
    "qat": {"method": "qat", "model": MODEL, "training": DATA},
    "benchmark": {"method": "benchmark", "candidates": [{"model": MODEL}]},
}
PLAN = {
    "qengine": "onednn",
    "operators": "weighted",
    "float_layers": {"head": "overridden: layer head"},
    "notes": ["n"],
}
WEIGHT = {"observer": "minmax", "qscheme": "per_tensor_symmetric", "quant_min": -127, "quant_max": 127}
ACTIVATION = {"observer": "percentile", "reduce_range": True, "quant_max": 127}


def resolved(method: str, told: dict[str, Any], **asked: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The spec as asked, and as it stands in the report when the runner tells this of it."""
    spec = job_spec_adapter.validate_python(ASKED[method] | asked)
    dumped = spec.model_dump(mode="json")
    return dumped, resolved_spec(spec, dumped | told)


def test_what_was_left_to_a_static_job_is_taken_from_its_report() -> None:
    settled = {"metric": "top1", "max_accuracy_drop": 0.01, "qengine": "onednn", "plan": PLAN}
    asked, found = resolved("static", {**settled, "weight": WEIGHT, "activation": ACTIVATION})
    parts = {"weight": asked["weight"] | WEIGHT, "activation": asked["activation"] | ACTIVATION}
    assert found == asked | settled | parts


def test_dynamic_quantization_settles_no_kernels_and_a_plan_of_its_own() -> None:
    plan = PLAN | {"reduce_range": True, "float_macs_share": 0.25}
    asked, found = resolved("dynamic", {"metric": None, "plan": plan, "weight": WEIGHT, "qengine": "x86"})
    assert found == asked | {"metric": None, "plan": plan, "weight": asked["weight"] | WEIGHT}


def test_training_settles_the_loss_and_nothing_else_of_its_settings() -> None:
    asked, found = resolved("qat", {"qat": {"loss": "mse", "epochs": 999}})
    assert found == asked | {"qat": asked["qat"] | {"loss": "mse"}}


def test_a_benchmark_settles_metric_and_runtimes() -> None:
    told = {"metric": "mse", "runtimes": ["torch"]}
    asked, found = resolved("benchmark", {**told, "plan": PLAN, "weight": WEIGHT})
    assert found == asked | told


@pytest.mark.parametrize("method", ["static", "benchmark"])
def test_what_was_asked_stays(method: str) -> None:
    told = {"metric": "top1", "seed": 7, "name": "another", "hardware": {"cpu": "*"}, "runtimes": ["openvino"], "x": 1}
    asked, found = resolved(method, told, metric="mse", runtimes=["torch"], name="mine")
    assert found == asked
    assert resolved(method, {"metric": None}, metric="mse")[1]["metric"] is None, "where it came to no number"
    asked, found = resolved(
        "static", {"qengine": "x86", "max_accuracy_drop": 1.0}, qengine="onednn", max_accuracy_drop=0
    )
    assert found == asked
    assert resolved("qat", {"qat": {"loss": "mse"}}, qat={"loss": "distillation"})[1]["qat"]["loss"] == "distillation"


@pytest.mark.parametrize(
    "told",
    [
        {"metric": "<b>"},
        {"max_accuracy_drop": float("nan")},
        {"runtimes": ["torch"] * 4},
        {"weight": WEIGHT | {"x": [[]]}},
        {"activation": ACTIVATION | {"observer": "x" * 100}},
        {"plan": PLAN | {"x": [[]]}},
        {"plan": PLAN | {"notes": ["n"] * 1001}},
        {"plan": PLAN | {"float_layers": {"head": [[]]}}},
        {"plan": PLAN | {"float_layers": {"head": "x" * 50_000}}},
        {"qat": {"loss": "none"}},
    ],
)
def test_what_no_recipe_settles_like_that_is_refused(told: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        resolved("qat", told)
