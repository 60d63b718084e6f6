"""OpenVINO's performance counters: `ov::enable_profiling`, read by `get_profiling_info`.

They hold the mean over all runs since the file was opened, in whole microseconds. What warming up took is subtracted.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from worker.layer_times.onnx_layers import OnnxLayers
from worker.layer_times.operators import WARM_UP_RUNS, Operator, TimedFile
from worker.runtimes import SessionSettings
from worker.runtimes.openvino_runtime import OpenVinoSession

_NO_OPERATORS = frozenset({"Const", "Input", "Output"})


class OpenVinoTimer:
    """A file in OpenVINO with its counters on."""

    def __init__(self, file: TimedFile, inputs: Sequence[Tensor], threads: int) -> None:
        self._layers = OnnxLayers(file.path, file.original)
        options = {**file.options, "PERF_COUNT": "YES"}
        self._session = OpenVinoSession(file.path, SessionSettings(threads=threads, options=options))
        self._call = self._session.bound(inputs)
        self._runs = 0
        self._warm_up: dict[str, float] = {}

    def run(self) -> None:
        """Run it once."""
        self._call()
        self._runs += 1
        if self._runs == WARM_UP_RUNS:
            self._warm_up = self._session.mean_times_ms()

    def operators(self) -> list[Operator]:
        """Those of the graph that OpenVINO compiled."""
        means = self._session.mean_times_ms()
        found = [
            Operator(
                name=node.name,
                kind=node.kind,
                ms=self._after_warm_up(node.name, means.get(node.name, 0.0)),
                layers=tuple(dict.fromkeys(layer for each in node.originals for layer in self._layers.of(each))),
                reads=node.reads,
            )
            for node in self._session.runtime_graph()
            if node.kind not in _NO_OPERATORS
        ]
        return self._layers.with_unnamed(found)

    def _after_warm_up(self, name: str, mean: float) -> float:
        counted = self._runs - WARM_UP_RUNS
        return max(0.0, mean * self._runs - self._warm_up.get(name, 0.0) * WARM_UP_RUNS) / counted
