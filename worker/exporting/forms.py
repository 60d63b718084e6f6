"""The form of an ONNX model that each runtime fuses into its int8 kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx_ir as ir

from shared.quantization_spec import Runtime
from worker.exporting.biases import fit_biases_into_integers, hold_biases_as_integers, shift_biases
from worker.exporting.norms import read_norms_by_scale_alone
from worker.exporting.passes import (
    average_floats,
    drop_idle_masks,
    drop_unread,
    fold_transposed_weights,
    keep_weights_in_float,
    leave_convolutions_in_float,
    leave_linears_in_float,
    multiply_without_zero_point,
    plain_softmax,
    pool_greatest_over_all,
    pool_over_all,
    pool_over_integers,
    quantize_once,
    quantize_sigmoids,
    spell_out_hard_sigmoids,
)
from worker.exporting.relus import quantize_relus_from_zero
from worker.exporting.rewriting import Array

_Pass = Callable[[ir.Model], None]
_FOR_ALL: tuple[_Pass, ...] = (
    fold_transposed_weights,
    drop_idle_masks,
    plain_softmax,
    pool_over_all,
    pool_over_integers,
    leave_linears_in_float,
)

#: By runtime, the passes in order.
FORMS: Mapping[Runtime, tuple[_Pass, ...]] = {
    "onnxruntime": (
        *_FOR_ALL,
        quantize_sigmoids,
        quantize_relus_from_zero,
        fit_biases_into_integers,  # from here on: a bias has the step of what is read, which those above change
        hold_biases_as_integers,
        keep_weights_in_float,
        drop_unread,
    ),
    "openvino": (
        *_FOR_ALL,
        pool_greatest_over_all,
        average_floats,
        quantize_once,
        read_norms_by_scale_alone,
        leave_convolutions_in_float,
        spell_out_hard_sigmoids,
        multiply_without_zero_point,
        drop_unread,
    ),
}


def in_form(model: ir.Model, runtime: Runtime, shifts: Mapping[str, Array] | None = None) -> ir.Model:
    """A copy of an exported reference graph in the form for this runtime; weights are shared, not copied.

    `shifts` go into the biases for OpenVINO, which does not round what it computes a sigmoid of within a product.
    """
    formed = model.clone()
    if runtime == "openvino":
        shift_biases(formed, shifts or {})
    for apply in FORMS[runtime]:
        apply(formed)
    return formed
