"""What operators make of layers, on operators made up for it: sums are exact, and noise is told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shared.layer_report import LayerSummary
from worker.layer_times import Operator, attributed, conclusion
from worker.layer_times.attributing import Attributed

LAYERS = [
    LayerSummary(name="conv", op="Conv2d", precision="int8", weight_bytes=100, macs=1000, fused=["bn", "relu"]),
    LayerSummary(name="add", op="add", precision="int8", weight_bytes=0),
    LayerSummary(name="gate", op="SiLU", precision="float32", weight_bytes=0),
]
FLOAT = [
    Operator("reorder", "ReorderInput", 0.01, (), ()),
    Operator("conv_relu", "FusedConv", 0.40, ("bn", "relu", "add"), ("reorder",)),
    Operator("gate", "Swish", 0.05, ("gate",), ("conv_relu",)),
    Operator("view", "Reshape", 0.02, ("view",), ("gate",)),
]
INT8 = [
    Operator("q", "QuantizeLinear", 0.03, (), ()),
    Operator("conv", "QLinearConv", 0.10, ("conv",), ("q",)),
    Operator("add", "QLinearAdd", 0.05, ("add",), ("conv",)),
    Operator("dq", "DequantizeLinear", 0.04, (), ("add",)),
    Operator("view", "Reshape", 0.02, ("view",), ("dq",)),
    Operator("gate", "Swish", 0.08, ("gate",), ("view",)),
]


def slowed(operators: list[Operator], name: str, factor: float) -> list[Operator]:
    return [replace(each, ms=each.ms * factor) if each.name == name else each for each in operators]


def found(*int8: list[Operator]) -> Attributed:
    return attributed([FLOAT] * len(int8), int8, LAYERS)


def test_what_is_one_operator_in_float_is_one_row_for_int8_too() -> None:
    conv, gate = found(INT8, INT8, INT8).layers
    assert (conv.layer, conv.together) == ("conv", ["add"])
    assert (conv.float_ms, conv.int8_ms) == pytest.approx((0.40, 0.15))
    assert conv.ratio == pytest.approx(0.40 / 0.15)
    assert conv.share == pytest.approx(0.15 / 0.32)
    assert (gate.layer, gate.together, gate.changed) == ("gate", [], "slower")


def test_every_operator_counts_once() -> None:
    both = found(INT8)
    assert both.float_ms == pytest.approx(sum(each.ms for each in FLOAT))
    assert both.int8_ms == pytest.approx(sum(each.ms for each in INT8))
    assert both.boundaries_ms == pytest.approx(0.07)
    assert both.float_reorders_ms == pytest.approx(0.01)
    assert [(each.op, each.float_ms, each.int8_ms) for each in both.others] == [("Reshape", 0.02, 0.02)]
    in_rows = sum(each.int8_ms for each in both.layers) + both.boundaries_ms + 0.02
    assert in_rows == pytest.approx(both.int8_ms)


def test_a_boundary_is_told_with_the_computing_layers_around_it() -> None:
    """Those that only give the tensor another shape are passed by."""
    places = [(each.kind, each.producer, each.consumer, each.ms) for each in found(INT8).boundaries]
    assert places == [("quantize", "input", "conv", 0.03), ("dequantize", "conv", "gate", 0.04)]


def test_dequantized_weights_are_told_as_such() -> None:
    weights = Operator("w", "DequantizeLinear", 0.5, ("conv",), ())
    int8 = [weights, *(replace(each, reads=("q", "w")) if each.name == "conv" else each for each in INT8)]
    [place] = [each for each in attributed([FLOAT], [int8], LAYERS).boundaries if each.producer == "weights"]
    assert (place.kind, place.consumer, place.ms) == ("dequantize", "conv", 0.5)


def test_a_transposition_of_the_model_is_none_that_a_runtime_put_there() -> None:
    moved = Operator("t", "Transpose", 0.01, ("permute",), ())
    put = Operator("u", "Transpose", 0.02, (), ())
    both = attributed([[*FLOAT]], [[*INT8, moved, put]], LAYERS)
    assert ("Transpose", 0.01) in [(each.op, each.int8_ms) for each in both.others]
    assert [each.ms for each in both.boundaries if each.kind == "reorder"] == [0.02]


def test_a_change_within_what_openings_differ_by_is_none() -> None:
    steady = found(slowed(INT8, "gate", 1.0), slowed(INT8, "gate", 1.05), slowed(INT8, "gate", 1.02)).layers[1]
    shaky = found(slowed(INT8, "gate", 1.0), slowed(INT8, "gate", 0.3), slowed(INT8, "gate", 2.0)).layers[1]
    assert steady.changed == "slower"
    assert steady.noise_ms == pytest.approx(0.004)
    assert shaky.changed == "same"


def test_of_one_opening_nothing_is_known_of_the_noise() -> None:
    assert [each.noise_ms for each in found(INT8).layers] == [None, None]


def test_a_change_below_the_clock_is_none() -> None:
    fast = [replace(each, ms=each.ms / 1000) for each in INT8]
    tiny = attributed([[replace(each, ms=each.ms / 1000) for each in FLOAT]] * 2, [fast] * 2, LAYERS)
    assert {each.changed for each in tiny.layers} == {"same"}


def test_the_sentence_tells_what_got_faster_and_slower_and_what_boundaries_cost() -> None:
    assert conclusion("onnxruntime", found(INT8, INT8)) == (
        "In ONNX Runtime int8 takes 0.25 ms less in conv (0.4 ms in float, 0.15 ms in int8) and 0.03 ms more in gate "
        "(0.05 ms in float, 0.08 ms in int8); quantizing, dequantizing and reordering costs 0.07 ms at 2 places, 22 % "
        "of its time."
    )
