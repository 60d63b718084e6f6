"""A poor model of which no layer alone is to blame: what can be done about all of them, by what was asked."""

from __future__ import annotations

from typing import Any

import pytest

from shared.job_report import OutputFidelity, Quality
from shared.layer_report import Graphs, LayerSensitivity, Sensitivity
from shared.quantization_spec import spec_adapter
from shared.spec_patch import apply_patch, beyond_suggesting
from tests.unit.worker.quantization.test_planning import DATASET, spec
from worker.findings import Case, find
from worker.steps.analyse import Analysis

SENSITIVITY = Sensitivity(
    samples=32,
    base_sqnr_db=12.0,
    budget_seconds=1.0,
    seconds=1.0,
    layers=[
        LayerSensitivity(layer=f"layer{index}", alone_int8_sqnr_db=25.0, alone_float_sqnr_db=12.3, gain_db=0.3)
        for index in range(12)
    ],
    not_reached=[],
)
ANALYSIS = Analysis([], {}, SENSITIVITY, [], [], frozenset(), Graphs(float_nodes=[], int8_nodes=[]), [], {}, {}, 32)
POOR = Quality(
    data="evaluation",
    samples=32,
    metric=None,
    fidelity=[OutputFidelity(output="y", sqnr_db=12.0, cosine=0.9, agreement=None)],
)
QAT = {"method": "qat"}


@pytest.mark.parametrize(
    ("method", "asked", "patch"),
    [
        ("dynamic", {}, {"precision": "float16"}),
        ("dynamic", {"weight": {"observer": "minmax"}}, {"precision": "float16", "weight": None}),
        ("dynamic", {"precision": "float16"}, None),
        ("static", {}, QAT),
        ("static", {"activation": {"observer": "minmax"}}, {"activation": {"observer": "auto"}}),
        (
            "static",
            {"recovery": {"bias_correction": False, "smooth_quant": False}},
            {"recovery": {"bias_correction": None, "smooth_quant": None}},
        ),
        ("qat", {}, None),
    ],
)
def test_what_the_spec_leaves_unused_is_suggested_and_training_after_all_else(
    method: str, asked: dict[str, Any], patch: dict[str, Any] | None
) -> None:
    before = spec(method, **asked)
    (warning,) = find(Case(before, {}, ANALYSIS, POOR))
    assert warning.code == "spread_error"
    assert warning.hint
    assert "overrides" in warning.hint
    assert (warning.suggestion and warning.suggestion.patch) == patch
    if patch is not None:
        written = before.model_dump(mode="json", exclude_unset=True)
        assert beyond_suggesting(written, patch) == []
        after = spec_adapter.validate_python(
            apply_patch(written, patch) | ({"training": DATASET} if patch == QAT else {})
        )
        (again,) = find(Case(after, {}, ANALYSIS, POOR))
        assert again.suggestion is None or again.suggestion.patch != patch, "what was done is not said again"
