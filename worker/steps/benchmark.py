"""Benchmark: the float model, eager and frozen, against the int8 model, at every batch size and thread count."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from shared.errors import ModelFailed
from shared.job_report import BenchmarkResult
from shared.quantization_spec import BenchmarkSettings
from worker.datasets import Samples
from worker.inference import Model, padded_to, run_model
from worker.latency import Candidate, measure_latency
from worker.progress import ProgressTracker, StepProgress
from worker.quantization import collect_garbage
from worker.steps.convert import fresh_copy
from worker.steps.load import LoadedModel


def benchmark(
    model: LoadedModel,
    candidates: Mapping[str, Model | Path],
    samples: Samples,
    settings: BenchmarkSettings,
    *,
    seed: int,
    tracker: ProgressTracker,
    advance: StepProgress,
) -> list[BenchmarkResult]:
    """Measure every combination of models, or of files of them.

    A batch size that the model cannot take is measured at one that it can, and noted.
    """
    batch_sizes = _possible_batch_sizes(model, candidates, samples, settings.batch_sizes, tracker)
    combinations = list(product(batch_sizes.items(), settings.threads))
    results = []
    runs: dict[str, Candidate] = {}
    for position, ((batch_size, note), threads) in enumerate(combinations):
        inputs = _batch_of(samples, batch_size)
        runs.clear()
        sizes = [candidate.stat().st_size for candidate in candidates.values() if isinstance(candidate, Path)]
        collect_garbage(sum(sizes))  # the copies that were run before: the next are as large
        runs |= {name: functools.partial(fresh_copy(candidate), *inputs) for name, candidate in candidates.items()}

        def advance_inside(
            share: float, position: int = position, size: int = batch_size, count: int = threads
        ) -> None:
            advance(position + share, len(combinations), f"Measuring latency at batch {size}, {_threads(count)}")

        result = measure_latency(
            runs,
            batch_size=batch_size,
            threads=threads,
            max_seconds=settings.max_seconds,
            seed=seed,
            advance=advance_inside,
        )
        notes = [note, _too_many_threads(threads), result.note]
        results.append(result.model_copy(update={"note": " ".join(text for text in notes if text) or None}))
    return results


def _possible_batch_sizes(
    model: LoadedModel,
    candidates: Mapping[str, Model | Path],
    samples: Samples,
    asked: Sequence[int],
    tracker: ProgressTracker,
) -> dict[int, str | None]:
    """Batch sizes to measure, with what is to be said of each."""
    possible: dict[int, str | None] = {}
    for size in asked:
        taken = size if _takes(model, candidates, samples, size) else model.batch_size
        note = None if taken == size else f"The model does not take batches of {size}: measured at {taken}."
        if note is not None:
            tracker.warn("batch_size_not_taken", note, "Export the model with a dynamic batch.")
        if possible.get(taken, "new") is not None:
            possible[taken] = note
    return possible


def _takes(model: LoadedModel, candidates: Mapping[str, Model | Path], samples: Samples, size: int) -> bool:
    if model.batch.clamp(size) != size:
        return False
    try:
        with torch.inference_mode():
            for candidate in candidates.values():
                run_model(fresh_copy(candidate), _batch_of(samples, size), model.batch)
    except ModelFailed:
        return False
    return True


def _batch_of(samples: Samples, size: int) -> tuple[Tensor, ...]:
    """That many samples; the last one again and again when there are too few."""
    return padded_to(samples.read(0, min(size, samples.count)).inputs, size)


def _too_many_threads(threads: int) -> str | None:
    cores = len(os.sched_getaffinity(0))
    return f"{_threads(threads)} share {cores} cores." if threads > cores else None


def _threads(count: int) -> str:
    return f"{count} thread" if count == 1 else f"{count} threads"
