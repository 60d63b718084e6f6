"""Candidates: what a benchmark is given, the forms in which each is run, and how a form is opened and fed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import starmap
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from shared.benchmark_report import FormKind
from shared.candidate_inputs import input_order
from shared.errors import DataRequired, ModelError, ModelFailed, ModelUnsupported
from shared.model_file import TensorDescription
from shared.quantization_spec import Runtime
from worker.datasets import dtype_name
from worker.job_folder import CandidateFile, JobFolder
from worker.quantization import InputSpec, input_specs, load_program, output_names, raise_program, weight_bytes
from worker.runtimes import EagerSession, Kernels, Session, SessionSettings, open_session
from worker.steps.contenders import BF16, Contender, channels_last, has_bf16

_ANY_SIZE = (1, 2**31)


@dataclass(frozen=True)
class Form:
    """One way in which a candidate is run."""

    name: str
    """The candidate's and the form's kind, with a slash between."""
    candidate: int
    kind: FormKind
    runtime: Runtime
    path: Path
    """The file that is opened; of a .pt2 that torch runs from memory the .pt2."""
    problem: str | None = None
    """Why it cannot be opened."""

    @property
    def size_bytes(self) -> int:
        """Of the file, and of the weights that lie beside it."""
        beside = self.path.with_name(f"{self.path.name}.data")
        return self.path.stat().st_size + (beside.stat().st_size if beside.exists() else 0)


@dataclass(frozen=True)
class Candidate:
    """One of the models that are measured."""

    file: CandidateFile
    path: Path
    specs: tuple[InputSpec, ...]
    """What it takes, in its own order."""
    order: tuple[int, ...]
    """For each of them, which input of the first candidate it is fed like."""
    outputs: tuple[str, ...]
    """What they are called; of an artifact or an ONNX file by their numbers, as many as turn up."""

    def fed(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The inputs of the first candidate in this one's order and types."""
        return tuple(inputs[place].to(spec.dtype) for place, spec in zip(self.order, self.specs, strict=True))


def open_candidates(folder: JobFolder, files: Sequence[CandidateFile]) -> list[Candidate]:
    """Find out what each takes, and how it is fed with the inputs of the first; raises CandidatesMismatch."""
    candidates: list[Candidate] = []
    for file in files:
        path = folder.inputs / file.file
        outputs: tuple[str, ...] = ()
        if file.format == "pt2":
            try:
                program = load_program(path)
            except ModelError as error:
                raise type(error)(f"{file.name}: {error.message}", hint=error.hint) from error
            specs, outputs = tuple(input_specs(program)), tuple(output_names(program))
        else:
            specs = tuple(_spec_of(each) for each in file.inputs)
        first = candidates[0].file.inputs if candidates else file.inputs
        candidates.append(Candidate(file, path, specs, tuple(input_order(first, file.inputs)), outputs))
    return candidates


def joined_specs(candidates: Sequence[Candidate]) -> tuple[InputSpec, ...]:
    """What all take, as the first names it: of each size the bounds that all allow, and an example where one has it."""
    together = list(candidates[0].specs)
    for candidate in candidates[1:]:
        for place, spec in zip(candidate.order, candidate.specs, strict=True):
            together[place] = _joined(together[place], spec)
    return tuple(together)


def require_sizes(specs: Sequence[InputSpec]) -> None:
    """Raise DataRequired where neither a file nor data says which size to measure at."""
    for spec in specs:
        if 0 in spec.example_shape[1:]:
            raise DataRequired(
                f"The input {spec.name!r}, {_told(spec)}, has axes of open size that nothing says a size of.",
                hint="Give data in the sizes that matter as `evaluation`; labels are not needed.",
            )


def forms_of(
    position: int, candidate: Candidate, runtimes: Sequence[Runtime], scratch: Path, *, with_images: bool
) -> list[Form]:
    """The forms in which people deploy such a file, those that are likely to be right first."""
    made = scratch / f"candidate-{position}"
    found: list[tuple[FormKind, Runtime, Path]] = []
    if candidate.file.format == "torchscript":
        found = [("torch", "torch", candidate.path)]
    elif candidate.file.runtime is not None:
        kind: FormKind = "onnxruntime" if candidate.file.runtime == "onnxruntime" else "openvino"
        found = [(kind, candidate.file.runtime, candidate.path)]
    else:
        onnx = candidate.path
        if candidate.file.format == "pt2":
            onnx = made.with_suffix(".onnx")
            found = [("eager", "torch", candidate.path), ("frozen", "torch", made.with_suffix(".pt"))]
            found += [("channels_last", "torch", candidate.path)] if with_images else []
        found += [("onnxruntime", "onnxruntime", onnx), ("openvino", "openvino", onnx)]
    if has_bf16():
        found += [("openvino_bf16", runtime, path) for kind, runtime, path in found if kind == "openvino"]
    return [
        Form(f"{candidate.file.name}/{kind}", position, kind, runtime, path)
        for kind, runtime, path in found
        if runtime in runtimes
    ]


class Opener:
    """Opens forms, and keeps the programs that eager forms are of for as long as it is asked to."""

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self._candidates = candidates
        self._raised: dict[int, fx.GraphModule] = {}

    def contender(self, form: Form) -> Contender:
        """The form to be measured; it is opened anew for every measurement."""
        in_memory = form.kind in {"eager", "channels_last"}
        size = weight_bytes(self.raised(form.candidate)) if in_memory else form.size_bytes
        return Contender(lambda threads: self.open(form, threads), size, form.runtime)

    def open(self, form: Form, threads: int) -> Session:
        """The form, to compute with this many threads; raises ModelFailed when its runtime refuses it."""
        if form.problem is not None:
            raise ModelFailed(form.problem)
        candidate = self._candidates[form.candidate]
        return FedSession(self._open(form, candidate, threads), candidate)

    def raised(self, position: int) -> fx.GraphModule:
        """The program of a .pt2 as modules."""
        if position not in self._raised:
            self._raised[position] = raise_program(load_program(self._candidates[position].path))
        return self._raised[position]

    def forget(self, position: int) -> None:
        """Let go of its program."""
        self._raised.pop(position, None)

    def _open(self, form: Form, candidate: Candidate, threads: int) -> Session:
        if form.kind == "eager":
            return EagerSession(self.raised(form.candidate))
        if form.kind == "channels_last":
            return channels_last(self.raised(form.candidate))
        if candidate.file.qengine is not None:
            _use_kernels(candidate.file.qengine)
        options = BF16 if form.kind == "openvino_bf16" else {}
        try:
            return open_session(form.runtime, form.path, SessionSettings(threads=threads, options=options))
        except ModelFailed as error:  # the file's name is ours
            raise ModelFailed(error.message.replace(form.path.name, candidate.file.name)) from error


class FedSession:
    """A session that takes its inputs as the first candidate does: in that one's order and types."""

    def __init__(self, session: Session, candidate: Candidate) -> None:
        self._session = session
        self._candidate = candidate

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The outputs, in order."""
        return self._session.run(self._candidate.fed(inputs))

    def bound(self, inputs: Sequence[Tensor]) -> Callable[[], Any]:
        """A call on these inputs, to be timed."""
        return self._session.bound(self._candidate.fed(inputs))

    def kernels(self) -> Kernels:
        """Those of the session."""
        return self._session.kernels()


def by_candidate(forms: Sequence[Form]) -> Mapping[int, list[Form]]:
    """The forms of each candidate, in order."""
    found: dict[int, list[Form]] = {}
    for form in forms:
        found.setdefault(form.candidate, []).append(form)
    return found


def _use_kernels(qengine: str) -> None:
    if qengine not in torch.backends.quantized.supported_engines:
        raise ModelFailed(f"It is for {qengine} kernels, which this build of torch has not.")
    torch.backends.quantized.engine = qengine


def _spec_of(described: TensorDescription) -> InputSpec:
    """What the file says; where it leaves a size open, the example has none: 0."""
    return InputSpec(
        name=described.name,
        shape=tuple(described.shape),
        dtype=_dtype_of(described),
        example_shape=tuple(size or 0 for size in described.shape),
        bounds=tuple(_ANY_SIZE if size is None else (size, size) for size in described.shape),
        symbols=tuple(None if size is not None else f"s{axis}" for axis, size in enumerate(described.shape)),
    )


def _dtype_of(described: TensorDescription) -> torch.dtype:
    """By its name, which may be any word: that of an artifact stands in a report, which a runner wrote."""
    found = getattr(torch, described.dtype, None)
    if not isinstance(found, torch.dtype):
        raise ModelUnsupported(f"The input {described.name!r} takes {described.dtype!r}, which is no type of torch.")
    return found


def _joined(known: InputSpec, other: InputSpec) -> InputSpec:
    shape = tuple(a if a is not None else b for a, b in zip(known.shape, other.shape, strict=True))
    examples = zip(shape, known.example_shape, other.example_shape, strict=True)
    return replace(
        known,
        shape=shape,
        bounds=tuple(starmap(_both, zip(known.bounds, other.bounds, strict=True))),
        example_shape=tuple(size or one or another for size, one, another in examples),
    )


def _both(known: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    """The sizes that both allow. A fixed one is taken as it is: export starts open sizes at 2, though 1 will do."""
    for each in (known, other):
        if each[0] == each[1]:
            return each
    return max(known[0], other[0]), min(known[1], other[1])


def _told(spec: InputSpec) -> str:
    sizes = ", ".join("any" if size is None else str(size) for size in spec.shape)
    return f"{dtype_name(spec.dtype)} [{sizes}]"
