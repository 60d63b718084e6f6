"""The time of each operator of a file in its runtime, and what that makes of the user's layers.

    operators             what all runtimes tell alike of an operator
    onnx_layers           which layer an operator is of, whose ONNX node a runtime renamed or fused
    onnx_runtime          by its profiler
    openvino_counters     by its performance counters
    torch_script          by moments that the graph itself notes between its operators
    attributing           float and int8 side by side: layers, quant boundaries, the rest
    telling               the same in a sentence

Layers carry the user's names: `exporting` writes them into ONNX files, and TorchScript keeps of each operator the
line of the traced graph that it came from.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from torch import Tensor

from shared.quantization_spec import Runtime
from worker.layer_times.attributing import attributed
from worker.layer_times.operators import WARM_UP_RUNS, CannotTime, Operator, OperatorTimer, TimedFile
from worker.layer_times.telling import METHODS, compared, conclusion

__all__ = [
    "METHODS",
    "WARM_UP_RUNS",
    "CannotTime",
    "Operator",
    "OperatorTimer",
    "TimedFile",
    "attributed",
    "compared",
    "conclusion",
    "open_timed",
]

_TIMERS = {
    "torch": ("worker.layer_times.torch_script", "TorchScriptTimer"),
    "onnxruntime": ("worker.layer_times.onnx_runtime", "OnnxRuntimeTimer"),
    "openvino": ("worker.layer_times.openvino_counters", "OpenVinoTimer"),
}


def open_timed(runtime: Runtime, file: TimedFile, inputs: Sequence[Tensor], threads: int) -> OperatorTimer:
    """Load a file in its runtime so that each operator is timed. Raises ModelFailed, CannotTime."""
    module, name = _TIMERS[runtime]
    timer: OperatorTimer = getattr(importlib.import_module(module), name)(file, inputs, threads)
    return timer
