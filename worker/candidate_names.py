"""What runtimes, and the candidates of a latency measurement, are called: in reports, and where people read."""

from __future__ import annotations

from shared.quantization_spec import Runtime

RUNTIME_NAMES: dict[Runtime, str] = {"torch": "torch", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}

FLOAT_EAGER = "float_eager"
FLOAT_CHANNELS_LAST = "float_channels_last"
FLOAT_FROZEN = "float_frozen"
FLOAT_OPENVINO_BF16 = "float_openvino_bf16"


def float_in(runtime: Runtime) -> str:
    """What the float model in a runtime other than torch is called in a report."""
    return f"float_{runtime}"


def int8_in(runtime: Runtime) -> str:
    """What the artifact for a runtime is called in a report."""
    return f"int8_{runtime}"


CANDIDATE_NAMES = {
    FLOAT_EAGER: "eager torch float",
    FLOAT_CHANNELS_LAST: "channels-last torch float",
    FLOAT_FROZEN: "frozen torch float",
    **{float_in(runtime): f"{name} float" for runtime, name in RUNTIME_NAMES.items() if runtime != "torch"},
    FLOAT_OPENVINO_BF16: "OpenVINO bf16",
    **{int8_in(runtime): f"{name} int8" for runtime, name in RUNTIME_NAMES.items()},
}


FORM_NAMES: dict[str, str] = {
    "eager": "eager torch",
    "channels_last": "channels-last torch",
    "frozen": "frozen torch",
    "torch": "torch",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "openvino_bf16": "OpenVINO bf16",
}


def candidate_name(name: str) -> str:
    """In words, also a form of a benchmark; what nobody named is called what the report calls it."""
    return CANDIDATE_NAMES.get(name) or form_name(name)


def candidate_of(form: str) -> str:
    """`resnet18` of `resnet18/openvino`."""
    return form.rpartition("/")[0]


def form_name(name: str) -> str:
    """`resnet18 in OpenVINO` of `resnet18/openvino`."""
    candidate, _, kind = name.rpartition("/")
    return f"{candidate} in {FORM_NAMES[kind]}" if kind in FORM_NAMES else name
