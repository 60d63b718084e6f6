"""What executes an artifact: torch, ONNX Runtime, OpenVINO. A worker has those whose packages are installed."""

from __future__ import annotations

import importlib
from pathlib import Path

from shared.errors import ModelFailed
from shared.quantization_spec import Runtime
from worker.runtimes.in_memory import EagerSession
from worker.runtimes.session import PRECISION, Kernels, Session, SessionSettings, called

__all__ = ["PRECISION", "EagerSession", "Kernels", "Session", "SessionSettings", "called", "open_session"]

# Imported when the first file is opened: together they take a second and 100 MiB, and none is always there.
_SESSIONS = {
    "torch": ("worker.runtimes.torch_script", "TorchSession"),
    "onnxruntime": ("worker.runtimes.onnx_runtime", "OnnxRuntimeSession"),
    "openvino": ("worker.runtimes.openvino_runtime", "OpenVinoSession"),
}


def open_session(runtime: Runtime, path: Path, settings: SessionSettings) -> Session:
    """Load a file in its runtime. Raises ModelFailed when the runtime refuses it, and does not say where it lies."""
    module, name = _SESSIONS[runtime]
    try:
        session: Session = getattr(importlib.import_module(module), name)(path, settings)
    except ModelFailed as error:
        raise ModelFailed(error.message.replace(f"{path.parent}/", "")) from error
    return session
