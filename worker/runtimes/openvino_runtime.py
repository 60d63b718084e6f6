"""OpenVINO: https://docs.openvino.ai/2026/openvino-workflow/running-inference/inference-devices-and-modes/cpu-device.html."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import openvino
import torch
from torch import Tensor

from shared.errors import ModelFailed
from worker.runtimes.session import PRECISION, Kernels, SessionSettings, last_line

#: Kinds of operators in OpenVINO's own graph that multiply by weights.
_WEIGHTED = frozenset({"Convolution", "Deconvolution", "FullyConnected", "RNNCell", "RNNSeq"})
_INT8_SUFFIX = "I8"  # of the kernel's name, such as brgconv_avx512_I8


@dataclass(frozen=True)
class RuntimeNode:
    """A node of the graph that OpenVINO made of a file."""

    name: str
    kind: str
    """Such as `Convolution`."""
    kernel: str
    """Such as `brgconv_avx512_I8`."""
    originals: tuple[str, ...]
    """The nodes of the file that it computes, and some of OpenVINO's own."""
    reads: tuple[str, ...]
    """The nodes whose outputs it reads."""


class OpenVinoSession:
    """An `.onnx` file in OpenVINO, on the CPU."""

    def __init__(self, path: Path, settings: SessionSettings) -> None:
        core = openvino.Core()
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": settings.threads,
            "ENABLE_CPU_PINNING": False,  # cores are chosen by whoever measures
            PRECISION: "f32",  # otherwise it takes bf16 where the CPU has it, and rounds
            **settings.options,
        }
        try:
            self._compiled = core.compile_model(core.read_model(path), "CPU", options)
        except RuntimeError as error:
            raise ModelFailed(f"OpenVINO does not take {path.name}: {last_line(error)}") from error
        self._request = self._compiled.create_infer_request()

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The outputs, in order. Raises ModelFailed when the runtime raises."""
        try:
            # Not copied into what the request holds: after a bound call that is an array of the size of its batch.
            found = self._request.infer(self._fed(inputs), share_inputs=True)
        except RuntimeError as error:
            raise ModelFailed(f"OpenVINO raised: {last_line(error)}") from error
        return [torch.from_numpy(found[output].copy()) for output in self._compiled.outputs]

    def bound(self, inputs: Sequence[Tensor]) -> Callable[[], Any]:
        """A call on these inputs, to be timed."""
        return functools.partial(self._request.infer, self._fed(inputs), share_inputs=True, share_outputs=True)

    def kernels(self) -> Kernels:
        """Read from the graph that OpenVINO compiled."""
        weighted = [each for each in self.runtime_graph() if each.kind in _WEIGHTED]
        return Kernels(
            int8=tuple(each.name for each in weighted if each.kernel.endswith(_INT8_SUFFIX)),
            floating=tuple(each.name for each in weighted if not each.kernel.endswith(_INT8_SUFFIX)),
        )

    def runtime_graph(self) -> list[RuntimeNode]:
        """The graph that OpenVINO compiled, in the order in which it runs."""
        return [
            RuntimeNode(
                name=node.get_friendly_name(),
                kind=_text(told["layerType"]),
                kernel=_text(told["primitiveType"]),
                originals=tuple(filter(None, _text(told["originalLayersNames"]).split(","))),
                reads=tuple(value.get_node().get_friendly_name() for value in node.input_values()),
            )
            for node in self._compiled.get_runtime_model().get_ordered_ops()
            for told in (node.get_rt_info(),)
        ]

    def mean_times_ms(self) -> dict[str, float]:
        """By name of a node, over all runs since the file was opened; where `PERF_COUNT` was among the options."""
        return {
            each.node_name: each.real_time / timedelta(milliseconds=1)
            for each in self._request.get_profiling_info()
            if each.real_time
        }

    def _fed(self, inputs: Sequence[Tensor]) -> list[Any]:
        """As arrays; OpenVINO 2026.4 answers a shape that does not fit with an empty output, and no error."""
        for expected, tensor in zip(self._compiled.inputs, inputs, strict=True):
            if not expected.partial_shape.compatible(openvino.PartialShape(list(tensor.shape))):
                raise ModelFailed(
                    f"OpenVINO raised: the model takes {expected.partial_shape}, not {tuple(tensor.shape)}"
                )
        return [tensor.contiguous().numpy() for tensor in inputs]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(value.astype(str))
