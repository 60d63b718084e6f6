"""ONNX Runtime's own dynamic quantizer, on the float model as ONNX.

https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html#dynamic-quantization
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import onnx_ir as ir
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.shape_inference import quant_pre_process

from worker.exporting.rewriting import layers_by_node

_MOST_IN_ONE_FILE = 3 * 2**29  # of the 2 GiB that a protobuf message may have
_QUANTIZED = frozenset({"Gemm", "LSTM", "MatMul"})


def quantize_onnx_dynamically(source: Path, target: Path, *, float_layers: Collection[str], scratch: Path) -> None:
    """Write the file with int8 weights a channel, but for the layers named; ranges of what they read come at run time.

    Preparing it folds what an LSTM's weights are put together from: without that it stays in float.
    """
    prepared = scratch / "prepared.onnx"
    whole = _in_one_file(source, scratch)
    quant_pre_process(whole, prepared, skip_symbolic_shape=True, skip_onnx_shape=True)  # the exporter told all
    layers = layers_by_node(ir.load(source))
    skipped = [
        name
        for node in ir.load(prepared).graph
        if node.op_type in _QUANTIZED and _layer_of(str(node.name), layers) in float_layers
        for name in (str(node.name), f"{node.name}_MatMul")  # the quantizer splits a Gemm first
    ]
    quantize_dynamic(
        prepared,
        target,
        op_types_to_quantize=sorted(_QUANTIZED),
        nodes_to_exclude=skipped,
        per_channel=True,
        weight_type=QuantType.QInt8,
        extra_options={"MatMulConstBOnly": True},
    )
    prepared.unlink()
    if whole != source:
        whole.unlink()


def _in_one_file(source: Path, scratch: Path) -> Path:
    """The model with its weights, as preparing needs it: of another file it would lose sight; a large one stays."""
    weights = source.with_name(f"{source.name}.data")
    if not weights.exists() or weights.stat().st_size > _MOST_IN_ONE_FILE:
        return source
    whole = scratch / "whole.onnx"
    ir.save(ir.external_data.load_to_model(ir.load(source)), whole)
    return whole


def _layer_of(name: str, layers: dict[str, str]) -> str | None:
    """Preparing fuses nodes, and names them after the first of them and the fusion."""
    return layers.get(name) or layers.get(name.split("/", maxsplit=1)[0])
