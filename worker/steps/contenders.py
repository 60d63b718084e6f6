"""Contenders: the forms of a model that are measured against each other, each opened anew for every measurement."""

from __future__ import annotations

import copy
import resource
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from shared.errors import ModelFailed
from shared.quantization_spec import Runtime
from worker.candidate_names import (
    FLOAT_CHANNELS_LAST,
    FLOAT_EAGER,
    FLOAT_FROZEN,
    FLOAT_OPENVINO_BF16,
    candidate_name,
    float_in,
)
from worker.closeness import FAR_DB
from worker.datasets import Samples
from worker.environment import cpu
from worker.inference import batch_of, run_model
from worker.machine_state import available_bytes
from worker.numerics import ModelFidelity
from worker.progress import ProgressTracker
from worker.quantization import weight_bytes
from worker.runtimes import PRECISION, EagerSession, Session, SessionSettings, called, open_session
from worker.steps.load import LoadedModel

_BF16_SETS = {"avx512_bf16", "amx_bf16"}
BF16 = {PRECISION: "bf16"}
"""OpenVINO's option to compute in bf16 what is float."""
_WEIGHTS_HELD = 2
"""How many times the float weights a runtime was seen to hold at most: as they are in the file, and packed."""


@dataclass(frozen=True)
class Contender:
    """One form of the model."""

    open: Callable[[int], Session]
    """Opens it, never called before, to compute with this many threads. oneDNN's quantized operators keep the primitive
    of the first shape that they meet, and build a new one for any other on every call: 0.22 ms instead of 0.08 ms was
    seen for a small network that had met another batch size before."""
    size_bytes: int = 0
    """What opening it takes, and gives back when it is done with."""
    runtime: Runtime = "torch"


def in_file(runtime: Runtime, path: Path, **options: str) -> Contender:
    """A file in its runtime; `options` are the runtime's own."""
    return Contender(
        lambda threads: open_session(runtime, path, SessionSettings(threads=threads, options=options)),
        path.stat().st_size,
        runtime,
    )


def float_contenders(
    model: LoadedModel,
    frozen: Path,
    onnx: Path | None,
    runtimes: list[Runtime],
    *,
    samples: Samples,
    tracker: ProgressTracker,
) -> dict[str, Contender]:
    """The float models that people really deploy: in torch, and in each of these runtimes that computes the ONNX file.

    None is measured that does not give the float model's answer to a first sample: int8 would be compared with it.
    """
    # Those that are likely to be the fastest come first: of a model for which memory is short, the last are left out.
    others = {FLOAT_FROZEN: in_file("torch", frozen)}
    if onnx is not None:
        others |= {float_in(name): in_file(name, onnx) for name in runtimes if name != "torch"}
        if "openvino" in runtimes and has_bf16():
            others[FLOAT_OPENVINO_BF16] = in_file("openvino", onnx, **BF16)
    if has_images(model.raised):
        others[FLOAT_CHANNELS_LAST] = Contender(lambda _: channels_last(model.raised), weight_bytes(model.raised))
    found = {FLOAT_EAGER: Contender(lambda _: EagerSession(model.raised))}
    room = room_for(weight_bytes(model.raised))
    some = batch_of(samples, model.batch.low)
    answers = run_model(model.reference.run, some, model.batch)
    for position, (name, contender) in enumerate(others.items()):
        if position >= max(1, room):
            tracker.warn("float_model_left_out", f"Not measured: {candidate_name(name)}. Memory is short for it.")
            continue
        try:
            _require_answers(answers, run_model(called(contender.open(1)), some, model.batch), model.outputs)
        except ModelFailed as error:
            tracker.warn("float_model_refused", f"Not measured: {candidate_name(name)}. {error.message}")
        else:
            found[name] = contender
    return found


def _require_answers(answers: Sequence[Tensor], found: Sequence[Tensor], names: Sequence[str]) -> None:
    if [each.shape for each in answers] != [each.shape for each in found]:
        raise ModelFailed("Its outputs have other shapes than the float model's in torch.")
    fidelity = ModelFidelity(names)
    fidelity.update(answers, found)
    if (sqnr_db := fidelity.closeness().sqnr_db) < FAR_DB:
        raise ModelFailed(f"Its outputs are not the float model's in torch: their SQNR is {sqnr_db:.0f} dB.")


def has_bf16() -> bool:
    """Whether this CPU computes in bf16."""
    return bool(_BF16_SETS & set(cpu()[1]))


def has_images(module: nn.Module) -> bool:
    """Whether channels_last is a layout for this module."""
    return any(isinstance(each, nn.Conv2d) for each in module.modules())


def channels_last(module: nn.Module) -> Session:
    """A copy of the module in this layout."""
    laid_out = copy.deepcopy(module).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch leaves it out
    return EagerSession(laid_out, channels_last=True)


def room_for(weight_bytes: int) -> int:
    """How many more copies of so many weights a process may hold, each as a runtime holds it."""
    return int(_free_bytes() / (_WEIGHTS_HELD * max(1, weight_bytes)))


def _free_bytes() -> int:
    """What this process may still take, by its limit and by what the machine has."""
    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    return available_bytes() if limit == resource.RLIM_INFINITY else min(limit, available_bytes())
