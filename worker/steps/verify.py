"""Verify: every artifact is opened in its runtime by a process that made none, and held against the float model.

What of a model is not int8 OpenVINO computes in f32, or where the CPU has it in bf16: that halves what is moved and
rounds more. It is chosen as kernels are: bf16 where it is clearly faster, and right all the same.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from shared.errors import InternalError, ModelFailed
from shared.job_report import ArtifactLabel, ArtifactResult, InferencePrecision, OutputFidelity, Quality
from shared.latency_report import Load
from worker.closeness import NEAR_DB, closeness, is_far
from worker.datasets import Samples
from worker.inference import Model, Reference, batch_of, run_model
from worker.latency import measure_rounds, quietest
from worker.latency_statistics import median_ratio
from worker.machine_state import PeakWatch, resident_bytes
from worker.quantization import collect_garbage
from worker.runtimes import Kernels, Session, SessionSettings, called, open_session
from worker.steps.choose_kernels import MAX_LOST_DB, MIN_GAIN
from worker.steps.contenders import BF16, has_bf16, room_for
from worker.steps.evaluate import Yardstick, evaluate
from worker.steps.export import MadeFile
from worker.steps.load import LoadedModel

_TRIED_SAMPLES = 3
"""Beside the smallest batch: a size that the model was not exported with."""
_TRIAL_SECONDS = 0.5
_TOLD_LAYERS = 3


def verify(
    model: LoadedModel,
    files: Sequence[MadeFile],
    yardstick: Yardstick,
    *,
    qengine: str,
    batch_size: int,
    threads: int,
    advance: Callable[[float, float], None],
) -> list[ArtifactResult]:
    """What becomes of each file in its runtime, in the order of the files; the torch artifact is the first of them.

    `batch_size` is what speed matters at most at.
    """
    torch.backends.quantized.engine = qengine
    problems = {file: file.problem for file in files}
    opened: dict[MadeFile, list[_Opened]] = {}
    for file in files:
        if file.problem is None:
            try:
                opened[file] = _opened(file, model, yardstick, batch_size, threads)
            except ModelFailed as error:
                if file.runtime == "torch":  # it ran a moment ago, in the process that made it
                    raise InternalError("The int8 model does not run in a fresh process.") from error
                problems[file] = error.message
                file.path.unlink()
    together = [each for ways in opened.values() for each in ways]
    models = [called(each.session) for each in together]
    qualities = dict(zip(together, evaluate(model, models, yardstick, advance), strict=True))
    of_torch = opened[files[0]][0]
    expected = _Found(qualities[of_torch], of_torch.session.kernels())
    results = []
    for file in files:
        ways = opened.get(file, [])
        judged = [_judged(each, _Found(qualities[each], each.session.kernels()), expected) for each in ways]
        results.append(_chosen(judged, ways[-1].share) if judged else _missing(file, problems[file]))
    return results


@dataclass(frozen=True, eq=False)
class _Opened:
    """A file in its runtime."""

    file: MadeFile
    session: Session
    load: Load
    precision: InferencePrecision | None = None
    share: float = 1.0
    """Of the time that the same takes in f32."""


@dataclass(frozen=True)
class _Found:
    quality: Quality
    kernels: Kernels


def _opened(file: MadeFile, model: LoadedModel, yardstick: Yardstick, batch_size: int, threads: int) -> list[_Opened]:
    """It in its runtime; in OpenVINO in bf16 too, where that is faster. Raises ModelFailed."""

    def opened(options: dict[str, str]) -> Session:
        session = open_session(file.runtime, file.path, SessionSettings(threads, options))
        run_model(called(session), yardstick.samples.read(0, 1).inputs, model.batch)
        return session

    def tried(options: dict[str, str]) -> tuple[Session, Load]:
        session, load = loaded(lambda: opened(options), file.path.stat().st_size)
        require_shapes(called(session), model.reference, yardstick.samples, "the float model")
        return session, load

    session, load = tried({})
    if file.runtime != "openvino":
        return [_Opened(file, session, load)]
    ways = [_Opened(file, session, load, "f32")]
    if has_bf16() and room_for(file.path.stat().st_size) > 1:  # the one that is tried, and the one that is kept
        inputs = batch_of(yardstick.samples, model.batch.clamp(batch_size))
        with contextlib.suppress(ModelFailed):  # it runs in f32
            share = _share_of_time(opened(BF16), session, inputs, threads)
            if share * MIN_GAIN < 1:
                session, warm = tried(BF16)
                in_bf16 = warm.model_copy(update={"cold_ms": load.cold_ms})  # OpenVINO is imported by now
                ways.append(_Opened(file, session, in_bf16, "bf16", share))
    return ways


def _share_of_time(session: Session, other: Session, inputs: tuple[Tensor, ...], threads: int) -> float:
    """What a session takes of the time of another."""
    calls = {"session": session.bound(inputs), "other": other.bound(inputs)}
    rounds = quietest(measure_rounds(calls, threads=threads, max_seconds=_TRIAL_SECONDS, seed=0))
    return median_ratio(rounds.samples_ms["session"], rounds.samples_ms["other"])


def _chosen(ways: Sequence[ArtifactResult], share: float) -> ArtifactResult:
    """The precision that a file is offered in: bf16, in this share of the time, if it is as right as f32."""
    in_f32, in_bf16 = ways[0], ways[-1]
    if in_bf16 is in_f32 or "wrong" in in_f32.labels:
        return in_f32
    db_in_f32, db_in_bf16 = (closeness(each.quality.fidelity).sqnr_db for each in ways if each.quality is not None)
    if not set(in_bf16.labels) <= set(in_f32.labels):
        why = "it is too far from float" if "wrong" in in_bf16.labels else "it misses the accuracy target"
        told = f"With bf16 for what is not int8 it takes {share:.2f} of the time, but {why} ({db_in_bf16:.1f} dB)."
        chosen = in_f32
    else:
        told = (
            f"What is not int8 is computed in bf16, in {share:.2f} of the time that the whole takes in f32, and at "
            f"another distance from float: {db_in_bf16:.1f} dB instead of {db_in_f32:.1f}."
        )
        chosen = in_bf16
    return chosen.model_copy(update={"note": " ".join(filter(None, [told, chosen.note]))})


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


def _judged(opened: _Opened, found: _Found, expected: _Found) -> ArtifactResult:
    file, quality, kernels = opened.file, found.quality, found.kernels
    labels: list[ArtifactLabel] = []
    notes = []
    if opened.precision == "bf16":  # loses by nature, as the float model does in it that int8 is compared with
        if is_far(quality.fidelity):
            labels.append("wrong")
    elif (lost := lost_db(quality.fidelity, expected.quality.fidelity)) > MAX_LOST_DB:
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
            f"The runtime computes {len(kernels.floating)} of {total} operators with weights in float"
            f"{_told_layers(file, kernels)}, and torch {len(expected.kernels.floating)}."
        )
    return ArtifactResult(
        name=file.path.name,
        runtime=file.runtime,
        size_bytes=file.path.stat().st_size,
        load=opened.load,
        inference_precision=opened.precision,
        quality=quality,
        int8_operators=len(kernels.int8),
        float_operators=len(kernels.floating),
        labels=labels,
        note=" ".join(notes) or None,
    )


def _told_layers(file: MadeFile, kernels: Kernels) -> str:
    """Which layers the operators in float are of, as far as the file tells."""
    from worker.layer_times.onnx_layers import OnnxLayers  # noqa: PLC0415 - no runner imports onnx to warm up

    known = OnnxLayers(file.path)
    layers = list(dict.fromkeys(layer for name in kernels.floating for layer in known.of(name)[:1]))
    if not layers:
        return ""
    more = f" and {len(layers) - _TOLD_LAYERS} more" if len(layers) > _TOLD_LAYERS else ""
    return f" (layer{'s' if len(layers) > 1 else ''} {', '.join(layers[:_TOLD_LAYERS])}{more})"


def lost_db(fidelity: Sequence[OutputFidelity], expected: Sequence[OutputFidelity]) -> float:
    """How much further off it is than what was expected; nothing where it is near all the same."""
    found = closeness(fidelity)
    if found.sqnr_db >= NEAR_DB or found.agrees:
        return 0.0
    return closeness(expected).sqnr_db - found.sqnr_db
