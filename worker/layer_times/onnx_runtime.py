"""ONNX Runtime's profiler: https://onnxruntime.ai/docs/performance/tune-performance/profiling-tools.html."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir
import onnxruntime
from torch import Tensor

from worker.layer_times.onnx_layers import OnnxLayers, producers
from worker.layer_times.operators import WARM_UP_RUNS, Operator, TimedFile, typical
from worker.runtimes import SessionSettings
from worker.runtimes.onnx_runtime import OnnxRuntimeSession

_SUFFIX = "_kernel_time"
#: Where ONNX Runtime put them in.
_REORDERING = frozenset({"ReorderInput", "ReorderOutput", "Transpose"})


class OnnxRuntimeTimer:
    """A file in ONNX Runtime with its profiler on; the graph that it made of the file says what each operator is of."""

    def __init__(self, file: TimedFile, inputs: Sequence[Tensor], threads: int) -> None:
        self._scratch = tempfile.TemporaryDirectory()
        self._optimized = Path(self._scratch.name) / "optimized.onnx"
        self._layers = OnnxLayers(file.path, file.original)

        def profiled(options: onnxruntime.SessionOptions) -> None:
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(self._scratch.name) / "profile")
            options.optimized_model_filepath = str(self._optimized)

        self._session = OnnxRuntimeSession(file.path, SessionSettings(threads=threads), adjust=profiled)
        self._call = self._session.bound(inputs)

    def run(self) -> None:
        """Run it once."""
        self._call()

    def operators(self) -> list[Operator]:
        """Those of the main graph: the time of one that holds a graph of its own is that of all inside."""
        durations: dict[str, list[float]] = {}
        with self._scratch:
            for event in json.loads(self._session.end_profiling().read_bytes()):
                if event.get("cat") == "Node" and event["name"].endswith(_SUFFIX):
                    durations.setdefault(event["name"].removesuffix(_SUFFIX), []).append(event["dur"] / 1000)
            graph = ir.load(self._optimized).graph
        nodes = {str(node.name): node for node in graph}
        read = producers(
            {name: [str(value.name) for value in node.outputs] for name, node in nodes.items()},
            {name: [str(value.name) for value in node.inputs if value is not None] for name, node in nodes.items()},
        )
        found = [
            Operator(
                name=name,
                kind=node.op_type,
                ms=typical(durations[name][WARM_UP_RUNS:]),
                layers=self._layers_of(node),
                reads=read[name],
            )
            for name, node in nodes.items()
            if name in durations
        ]
        return self._layers.with_fused(found)

    def _layers_of(self, node: ir.Node) -> tuple[str, ...]:
        named = self._layers.of(str(node.name))
        if node.op_type in _REORDERING and not named:
            return ()  # it gives a value of some layer, in another layout
        constants = [value for value in node.inputs if value is not None and value.const_value is not None]
        return self._layers.of(str(node.name), [str(value.name) for value in (*node.outputs, *constants)])
