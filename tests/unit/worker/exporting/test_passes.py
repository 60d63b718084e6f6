"""Each pass on the smallest graph that it is for."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from worker.exporting.biases import fit_biases_into_integers, hold_biases_as_integers, shift_biases
from worker.exporting.norms import read_norms_by_scale_alone
from worker.exporting.passes import (
    average_floats,
    drop_idle_masks,
    drop_unread,
    keep_weights_in_float,
    leave_convolutions_in_float,
    multiply_without_zero_point,
    plain_softmax,
    pool_over_all,
    pool_over_integers,
    quantize_once,
    spell_out_hard_sigmoids,
)
from worker.exporting.relus import quantize_relus_from_zero
from worker.exporting.rewriting import LAYER, Array, scale_of

_HEADER = '<ir_version: 10, opset_import: ["" : 18]>'


def model_of(body: str) -> ir.Model:
    """A model of one convolution's weight and one pair of qparams; x is its input and y its output."""
    return ir.from_onnx_text(
        f"""{_HEADER}
        g (float[N, 1, 4, 4] x) => (float[N, 1, 4, 4] y)
        <float s = {{0.1}}, uint8 z = {{0}}, float ws = {{0.1}}, int8[1, 1, 1, 1] w = {{1}}>
        {{
            xq = QuantizeLinear(x, s, z)
            xd = DequantizeLinear(xq, s, z)
            wd = DequantizeLinear(w, ws)
            {body}
        }}"""
    )


def operators(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


def test_a_convolution_in_an_int8_sum_stays_quantized_where_an_activation_follows() -> None:
    model = model_of(
        """
        c = Conv(xd, wd)
        cq = QuantizeLinear(c, s, z)
        cd = DequantizeLinear(cq, s, z)
        a = Add(cd, xd)
        r = Relu(a)
        rq = QuantizeLinear(r, s, z)
        y = DequantizeLinear(rq, s, z)
        """
    )
    before = operators(model)
    leave_convolutions_in_float(model)
    drop_unread(model)
    assert operators(model) == before


def test_a_convolution_in_a_sum_that_is_read_as_floats_too_is_left_in_float() -> None:
    model = model_of(
        """
        c = Conv(xd, wd)
        cq = QuantizeLinear(c, s, z)
        cd = DequantizeLinear(cq, s, z)
        a = Add(cd, xd)
        r = Relu(a)
        rq = QuantizeLinear(r, s, z)
        rd = DequantizeLinear(rq, s, z)
        y = Sub(rd, a)
        """
    )
    before = operators(model)
    leave_convolutions_in_float(model)
    drop_unread(model)
    assert before - operators(model) == Counter(QuantizeLinear=1, DequantizeLinear=1)


_ATTENTION = """<ir_version: 10, opset_import: ["" : 18]>
    g (float[N, 2, 4, 8] q, float[N, 2, 8, 4] k, int64[4] shape) => (float[N, 2, 4, 4] y)
    <bool[1, 1, 4, 1] keeps = {1, 1, 1, LAST}, float zero = {0}, float least = {-1e9}>
    {
        expanded = Expand(keeps, shape)
        mask = Where(expanded, zero, least)
        scores = MatMul(q, k)
        masked = Add(scores, mask)
        p = Softmax<axis = -1>(masked)
        nan = IsNaN(p)
        y = Where(nan, zero, p)
    }"""


def test_a_mask_that_masks_nothing_goes_with_what_guards_the_softmax_against_it() -> None:
    model = ir.from_onnx_text(_ATTENTION.replace("LAST", "1"))
    drop_idle_masks(model)
    plain_softmax(model)
    drop_unread(model)
    assert operators(model) == Counter(MatMul=1, Softmax=1)


def test_a_mask_that_masks_something_stays() -> None:
    model = ir.from_onnx_text(_ATTENTION.replace("LAST", "0"))
    before = operators(model)
    drop_idle_masks(model)
    plain_softmax(model)
    drop_unread(model)
    assert operators(model) == before


_SQUEEZE_AND_EXCITE = """<ir_version: 10, opset_import: ["" : 18]>
    g (float[N, 2, 4, 4] x) => (float[N, 2, 4, 4] y)
    <float s = {0.05}, uint8 z = {9}, float cs = {0.004}, uint8 cz = {0}, int64[2] axes = {2, 3}>
    {
        silu = Mul(x, x)
        q = QuantizeLinear(silu, s, z)
        d = DequantizeLinear(q, s, z)
        mean = ReduceMean<keepdims = 1>(silu, axes)
        sigmoid = Sigmoid(mean)
        cq = QuantizeLinear(sigmoid, cs, cz)
        c = DequantizeLinear(cq, cs, cz)
        y = Mul(c, d)
    }"""


def squeeze_and_excite() -> ir.Model:
    """With the shapes that an exported model has."""
    model = ir.from_onnx_text(_SQUEEZE_AND_EXCITE)
    for node in model.graph:
        square = node.op_type in {"ReduceMean", "Sigmoid"} or node.inputs[0].name in {"sigmoid", "cq"}
        node.outputs[0].shape = ir.Shape(["N", 2, *([1, 1] if square else [4, 4])])
    return model


def outputs_of(model: ir.Model, x: Array) -> Array:
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    found: Array = session.run(None, {"x": x})[0]
    return found


def test_a_mean_reads_the_integers_that_others_read() -> None:
    model = squeeze_and_excite()
    pool_over_all(model)
    pool_over_integers(model)
    (pool,) = (node for node in model.graph if node.op_type == "GlobalAveragePool")
    assert pool.inputs[0] is not None
    assert pool.inputs[0].name == "d"
    assert operators(model)["ReduceMean"] == 0
    onnx.checker.check_model(ir.to_proto(model))  # nodes are in an order in which they can run


def test_a_product_without_zero_point_is_the_same_product() -> None:
    model, before = squeeze_and_excite(), squeeze_and_excite()
    multiply_without_zero_point(model)
    x = np.random.default_rng(0).normal(size=(3, 2, 4, 4)).astype(np.float32)
    assert np.allclose(outputs_of(model, x), outputs_of(before, x), atol=1e-6)
    product = next(node for node in model.graph if node.outputs[0].name == "y_Sub").inputs[0]
    assert product is not None
    image = next(each for each in product.producer().inputs if each.name != "c")
    assert not image.producer().inputs[2].const_value.numpy().any()


def test_a_convolution_before_a_sigmoid_is_left_in_float() -> None:
    model = model_of(
        """
        c = Conv(xd, wd)
        cq = QuantizeLinear(c, s, z)
        cd = DequantizeLinear(cq, s, z)
        p = Sigmoid(cd)
        pq = QuantizeLinear(p, s, z)
        y = DequantizeLinear(pq, s, z)
        """
    )
    leave_convolutions_in_float(model)
    (sigmoid,) = (node for node in model.graph if node.op_type == "Sigmoid")
    assert sigmoid.inputs[0] is not None
    assert sigmoid.inputs[0].name == "c"


def test_biases_are_shifted_by_layer_and_channel() -> None:
    model = ir.from_onnx_text(
        f"""{_HEADER}
        g (float[N, 1, 2, 2] x) => (float[N, 2, 2, 2] y)
        <float[2, 1, 1, 1] w = {{1, 1}}, float[2] b = {{1, 2}}>
        {{
            c = Conv(x, w, b)
            y = Conv<group = 2>(c, w, b)
        }}"""
    )
    first, second = model.graph
    first.metadata_props[LAYER], second.metadata_props[LAYER] = "first", "second"
    shift_biases(model, {"first": np.array([10, 20], np.float32), "second": np.zeros(3, np.float32)})
    assert np.array_equal(first.inputs[2].const_value.numpy(), [11, 22])
    assert np.array_equal(second.inputs[2].const_value.numpy(), [1, 2]), "nor what has other channels"


DEAD = """
    g (float[N, 2, 4, 4] x) => (float[N, 3, 4, 4] y)
    <float s = {0.004}, uint8 z = {0}, float[3] ws = {0.01, 1.2e-7, 0.00001},
     int8[3, 2, 1, 1] w = {7, -3, 0, 0, 100, 50}, float[3] b = {0.5, 1.5, 300.0}>
    {
        xq = QuantizeLinear(x, s, z)
        xd = DequantizeLinear(xq, s, z)
        wd = DequantizeLinear <axis = 0> (w, ws)
        c = Conv(xd, wd, b)
        cq = QuantizeLinear(c, t, z)
        y = DequantizeLinear(cq, t, z)
    }
"""


@pytest.mark.parametrize("t", [0.01, 1.5])
def test_a_bias_fits_into_the_integers_of_a_filter_that_is_all_but_zero(t: float) -> None:
    model = normed(DEAD.replace("<float s", f"<float t = {{{t}}}, float s"))
    x = np.random.default_rng(0).uniform(0, 1, (5, 2, 4, 4)).astype(np.float32)
    right = _unfused(model, x)
    wrong = _optimised(normed(DEAD.replace("<float s", f"<float t = {{{t}}}, float s")), x)
    assert np.abs(wrong - right).max() > 100 * t, "if this fails, ONNX Runtime has learnt it"
    fit_biases_into_integers(model)
    np.testing.assert_allclose(_optimised(model, x), right, atol=t * 1.001)
    scales = scale_of(next(node.inputs[1] for node in model.graph if node.op_type == "Conv"))
    assert scales is not None
    assert scales[0] == np.float32(0.01), "what fits is left alone"


def test_linears_that_share_a_bias_have_integers_of_their_own() -> None:
    model = normed(
        """
    g (float[N, 4] x) => (float[N, 2] y)
    <float s = {0.1}, float s2 = {0.2}, uint8 z = {0}, float[2] ws = {0.01, 0.02},
     int8[4, 2] w = {1, 2, 3, 4, 5, 6, 7, 8}, float[2] b = {0.5, 1.5}>
    {
        xq = QuantizeLinear(x, s, z)
        xd = DequantizeLinear(xq, s, z)
        x2q = QuantizeLinear(x, s2, z)
        x2d = DequantizeLinear(x2q, s2, z)
        wd = DequantizeLinear <axis = 1> (w, ws)
        c = Gemm(xd, wd, b)
        d = Gemm(x2d, wd, b)
        y = Add(c, d)
    }"""
    )
    x = np.random.default_rng(0).uniform(0, 20, (5, 4)).astype(np.float32)
    before = _unfused(model, x)
    hold_biases_as_integers(model)
    np.testing.assert_allclose(_optimised(model, x), before, rtol=1e-4)
    biases = {str(node.inputs[2].name) for node in model.graph if node.op_type == "Gemm" and node.inputs[2] is not None}
    assert len(biases) == 2


def test_float_layers_that_read_the_same_integers_all_keep_their_weights() -> None:
    model = normed(
        """
    g (float[N, 1, 4, 4] x) => (float[N, 1, 4, 4] y)
    <float s = {0.1}, uint8 z = {0}, float[1, 1, 1, 1] w = {0.7}>
    {
        xq = QuantizeLinear(x, s, z)
        xd = DequantizeLinear(xq, s, z)
        c = Conv(xd, w)
        d = Conv(xd, w)
        cq = QuantizeLinear(c, s, z)
        dq = QuantizeLinear(d, s, z)
        cd = DequantizeLinear(cq, s, z)
        dd = DequantizeLinear(dq, s, z)
        y = Add(cd, dd)
    }"""
    )
    x = np.random.default_rng(0).uniform(0, 12, (5, 1, 4, 4)).astype(np.float32)
    before = _unfused(model, x)
    keep_weights_in_float(model)
    names = [node.name for node in model.graph if node.name]
    assert len(set(names)) == len(names) == 2
    np.testing.assert_allclose(_optimised(model, x), before, atol=0.2)


def test_a_hard_sigmoid_is_spelled_out_as_what_it_is() -> None:
    text = """<ir_version: 10, opset_import: ["" : 18]>
        g (float[N, 2, 1, 1] x) => (float[N, 2, 1, 1] y) { y = HardSigmoid<alpha = 0.1666667, beta = 0.5>(x) }"""
    model, before = ir.from_onnx_text(text), ir.from_onnx_text(text)
    spell_out_hard_sigmoids(model)
    x = np.linspace(-5, 5, 40, dtype=np.float32).reshape(20, 2, 1, 1)
    assert operators(model) == Counter(Mul=1, Add=1, Clip=1)
    assert np.allclose(outputs_of(model, x), outputs_of(before, x), atol=1e-6)


SHUFFLED = """
    r = Reshape(xd, ends)
    rq = QuantizeLinear(r, s, z)
    rd = DequantizeLinear(rq, s, {second})
    t = Transpose <perm = [0, 1, 3, 2, 4]> (rd)
    tq = QuantizeLinear(t, s, {second})
    y = DequantizeLinear(tq, s, {second})
"""


def shuffled(second: str) -> ir.Model:
    return ir.from_onnx_text(
        f"""{_HEADER}
        g (float[N, 4, 4, 4] x) => (float[N, 2, 4, 2, 4] y)
        <float s = {{0.1}}, uint8 z = {{0}}, uint8 other = {{3}}, int64[5] ends = {{-1, 2, 2, 4, 4}}>
        {{
            xq = QuantizeLinear(x, s, z)
            xd = DequantizeLinear(xq, s, z)
            {SHUFFLED.format(second=second)}
        }}"""
    )


def test_what_is_only_given_another_shape_is_quantized_once() -> None:
    model = shuffled("z")
    before = run_model(model)
    quantize_once(model)
    drop_unread(model)
    assert operators(model) == Counter(QuantizeLinear=1, DequantizeLinear=1, Reshape=1, Transpose=1)
    np.testing.assert_array_equal(run_model(model), before)


def test_integers_that_are_read_by_other_qparams_are_another_quantization() -> None:
    model = shuffled("other")
    before = run_model(model)
    quantize_once(model)
    drop_unread(model)
    assert operators(model) == Counter(QuantizeLinear=2, DequantizeLinear=2, Reshape=1, Transpose=1)
    np.testing.assert_array_equal(run_model(model), before)


def run_model(model: ir.Model) -> Array:
    """On a fixed input, as the file says it, without any fusion."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    x = np.random.default_rng(0).uniform(0, 25, (3, 4, 4, 4)).astype(np.float32)
    return np.asarray(session.run(None, {"x": x})[0])


def test_a_float_convolution_between_integers_keeps_its_weights_in_onnx_runtime() -> None:
    """Without the pass, ONNX Runtime quantizes them with one scale for both channels, and the small one vanishes."""
    channels = "float[2, 1, 1, 1] fw = {100.0, 0.05}"
    model = ir.from_onnx_text(
        f"""{_HEADER}
        g (float[N, 2, 4, 4] x) => (float[N, 2, 4, 4] y)
        <float s = {{0.01}}, uint8 z = {{0}}, float so = {{0.001}}, {channels}>
        {{
            xq = QuantizeLinear(x, s, z)
            xd = DequantizeLinear(xq, s, z)
            c = Conv <group = 2> (xd, fw)
            cq = QuantizeLinear(c, so, z)
            y = DequantizeLinear(cq, so, z)
        }}"""
    )
    x = np.ones((1, 2, 4, 4), np.float32)
    small = [float(_optimised(model, x)[0, 1].max())]
    keep_weights_in_float(model)
    drop_unread(model)
    small.append(float(_optimised(model, x)[0, 1].max()))
    assert small == [0.0, np.float32(0.05).item()]


def _optimised(model: ir.Model, x: Array) -> Array:
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    return np.asarray(session.run(None, {"x": x})[0])


NORMED = """
    g (float[N, 1, 4, 4] x) => (float[N, 2, 4, 4] y)
    <float s = {0.1}, uint8 z = {100}, float[1] b = {0.5}, float ws = {0.1}, int8[1, 1, 1, 1] w = {7},
     float[2] gamma = {1.5, 0.5}, float[2] beta = {0.25, 0.0}, float[2] mean = {1.0, -2.0}, float[2] var = {2.0, 1.0}>
    {
        wd = DequantizeLinear(w, ws)
        c = Conv(x, wd, b)
        cq = QuantizeLinear(c, s, z)
        cd = DequantizeLinear(cq, s, z)
        r = Relu(x)
        rq = QuantizeLinear(r, s, z)
        rd = DequantizeLinear(rq, s, z)
        j = Concat <axis = 1> (cd, rd)
        n = BatchNormalization <epsilon = 0.0> (j, gamma, beta, mean, var)
        y = Identity(n)
    }
"""


def normed(body: str = NORMED) -> ir.Model:
    return ir.from_onnx_text(f"{_HEADER}{body}")


def test_a_norm_takes_the_zero_point_of_what_it_reads_upon_itself() -> None:
    model = normed()
    x = np.random.default_rng(0).uniform(-12, 12, (5, 1, 4, 4)).astype(np.float32)
    before = _unfused(model, x)
    read_norms_by_scale_alone(model)
    zero_points = [node.inputs[2].const_value for node in model.graph if node.op_type == "QuantizeLinear"]  # type: ignore[union-attr]
    assert [int(each.numpy()) for each in zero_points if each is not None] == [0, 0]
    # The shift of the convolution is in its bias; after the ReLU stands an addition.
    assert operators(model)["Add"] == 1
    np.testing.assert_allclose(_unfused(model, x), before, atol=1e-5)


def test_what_is_read_by_more_than_norms_keeps_its_zero_point() -> None:
    model = normed(NORMED.replace("y = ", "more = Conv(cd, wd)\n        y = "))
    before = [str(node) for node in model.graph]
    read_norms_by_scale_alone(model)
    assert [str(node) for node in model.graph] == before


SKIPPED = """
    g (float[N, 1, 4, 4] x) => (float[N, 2, 3, 3] y, float[N, 1, 4, 4] z)
    <float s = {0.1}, uint8 z0 = {100}, float ws = {0.1}, int8[1, 1, 1, 1] w = {7}>
    {
        xq = QuantizeLinear(x, s, z0)
        xd = DequantizeLinear(xq, s, z0)
        wd = DequantizeLinear(w, ws)
        c = Conv(xd, wd)
        r = Relu(c)
        rq = QuantizeLinear(r, s, z0)
        rd = DequantizeLinear(rq, s, z0)
        p = MaxPool <kernel_shape = [2, 2]> (rd)
        pq = QuantizeLinear(p, s, z0)
        pd = DequantizeLinear(pq, s, z0)
        m = MaxPool <kernel_shape = [2, 2]> (xd)
        mq = QuantizeLinear(m, s, z0)
        md = DequantizeLinear(mq, s, z0)
        j = Concat <axis = 1> (pd, md)
        jq = QuantizeLinear(j, s, z0)
        y = DequantizeLinear(jq, s, z0)
        z = Identity(rd)
    }
"""


@pytest.mark.parametrize(
    ("activation", "largest"), [("Relu(c)", 15.5), ("Clip(c, least, most)", 6.0), ("Clip(c, below, most)", None)]
)
def test_a_relu_before_a_concatenation_is_quantized_from_zero(activation: str, largest: float | None) -> None:
    body = SKIPPED.replace("Relu(c)", activation).replace(
        "<float s", "<float least = {0.0}, float below = {-1.0}, float most = {6.0}, float s"
    )
    model = normed(body)
    x = np.random.default_rng(0).uniform(-20, 20, (5, 1, 4, 4)).astype(np.float32)
    before = _unfused(model, x)
    quantize_relus_from_zero(model)
    zero_points = {
        node.inputs[0].name: int(_constant(node, 2)) for node in model.graph if node.op_type == "QuantizeLinear"
    }
    changed = 100 if largest is None else 0
    assert zero_points == {"x": 100, "r": changed, "p": changed, "m": 100, "j": 100}
    (quantize,) = (node for node in model.graph if node.inputs[0] is not None and node.inputs[0].name == "r")
    if largest is not None:
        assert _constant(quantize, 1) * 255 == pytest.approx(largest)
    np.testing.assert_allclose(_unfused(model, x), before, atol=0.1 + 1e-5)  # a step


def _constant(node: ir.Node, position: int) -> float:
    value = node.inputs[position]
    assert value is not None
    assert value.const_value is not None
    return float(value.const_value.numpy())


def _unfused(model: ir.Model, x: Array) -> Array:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    return np.asarray(session.run(None, {"x": x})[0])


def test_a_pool_reads_floats_unless_others_read_its_integers() -> None:
    alone = "p = AveragePool <kernel_shape = [2, 2]> (xd)"
    model = model_of(f"{alone} y = Identity(p)")
    average_floats(model)
    (pool,) = (node for node in model.graph if node.op_type == "AveragePool")
    assert pool.inputs[0] is model.graph.inputs[0]
    model = model_of(f"{alone} c = Conv(xd, wd) y = Identity(c)")
    average_floats(model)
    (pool,) = (node for node in model.graph if node.op_type == "AveragePool")
    assert pool.inputs[0] is not model.graph.inputs[0]
