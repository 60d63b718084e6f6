"""Verify forms: each is opened in its runtime and held against the reference, and what is wrong with it is told."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from shared.benchmark_report import FormLabel, FormMetric, FormQuality, FormResult
from shared.errors import ModelFailed
from shared.job_report import OutputFidelity
from shared.latency_report import Load
from worker.closeness import is_far
from worker.inference import BatchRange, Reference, run_model
from worker.numerics import accuracy_drop
from worker.runtimes import Kernels, Session, called
from worker.steps.candidates import Candidate, Form, Opener
from worker.steps.choose_kernels import MAX_LOST_DB
from worker.steps.evaluate import Yardstick, compare
from worker.steps.verify import loaded, lost_db, require_shapes

_IN_MEMORY = frozenset({"eager", "channels_last"})


class OpenedForm(NamedTuple):
    """A form in its runtime, with what opening it took; of what was in memory already that is nothing."""

    form: Form
    session: Session
    load: Load | None


def open_form(opener: Opener, form: Form, one: Sequence[Tensor], batch: BatchRange, threads: int) -> OpenedForm:
    """Open it and let it answer one sample; raises ModelFailed."""

    def opened() -> Session:
        session = opener.open(form, threads)
        run_model(called(session), one, batch)
        return session

    return OpenedForm(form, *((opened(), None) if form.kind in _IN_MEMORY else loaded(opened, form.size_bytes)))


class FormVerifier:
    """Verifies one candidate's forms after another's against the same reference."""

    def __init__(
        self, opener: Opener, reference: Reference, opened: OpenedForm, yardstick: Yardstick, *, threads: int
    ) -> None:
        self._opener = opener
        self._reference = reference
        self._opened_first = opened
        self._yardstick = yardstick
        self._threads = threads

    def verify(
        self, candidate: Candidate, forms: Sequence[Form], advance: Callable[[float, float], None]
    ) -> dict[str, FormResult]:
        """What each form is worth, by name."""
        problems: dict[str, str] = {}
        opened: dict[str, tuple[Session, Load | None]] = {}
        for form in forms:
            try:
                opened[form.name] = self._opened(form)
            except ModelFailed as error:
                problems[form.name] = error.message
        qualities = self._qualities({name: session for name, (session, _) in opened.items()}, problems, advance)
        results: dict[str, FormResult] = {}
        expected = candidate.file.expected
        for form in forms:
            if form.name in problems:
                results[form.name] = _missing(form, problems[form.name])
                continue
            (session, load), quality = opened[form.name], qualities[form.name]
            results[form.name] = self._judged(form, load, quality, _kernels_of(session), expected)
            expected = expected or quality.fidelity  # the first form that runs: the others compute the same
        return results

    def _qualities(
        self, sessions: dict[str, Session], problems: dict[str, str], advance: Callable[[float, float], None]
    ) -> dict[str, FormQuality]:
        """All in one pass; where one fails on some sample each in a pass of its own, to find out which."""
        try:
            return dict(zip(sessions, self._compared(list(sessions.values()), advance), strict=True))
        except ModelFailed:
            found = {}
            for name, session in sessions.items():
                try:
                    [found[name]] = self._compared([session], advance)
                except ModelFailed as error:
                    problems[name] = error.message
            return found

    def _opened(self, form: Form) -> tuple[Session, Load | None]:
        if form.problem is not None:
            raise ModelFailed(form.problem)

        found = self._opened_first
        if form != found.form:
            one = self._yardstick.samples.read(0, 1).inputs
            found = open_form(self._opener, form, one, self._reference.batch, self._threads)
        require_shapes(called(found.session), self._reference, self._yardstick.samples, "the first candidate")
        return found.session, found.load

    def _compared(self, sessions: Sequence[Session], advance: Callable[[float, float], None]) -> list[FormQuality]:
        found = compare(self._reference, [called(each) for each in sessions], self._yardstick, advance)
        return [
            FormQuality(metric=self._metric(value, found.reference_value), fidelity=fidelity)
            for value, fidelity in zip(found.values, found.fidelity, strict=True)
        ]

    def _metric(self, value: float | None, reference: float | None) -> FormMetric | None:
        name = self._yardstick.metric
        if name is None or value is None or reference is None or not math.isfinite(value - reference):
            return None
        return FormMetric(name=name, value=value, reference=reference, drop=accuracy_drop(name, reference, value))

    def _judged(
        self,
        form: Form,
        load: Load | None,
        quality: FormQuality,
        kernels: Kernels,
        expected: Sequence[OutputFidelity] | None,
    ) -> FormResult:
        labels: list[FormLabel] = []
        note = None
        lost = 0.0 if expected is None or form.kind == "openvino_bf16" else lost_db(quality.fidelity, expected)
        if lost > MAX_LOST_DB:
            labels.append("wrong")
            note = f"It is {lost:.1f} dB further from {self._opened_first.form.name} than it should be."
        elif is_far(quality.fidelity):
            labels.append("differs")
            note = f"Its answers are others than those of {self._opened_first.form.name}."
        return FormResult(
            name=form.name,
            kind=form.kind,
            runtime=form.runtime,
            size_bytes=form.size_bytes,
            load=load,
            quality=quality,
            int8_operators=len(kernels.int8),
            float_operators=len(kernels.floating),
            labels=labels,
            note=note,
        )


def _kernels_of(session: Session) -> Kernels:
    try:
        return session.kernels()
    except Exception:  # noqa: BLE001 - a file that runs is measured, whatever its runtime can tell of it
        traceback.print_exc()
        return Kernels((), ())


def _missing(form: Form, problem: str) -> FormResult:
    return FormResult(
        name=form.name,
        kind=form.kind,
        runtime=form.runtime,
        size_bytes=None,
        load=None,
        quality=None,
        int8_operators=0,
        float_operators=0,
        labels=["missing"],
        note=problem,
    )
