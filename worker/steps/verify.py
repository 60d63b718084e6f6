"""Verify: every artifact is opened in its runtime by a process that made none, and held against the float model."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from shared.errors import InternalError, ModelFailed
from shared.job_report import ArtifactLabel, ArtifactResult, OutputFidelity, Quality
from shared.latency_report import Load
from worker.closeness import NEAR_AGREEMENT, NEAR_DB, closeness
from worker.datasets import Samples
from worker.inference import Model, Reference, batch_of, run_model
from worker.machine_state import PeakWatch, resident_bytes
from worker.quantization import collect_garbage
from worker.runtimes import Kernels, Session, SessionSettings, called, open_session
from worker.steps.choose_kernels import MAX_LOST_DB
from worker.steps.evaluate import Yardstick, evaluate
from worker.steps.export import MadeFile
from worker.steps.load import LoadedModel

_TRIED_SAMPLES = 3
"""Beside the smallest batch: a size that the model was not exported with."""


def verify(
    model: LoadedModel,
    files: Sequence[MadeFile],
    yardstick: Yardstick,
    *,
    qengine: str,
    threads: int,
    advance: Callable[[float, float], None],
) -> list[ArtifactResult]:
    """What becomes of each file in its runtime, in the order of the files; the torch artifact is the first of them."""
    torch.backends.quantized.engine = qengine
    problems = {file: file.problem for file in files}
    sessions: dict[MadeFile, Session] = {}
    loads: dict[MadeFile, Load] = {}
    for file in files:
        if file.problem is None:
            try:
                sessions[file], loads[file] = _opened(file, model, yardstick, threads)
            except ModelFailed as error:
                if file.runtime == "torch":  # it ran a moment ago, in the process that made it
                    raise InternalError("The int8 model does not run in a fresh process.") from error
                problems[file] = error.message
                file.path.unlink()
    qualities = dict(
        zip(sessions, evaluate(model, [called(each) for each in sessions.values()], yardstick, advance), strict=True)
    )
    expected = _Found(qualities[files[0]], sessions[files[0]].kernels())
    return [
        _missing(file, problems[file])
        if file not in sessions
        else _judged(file, _Found(qualities[file], sessions[file].kernels()), expected, loads[file])
        for file in files
    ]


@dataclass(frozen=True)
class _Found:
    quality: Quality
    kernels: Kernels


def _opened(file: MadeFile, model: LoadedModel, yardstick: Yardstick, threads: int) -> tuple[Session, Load]:
    """Open it and try it at two batch sizes; raises ModelFailed."""

    def opened() -> Session:
        session = open_session(file.runtime, file.path, SessionSettings(threads=threads))
        run_model(called(session), yardstick.samples.read(0, 1).inputs, model.batch)
        return session

    session, load = loaded(opened, file.path.stat().st_size)
    require_shapes(called(session), model.reference, yardstick.samples, "the float model")
    return session, load


def loaded(opened: Callable[[], Session], size_bytes: int) -> tuple[Session, Load]:
    """A session, of a file of this size, that has answered its first sample, and what that took."""

    def timed() -> tuple[Session, float]:
        began_at = time.perf_counter()
        return opened(), 1000 * (time.perf_counter() - began_at)

    cold_ms = timed()[1]
    collect_garbage(size_bytes)  # of the first one, or the second would find its memory here already
    before = resident_bytes()
    session, warm_ms = timed()
    held = resident_bytes()
    with PeakWatch() as watch:
        timed()
    load = Load(
        cold_ms=cold_ms,
        warm_ms=warm_ms,
        resident_bytes=max(0, held - before),
        peak_bytes=max(0, watch.peak_bytes - held),
    )
    return session, load


def require_shapes(candidate: Model, reference: Reference, samples: Samples, whose: str) -> None:
    """Try it at two batch sizes; raises ModelFailed, also where its outputs have other shapes than the reference's."""
    for size in sorted({reference.batch.low, reference.batch.clamp(_TRIED_SAMPLES)}):
        inputs = batch_of(samples, size)
        wanted = [tuple(output.shape) for output in run_model(reference.run, inputs, reference.batch)]
        found = [tuple(output.shape) for output in run_model(candidate, inputs, reference.batch)]
        if wanted != found:
            raise ModelFailed(f"At batch {size} it gives outputs of shape {found}, and {whose} of {wanted}.")


def _missing(file: MadeFile, problem: str | None) -> ArtifactResult:
    return ArtifactResult(
        name=file.path.name,
        runtime=file.runtime,
        size_bytes=None,
        quality=None,
        int8_operators=0,
        float_operators=0,
        labels=["missing"],
        note=problem,
    )


def _judged(file: MadeFile, found: _Found, expected: _Found, load: Load) -> ArtifactResult:
    quality, kernels = found.quality, found.kernels
    labels: list[ArtifactLabel] = []
    notes = []
    if (lost := lost_db(quality.fidelity, expected.quality.fidelity)) > MAX_LOST_DB:
        labels.append("wrong")
        notes.append(f"It is {lost:.1f} dB further from float than the torch artifact.")
    if quality.metric is not None and quality.metric.met is False:
        labels.append("accuracy_not_met")
    if kernels.floating and not kernels.int8:
        labels.append("in_float")
        notes.append("The runtime computes all of its operators with weights in float.")
    elif len(kernels.floating) > len(expected.kernels.floating):
        total = len(kernels.int8) + len(kernels.floating)
        notes.append(
            f"The runtime computes {len(kernels.floating)} of {total} operators with weights in float, and torch "
            f"{len(expected.kernels.floating)}."
        )
    return ArtifactResult(
        name=file.path.name,
        runtime=file.runtime,
        size_bytes=file.path.stat().st_size,
        load=load,
        quality=quality,
        int8_operators=len(kernels.int8),
        float_operators=len(kernels.floating),
        labels=labels,
        note=" ".join(notes) or None,
    )


def lost_db(fidelity: Sequence[OutputFidelity], expected: Sequence[OutputFidelity]) -> float:
    """How much further off it is than what was expected; nothing where it is near all the same."""
    found = closeness(fidelity)
    if found.sqnr_db >= NEAR_DB or (found.agreement is not None and found.agreement >= NEAR_AGREEMENT):
        return 0.0
    return closeness(expected).sqnr_db - found.sqnr_db
