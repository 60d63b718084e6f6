"""What runtimes, and the candidates of a latency measurement, are called where people read: page, verdict, notes."""

from __future__ import annotations

from shared.quantization_spec import Runtime

RUNTIME_NAMES: dict[Runtime, str] = {"torch": "torch", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
CANDIDATE_NAMES = {
    "float_eager": "eager torch float",
    "float_channels_last": "channels-last torch float",
    "float_frozen": "frozen torch float",
    "float_onnxruntime": "ONNX Runtime float",
    "float_openvino": "OpenVINO float",
    "float_openvino_bf16": "OpenVINO bf16",
    "int8_torch": "torch int8",
    "int8_onnxruntime": "ONNX Runtime int8",
    "int8_openvino": "OpenVINO int8",
}


def candidate_name(name: str) -> str:
    """In words; a candidate that nobody named is called what the report calls it."""
    return CANDIDATE_NAMES.get(name, name)
