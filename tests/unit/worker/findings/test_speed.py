"""Layers that are advised to stay in float for their time: where it is worth it, and not where it may be chance."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from shared.job_report import ReportWarning
from shared.layer_report import LayerSummary
from shared.layer_times import BoundaryTime, LayerTime, LayerTimes
from worker.findings import with_slow_layers
from worker.findings.speed import slow_layers

LAYERS = [
    LayerSummary(name="stem", op="Conv2d", precision="int8", weight_bytes=10, macs=100),
    LayerSummary(name="body", op="Conv2d", precision="int8", weight_bytes=10, macs=900),
    LayerSummary(name="gate", op="SiLU", precision="float32", weight_bytes=0),
]


def row(layer: str, float_ms: float, int8_ms: float, **changed: Any) -> LayerTime:
    how: Literal["faster", "slower"] = "slower" if int8_ms > float_ms else "faster"
    row = LayerTime(
        layer=layer, precision="int8", float_ms=float_ms, int8_ms=int8_ms, ratio=float_ms / int8_ms,
        share=0.1, noise_ms=0.01, changed=how,
    )  # fmt: skip
    return row.model_copy(update=changed)


def times(*rows: LayerTime, boundaries: tuple[BoundaryTime, ...] = ()) -> LayerTimes:
    return LayerTimes(
        float_candidate="float_onnxruntime", int8_candidate="int8_onnxruntime", batch_size=1, threads=1, cores=[0],
        openings=3, runs=40, layers=list(rows), boundaries=list(boundaries), others=[], float_ms=2, int8_ms=1,
        float_p50_ms=2, int8_p50_ms=1, subtracted_ms=0, boundaries_ms=sum(each.ms for each in boundaries),
        float_reorders_ms=0, conclusion="", method="",
    )  # fmt: skip


def crossing(kind: Literal["quantize", "dequantize"], producer: str, consumer: str, ms: float) -> BoundaryTime:
    return BoundaryTime(kind=kind, producer=producer, consumer=consumer, ms=ms)


def test_a_layer_that_int8_makes_slower_is_advised_to_stay_in_float() -> None:
    [found] = slow_layers(times(row("stem", 0.1, 0.3), row("body", 1.5, 0.5)), LAYERS)
    assert (found.code, found.layer) == ("slower_in_int8", "stem")
    assert found.evidence is not None
    assert found.evidence.startswith("0.3 ms in int8 and 0.1 ms in float, give or take 0.01 ms;")
    assert found.suggestion is not None
    assert found.suggestion.patch == {"overrides": [{"layer": "stem", "precision": "float32"}]}
    assert found.suggestion.expected == "up to 0.2 ms of 1 ms, measured"


@pytest.mark.parametrize(
    "slow",
    [
        row("stem", 0.1, 0.14),  # less than 5 % of the whole
        row("stem", 0.1, 0.3, noise_ms=0.15),  # within twice of what the openings differ by
        row("stem", 0.1, 0.3, noise_ms=None),  # measured once
        row("gate", 0.1, 0.3, precision="float32"),  # in float already
    ],
    ids=["little", "noise", "once", "float"],
)
def test_what_may_be_chance_or_is_not_worth_it_is_not_advised(slow: LayerTime) -> None:
    assert slow_layers(times(slow, row("body", 1.5, 0.5)), LAYERS) == []


def test_of_a_model_of_microseconds_nothing_is_advised() -> None:
    """Whatever share of it that is: the clock tells no less than one."""
    tiny = times(row("stem", 0.001, 0.004, noise_ms=0), row("body", 0.01, 0.005)).model_copy(
        update={"int8_p50_ms": 0.012}
    )
    assert slow_layers(tiny, LAYERS) == []


def test_boundaries_that_are_there_for_one_layer_count_against_it() -> None:
    around = (crossing("quantize", "gate", "stem", 0.1), crossing("dequantize", "stem", "gate", 0.1))
    [found] = slow_layers(times(row("stem", 0.25, 0.2), row("body", 1.5, 0.5), boundaries=around), LAYERS)
    assert (found.code, found.layer) == ("boundaries_cost_more", "stem")
    assert found.suggestion is not None
    assert found.suggestion.expected == "up to 0.15 ms of 1 ms, measured"


def test_boundaries_that_would_arise_are_reckoned_with() -> None:
    """Both neighbours are in int8: the tensor would be dequantized before it, and quantized behind it."""
    elsewhere = (crossing("quantize", "input", "body", 0.08),)
    gained = times(row("stem", 0.1, 0.4), row("body", 1.5, 0.5), boundaries=elsewhere)
    lost = times(row("stem", 0.1, 0.25), row("body", 1.5, 0.5), boundaries=elsewhere)
    [found] = slow_layers(gained, LAYERS)
    assert found.suggestion is not None
    assert found.suggestion.expected == "up to 0.14 ms of 1 ms, measured, with 0.16 ms for the boundaries that arise"
    assert slow_layers(lost, LAYERS) == []


def test_the_last_layer_in_int8_is_told_of_without_advice() -> None:
    [found] = slow_layers(times(row("stem", 0.1, 0.3)), LAYERS[:1])
    assert found.suggestion is None


@pytest.mark.parametrize(
    ("quality_holds", "expected"),
    [
        (True, ["float_not_finite", "slower_in_int8", "bias_shift"]),
        (False, ["float_not_finite", "bias_shift", "slower_in_int8"]),
    ],
)
def test_speed_stands_first_where_quality_holds_and_never_before_what_makes_it_doubtful(
    *, quality_holds: bool, expected: list[str]
) -> None:
    found = [ReportWarning(code=code, message="") for code in ("float_not_finite", "bias_shift")]
    slow = times(row("stem", 0.1, 0.3), row("body", 1.5, 0.5))
    told = with_slow_layers(found, slow, LAYERS, quality_holds=quality_holds)
    assert [warning.code for warning in told] == expected
    assert with_slow_layers(found, None, LAYERS, quality_holds=quality_holds) == found
