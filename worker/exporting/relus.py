"""The pass for ReLUs whose integers begin below zero, as in front of a concatenation: from zero on, ReLUs are free."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from worker.exporting.passes import SHAPE_OPERATORS
from worker.exporting.rewriting import add_initializer, affine_qparams, constant, nodes_of, only_reader

#: Give what they are given, and nothing below it.
_KEEPING_VALUES = frozenset({"MaxPool"}) | SHAPE_OPERATORS - {"Concat"}
_LEVELS = 255


def quantize_relus_from_zero(model: ir.Model) -> None:
    """Quantize what a ReLU gives from 0 on, where it is read with the zero point of something else. For ONNX Runtime.

    What is concatenated shares its qparams in torch, so that with a neighbour that can be negative a ReLU has a zero
    point in the midst. ONNX Runtime takes a ReLU into the convolution or sum before it only where the integers begin at
    0, and computes both in float otherwise: 40 % of a U-Net's time was the two convolutions before its skips, and a
    quarter of a DenseNet's its stem. Its concatenation takes each input with qparams of its own. With the largest value
    kept, the steps become finer: nothing is lost.
    """
    for relu in nodes_of(model, "Relu", "Clip"):
        quantize, most = only_reader(relu.outputs[0]), _most_given(relu)
        old = None if quantize is None or quantize.op_type != "QuantizeLinear" else affine_qparams(quantize)
        if quantize is None or old is None or most is None:
            continue
        scale, zero_point = old
        largest = min(scale * (_LEVELS - zero_point), most)
        if not largest > 0:
            continue  # calibration saw nothing above 0: no scale holds that
        qparams = [
            add_initializer(model, np.array(largest / _LEVELS, np.float32), f"{relu.name}_scale"),
            add_initializer(model, np.array(0, np.uint8), f"{relu.name}_zero_point"),
        ]
        _requantize(quantize, old, qparams)


def _most_given(relu: ir.Node) -> float | None:
    """The most that comes out; None where there can be less than 0."""
    if relu.op_type == "Relu":
        return math.inf
    least, most = (constant(value) for value in (*relu.inputs[1:], None, None)[:2])
    return None if least is None or most is None or least.item() != 0 else float(most.item())


def _requantize(quantize: ir.Node, old: tuple[float, int], qparams: Sequence[ir.Value]) -> None:
    """Give other qparams to a QuantizeLinear, to who reads it, and to the same values behind pools and new shapes."""
    if affine_qparams(quantize) != old:
        return
    dequantizers = [use.node for use in quantize.outputs[0].uses()]
    for node in (quantize, *dequantizers):
        for position, value in enumerate(qparams, 1):
            node.replace_input_with(position, value)
    for reader in {use.node for node in dequantizers for use in node.outputs[0].uses()}:
        for output in reader.outputs if reader.op_type in _KEEPING_VALUES else ():
            behind = only_reader(output)
            if behind is not None and behind.op_type == "QuantizeLinear":
                _requantize(behind, old, qparams)
