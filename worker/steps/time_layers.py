"""Time layers: every measured artifact operator by operator, beside the float model in the same runtime."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from shared.errors import ModelFailed
from shared.latency_report import BenchmarkResult
from shared.layer_report import LayerSummary
from shared.layer_times import LayerTimes
from shared.quantization_spec import Runtime
from worker.candidate_names import RUNTIME_NAMES, candidate_name, int8_in
from worker.latency import computing_with
from worker.layer_times import (
    METHODS,
    WARM_UP_RUNS,
    CannotTime,
    Operator,
    TimedFile,
    attributed,
    compared,
    conclusion,
    open_timed,
)
from worker.pinning import pinned_to
from worker.progress import ProgressTracker, StepProgress

_OPENINGS = 3  # each gives one figure: what differs between them is noise
_ENOUGH_SECONDS = 1.0  # for one artifact: then two openings must do
_SECONDS = 0.5  # of running, for one artifact;
_LEAST_RUNS, _MOST_RUNS = 5, 40  # within an opening all the same
_LITTLE_SECONDS = 2.0  # or else only the fastest artifact is timed
_SHARE_OF_TIME_LEFT = 0.5
_MOST_SURPLUS_MS = 0.002


@dataclass(frozen=True)
class Pair:
    """An artifact, and the float model for the same runtime."""

    float_candidate: str
    """What the latter is called in the measurement."""
    of_float: TimedFile
    int8: TimedFile


def time_layers(
    pairs: Mapping[Runtime, Pair],
    layers: Sequence[LayerSummary],
    headline: BenchmarkResult,
    inputs: Sequence[Tensor],
    *,
    max_seconds: float,
    ends_at_seconds: float | None,
    tracker: ProgressTracker,
    advance: StepProgress,
) -> list[LayerTimes]:
    """The fastest artifact first, the others where that costs little; one that cannot be timed is told, and left out.

    Of a slow model those that were not measured are not timed either, and that is told already.
    `headline` is what was measured undisturbed, at the batch size and threads that operators are timed with.
    """
    spent = tracker.elapsed_seconds
    ends_at = math.inf if ends_at_seconds is None else spent + _SHARE_OF_TIME_LEFT * (ends_at_seconds - spent)
    order = [each.name for each in headline.speedups]
    found: list[LayerTimes] = []
    wanted = sorted(
        ((runtime, pair) for runtime, pair in pairs.items() if int8_in(runtime) in order),
        key=lambda each: order.index(int8_in(each[0])),
    )
    for position, (runtime, pair) in enumerate(wanted):
        advance(position, len(wanted), f"Timing each layer in {RUNTIME_NAMES[runtime]}")
        left = ends_at - tracker.elapsed_seconds
        if position > 0:
            left = min(left, _LITTLE_SECONDS)
        try:
            timing = _Timing(runtime, pair, headline, inputs, max_seconds=min(max_seconds, _SECONDS))
            found.append(timing.taken(layers, left))
        except (CannotTime, ModelFailed) as error:
            _tell(tracker, runtime, getattr(error, "message", str(error)))
        except Exception:  # noqa: BLE001 - a profiler's bug must not cost the artifacts that are measured already
            traceback.print_exc()
            _tell(tracker, runtime, "its profiler failed in a way that nobody foresaw")
    return found


def _tell(tracker: ProgressTracker, runtime: Runtime, reason: str) -> None:
    tracker.warn("layers_not_timed", f"Layers are not timed in {RUNTIME_NAMES[runtime]}: {reason}.")


class _Timing:
    """One artifact."""

    def __init__(
        self, runtime: Runtime, pair: Pair, headline: BenchmarkResult, inputs: Sequence[Tensor], *, max_seconds: float
    ) -> None:
        self._runtime = runtime
        self._pair = pair
        self._headline = headline
        self._inputs = inputs
        self._names = (pair.float_candidate, int8_in(runtime))
        p50s = {each.name: each.p50_ms for each in headline.candidates}
        if missing := [name for name in self._names if name not in p50s]:
            raise CannotTime(f"{candidate_name(missing[0])} was not measured")
        self._p50s_ms = [p50s[name] for name in self._names]
        in_turn = sum(self._p50s_ms) / 1000
        self._runs = max(_LEAST_RUNS, min(_MOST_RUNS, int(max_seconds / _OPENINGS / in_turn)))
        self._least_seconds = (WARM_UP_RUNS + self._runs) * in_turn  # of one opening, and what that itself takes

    def taken(self, layers: Sequence[LayerSummary], max_seconds: float) -> LayerTimes:
        """Open both files anew as often as there is time for. Raises CannotTime where there is not for once."""
        if self._least_seconds > max_seconds:
            raise CannotTime(
                f"that takes {self._least_seconds:.3g} s or more, and there are {max_seconds:.3g} s for it"
            )
        began_at = time.perf_counter()
        floats: list[list[Operator]] = []
        int8s: list[list[Operator]] = []
        with computing_with(self._headline.threads), pinned_to(self._headline.cores):
            while len(floats) < _OPENINGS:
                of_float, int8 = self._opened_once()
                floats.append(of_float)
                int8s.append(int8)
                spent = time.perf_counter() - began_at
                if spent > max_seconds * len(floats) / (len(floats) + 1) or (
                    len(floats) > 1 and spent > _ENOUGH_SECONDS
                ):
                    break
        surplus = _surplus_ms(self._runtime, (floats, int8s), self._p50s_ms)
        found = attributed(_less(floats, surplus), _less(int8s, surplus), layers)
        return LayerTimes(
            float_candidate=self._names[0],
            int8_candidate=self._names[1],
            batch_size=self._headline.batch_size,
            threads=self._headline.threads,
            cores=self._headline.cores,
            openings=len(floats),
            runs=self._runs,
            layers=found.layers,
            boundaries=found.boundaries,
            others=found.others,
            float_ms=found.float_ms,
            int8_ms=found.int8_ms,
            float_p50_ms=self._p50s_ms[0],
            int8_p50_ms=self._p50s_ms[1],
            subtracted_ms=surplus,
            boundaries_ms=found.boundaries_ms,
            float_reorders_ms=found.float_reorders_ms,
            conclusion=conclusion(self._runtime, found),
            method=f"{METHODS[self._runtime]} {compared(found, *self._p50s_ms)}",
        )

    def _opened_once(self) -> tuple[list[Operator], list[Operator]]:
        files = (self._pair.of_float, self._pair.int8)
        timers = [open_timed(self._runtime, file, self._inputs, self._headline.threads) for file in files]
        with torch.inference_mode():
            for timer in timers:  # one after the other: run in turn, each would find the other's weights in the caches
                for _ in range(WARM_UP_RUNS + self._runs):
                    timer.run()
        of_float, int8 = (timer.operators() for timer in timers)
        return of_float, int8


def _surplus_ms(runtime: Runtime, models: Sequence[list[list[Operator]]], p50s_ms: Sequence[float]) -> float:
    """What ONNX Runtime's profiler takes for one operator: by how much all of them exceed the undisturbed runs.

    It adds 1.5 µs to every operator, as much as a reshape takes altogether: a layer of several would seem slow. More
    than two is not its doing.
    """
    if runtime != "onnxruntime":
        return 0.0
    operators = [each for openings in models for each in openings[0]]
    excess_ms = sum(each.ms for each in operators) - sum(p50s_ms)
    return min(_MOST_SURPLUS_MS, max(0.0, excess_ms / len(operators)))


def _less(openings: Sequence[Sequence[Operator]], surplus_ms: float) -> list[list[Operator]]:
    return [[replace(each, ms=max(0.0, each.ms - surplus_ms)) for each in operators] for operators in openings]
