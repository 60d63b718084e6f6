"""Each pass on the smallest graph that it is for."""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir

from worker.exporting.passes import drop_unread, leave_convolutions_in_float

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
