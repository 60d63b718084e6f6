"""ONNX Runtime: https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir
import onnxruntime
import torch
from torch import Tensor

from shared.errors import ModelFailed
from worker.runtimes.session import Kernels, SessionSettings

_INT8_OPERATORS = frozenset({
    "ConvInteger", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "MatMulInteger", "MatMulIntegerToFloat",
    "QAttention", "QGemm", "QLinearConv", "QLinearMatMul",
})  # fmt: skip
_FLOAT_OPERATORS = frozenset({
    "Attention", "Conv", "ConvTranspose", "FusedConv", "FusedGemm", "FusedMatMul", "GRU", "Gemm", "LSTM", "MatMul",
    "RNN",
})  # fmt: skip
_QUIET = 3  # errors only


class OnnxRuntimeSession:
    """A `.onnx` file in ONNX Runtime, on its CPU kernels alone."""

    def __init__(
        self,
        path: Path,
        settings: SessionSettings,
        adjust: Callable[[onnxruntime.SessionOptions], None] = lambda _: None,
    ) -> None:
        self._path = path
        self._settings = settings
        options = _options(settings)
        adjust(options)
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions have no base of their own
            raise ModelFailed(f"ONNX Runtime does not take {path.name}: {_first_line(error)}") from error
        self._names = [each.name for each in self._session.get_inputs()]

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The outputs, in order. Raises ModelFailed when the runtime raises."""
        try:
            return [torch.from_numpy(each) for each in self._session.run(None, self._fed(inputs))]
        except Exception as error:  # its exceptions have no base of their own
            raise ModelFailed(f"ONNX Runtime raised: {_first_line(error)}") from error

    def bound(self, inputs: Sequence[Tensor]) -> Callable[[], Any]:
        """A call on these inputs, to be timed."""
        return functools.partial(self._session.run, None, self._fed(inputs))

    def kernels(self) -> Kernels:
        """Read from the graph that ONNX Runtime made of the file, and runs."""
        with tempfile.TemporaryDirectory() as scratch:
            options = _options(self._settings)
            options.optimized_model_filepath = str(Path(scratch) / "optimized.onnx")
            onnxruntime.InferenceSession(self._path, options, providers=["CPUExecutionProvider"])
            graph = ir.load(options.optimized_model_filepath).graph
            weighted = [node for node in graph if _has_weight(node)]
            return Kernels(
                int8=tuple(_named(node) for node in weighted if node.op_type in _INT8_OPERATORS),
                floating=tuple(_named(node) for node in weighted if node.op_type in _FLOAT_OPERATORS),
            )

    def end_profiling(self) -> Path:
        """What the profiler wrote, where `adjust` turned it on."""
        return Path(self._session.end_profiling())

    def _fed(self, inputs: Sequence[Tensor]) -> dict[str, Any]:
        return {name: tensor.contiguous().numpy() for name, tensor in zip(self._names, inputs, strict=True)}


def _options(settings: SessionSettings) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = settings.threads
    options.log_severity_level = _QUIET
    for key, value in settings.options.items():
        options.add_session_config_entry(key, value)
    return options


def _has_weight(node: ir.Node) -> bool:
    """Whether an operator multiplies by something of the model's own: the products inside of attention do not."""
    return any(value is not None and _is_constant(value) for value in node.inputs[1:])


def _is_constant(value: ir.Value) -> bool:
    """Whether a value is the model's own, or dequantized from it: what was not fused."""
    maker = value.producer()
    if maker is not None and maker.op_type == "DequantizeLinear" and maker.inputs[0] is not None:
        value = maker.inputs[0]
    return value.const_value is not None


def _named(node: ir.Node) -> str:
    return node.name or node.op_type


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
