"""What runtimes, and the candidates of a latency measurement, are called where people read."""

from __future__ import annotations

RUNTIME_NAMES = {"torch": "torch", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
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


def runtime_name(runtime: str) -> str:
    """In words; one of a later server keeps the name that the report gives it."""
    return RUNTIME_NAMES.get(runtime, runtime)


FORM_NAMES = {
    "eager": "eager torch",
    "channels_last": "channels-last torch",
    "frozen": "frozen torch",
    "torch": "torch",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "openvino_bf16": "OpenVINO bf16",
}


def candidate_name(name: str) -> str:
    """In words, also a form of a benchmark; one of a later server keeps the name that the report gives it."""
    return CANDIDATE_NAMES.get(name) or form_name(name)


def form_name(name: str) -> str:
    """`resnet18 in OpenVINO` of `resnet18/openvino`."""
    candidate, _, kind = name.rpartition("/")
    return f"{candidate} in {FORM_NAMES[kind]}" if kind in FORM_NAMES else name
