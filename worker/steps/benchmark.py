"""Benchmark: candidates against each other, at every batch size and thread count."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import product
from typing import Protocol, TypeVar

import torch
from torch import fx

from shared.benchmark_report import ComparisonResult
from shared.errors import ModelFailed
from shared.latency_report import BenchmarkResult, Roofline
from shared.quantization_spec import BenchmarkSettings
from worker.candidate_names import candidate_name
from worker.datasets import Samples
from worker.energy import COUNTED, LEAST_RUNS, SECONDS, energy_counter, why_no_energy
from worker.inference import Reference, batch_of, run_model
from worker.latency import INT8, Candidate, computing_with, measure_latency
from worker.pinning import available_cores, pinned_to
from worker.progress import ProgressTracker, StepProgress
from worker.quantization import collect_garbage, layer_macs
from worker.roofline import int8_peak_gmacs_per_second
from worker.runtimes import called
from worker.steps.contenders import Contender
from worker.steps.load import LoadedModel
from worker.steps.slow_models import Kind, worth_rounds

_SHARE_OF_TIME_LEFT = 0.8  # the rest is for what comes after

Result = TypeVar("Result", BenchmarkResult, ComparisonResult)
Measured_co = TypeVar("Measured_co", covariant=True)


class Measure(Protocol[Measured_co]):
    """Measures candidates that are open and bound to a batch."""

    def __call__(
        self,
        candidates: Mapping[str, Candidate],
        *,
        batch_size: int,
        threads: int,
        max_seconds: float,
        advance: Callable[[float], None],
    ) -> Measured_co:
        """What was measured."""


def benchmark(
    model: LoadedModel,
    candidates: Mapping[str, Contender],
    samples: Samples,
    settings: BenchmarkSettings,
    *,
    int8: Collection[str] = (INT8,),
    ends_at_seconds: float | None = None,
    seed: int,
    tracker: ProgressTracker,
    advance: StepProgress,
) -> list[BenchmarkResult]:
    """Measure every combination of models; those named in `int8` against the others."""
    macs, peaks = _macs(model), dict[int, float | None]()

    def against_float(
        candidates: Mapping[str, Candidate],
        *,
        batch_size: int,
        threads: int,
        max_seconds: float,
        advance: Callable[[float], None],
    ) -> BenchmarkResult:
        result = measure_latency(
            candidates,
            int8=int8,
            batch_size=batch_size,
            threads=threads,
            max_seconds=max_seconds,
            seed=seed,
            advance=advance,
        )
        if macs and threads not in peaks:
            with computing_with(threads), pinned_to(result.cores):
                peaks[threads] = int8_peak_gmacs_per_second()
        return result.model_copy(update={"roofline": _roofline(result, macs, peaks.get(threads))})

    in_float = [name for name in candidates if name not in int8]
    return measure_combinations(
        model.reference,
        candidates,
        samples,
        settings,
        against_float,
        kinds=[Kind(in_float), Kind(list(int8))],
        ends_at_seconds=ends_at_seconds,
        tracker=tracker,
        advance=advance,
    )


def measure_combinations(
    reference: Reference,
    candidates: Mapping[str, Contender],
    samples: Samples,
    settings: BenchmarkSettings,
    measure: Measure[Result],
    *,
    kinds: Sequence[Kind],
    ends_at_seconds: float | None,
    tracker: ProgressTracker,
    advance: StepProgress,
) -> list[Result]:
    """Measure the candidates, opened anew, at every batch size with every thread count; of a slow kind one.

    A batch size that they do not all take is measured at one that they do, more threads than there are cores with all
    cores, and noted. What would not end by `ends_at_seconds` of the job is told before and shortened alike for all
    combinations; those that still do not fit are left out.
    """
    thread_counts = _possible_threads(settings.threads, tracker)
    inputs = batch_of(samples, reference.batch.clamp(settings.batch_sizes[0]))
    with contextlib.suppress(ModelFailed):  # at this size, which will be found again
        candidates = worth_rounds(
            candidates, kinds, inputs, reference.batch, threads=next(iter(thread_counts)), tracker=tracker
        )
    batch_sizes = _possible_batch_sizes(reference, candidates, samples, settings.batch_sizes, tracker)
    combinations = list(product(batch_sizes.items(), thread_counts.items()))
    time_left = _TimeLeft(len(combinations), settings.max_seconds, ends_at_seconds, tracker)
    results: list[Result] = []
    runs: dict[str, Candidate] = {}
    for position, ((batch_size, batch_note), (threads, threads_note)) in enumerate(combinations):
        if time_left.is_over(position):
            break
        inputs = batch_of(samples, batch_size)
        runs.clear()
        collect_garbage(sum(each.size_bytes for each in candidates.values()))  # what was run before
        runs |= {name: each.open(threads).bound(inputs) for name, each in candidates.items()}
        result = measure(
            runs,
            batch_size=batch_size,
            threads=threads,
            max_seconds=time_left.of_one(position),
            advance=functools.partial(
                _advance_inside, advance, position, len(combinations), f"batch {batch_size}, {_threads(threads)}"
            ),
        )
        if position == 0:
            result = _with_energy(result, runs, settings.max_seconds, time_left)
        note = " ".join(text for text in (batch_note, threads_note, result.note) if text) or None
        results.append(result.model_copy(update={"note": note}))
    return results


def _advance_inside(advance: StepProgress, done: int, total: int, place: str, share: float) -> None:
    advance(done + share, total, f"Measuring latency at {place}")


class _TimeLeft:
    """Shares what the job's limits leave of time among the combinations: what one does not use, the others may."""

    def __init__(
        self, combinations: int, max_seconds: float, ends_at_seconds: float | None, tracker: ProgressTracker
    ) -> None:
        self._combinations = combinations
        self._max_seconds = max_seconds
        self._tracker = tracker
        spent = tracker.elapsed_seconds
        self._ends_at = math.inf if ends_at_seconds is None else spent + _SHARE_OF_TIME_LEFT * (ends_at_seconds - spent)
        if self.of_one(0) < max_seconds:
            tracker.warn(
                "benchmark_shortened",
                f"{combinations} combinations of batch size and threads at {max_seconds:g} s each do not fit into the "
                f"{self.seconds:.3g} s that the job's limits leave for them: each gets {self.of_one(0):.3g} s.",
                "Ask for fewer batch sizes or thread counts, or for less time for each.",
            )

    @property
    def seconds(self) -> float:
        """For all that there is to be measured."""
        return self._ends_at - self._tracker.elapsed_seconds

    def of_one(self, position: int) -> float:
        """The seconds that this combination may take."""
        left = self.seconds / (self._combinations - position)
        return max(1e-3, min(self._max_seconds, left))

    def is_over(self, position: int) -> bool:
        """Whether nothing is left for this one, which is then told; the first is always measured."""
        if position == 0 or self._tracker.elapsed_seconds < self._ends_at:
            return False
        self._tracker.warn(
            "benchmark_cut",
            f"The job's time limit left {self._combinations - position} of {self._combinations} combinations of batch "
            "size and threads unmeasured.",
            "Ask for the ones that matter, in a job of their own.",
        )
        return True


def _with_energy(result: Result, runs: Mapping[str, Candidate], max_seconds: float, time_left: _TimeLeft) -> Result:
    """What a sample takes of energy by each candidate, each over a block of runs of its own."""
    counter = energy_counter()
    if counter is None:
        return result.model_copy(update={"energy": why_no_energy()})
    seconds = min(SECONDS, max_seconds)
    if sum(max(seconds, LEAST_RUNS * each.p50_ms / 1000) for each in result.candidates) > time_left.seconds:
        return result.model_copy(update={"energy": "The job's limits left no time to count energy."})
    with computing_with(result.threads), pinned_to(result.cores), torch.inference_mode():
        joules = {name: counter.joules_of(run, seconds) / result.batch_size for name, run in runs.items()}
    candidates = [each.model_copy(update={"energy_joules": joules[each.name]}) for each in result.candidates]
    return result.model_copy(update={"candidates": candidates, "energy": COUNTED})


def _macs(model: LoadedModel) -> int:
    """Multiply-accumulates for one sample."""
    return sum(layer_macs(model.raised).values()) if isinstance(model.raised, fx.GraphModule) else 0


def _roofline(result: BenchmarkResult, macs: int, peak: float | None) -> Roofline | None:
    if not macs or peak is None:
        return None
    seconds = next(each.p50_ms for each in result.candidates if each.name == result.int8) / 1000
    reached = macs * result.batch_size / seconds / 1e9
    if reached > peak:  # something disturbed the probe
        return None
    return Roofline(reached_gmacs_per_second=reached, peak_gmacs_per_second=peak, share=reached / peak)


def _possible_threads(asked: Sequence[int], tracker: ProgressTracker) -> dict[int, str | None]:
    """Thread counts to measure with, and what is to be said of each."""
    cores, possible = len(available_cores()), dict[int, str | None]()
    for count in asked:
        taken = min(count, cores)
        note = None if taken == count else f"{_threads(count)} on {cores} cores: measured with {taken}."
        if note is not None:
            tracker.warn("too_many_threads", note, "Ask for as many threads as the deployment will have, or for fewer.")
        if possible.get(taken, "new") is not None:
            possible[taken] = note
    return possible


def _possible_batch_sizes(
    reference: Reference,
    candidates: Mapping[str, Contender],
    samples: Samples,
    asked: Sequence[int],
    tracker: ProgressTracker,
) -> dict[int, str | None]:
    """Batch sizes to measure, with what is to be said of each."""
    possible: dict[int, str | None] = {}
    for size in asked:
        refused_by = _refusing(reference, candidates, samples, size)
        taken = size if refused_by is None else reference.batch_size
        note = None if taken == size else f"A batch of {size} is not taken by {refused_by}: measured at {taken}."
        if note is not None:
            tracker.warn("batch_size_not_taken", note, "Export the model with a dynamic batch.")
        if possible.get(taken, "new") is not None:
            possible[taken] = note
    return possible


def _refusing(reference: Reference, candidates: Mapping[str, Contender], samples: Samples, size: int) -> str | None:
    """What does not take a batch of this size; None when everything does."""
    if reference.batch.clamp(size) != size:
        return "what is measured"
    for name, candidate in candidates.items():
        try:
            run_model(called(candidate.open(1)), batch_of(samples, size), reference.batch)
        except ModelFailed:
            return candidate_name(name)
    return None


def _threads(count: int) -> str:
    return f"{count} thread" if count == 1 else f"{count} threads"
