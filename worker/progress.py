"""Progress as numbers: what a running recipe tells its supervisor, line by line.

The runner writes one JSON line for each message; the supervisor validates every line, because whoever controls the
runner controls what it says.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, TypeAdapter

from shared.errors import JobError, owner_of
from shared.job import Step
from shared.job_report import ReportWarning, Suggestion
from shared.printable import printable

_LONGEST_ETA_SECONDS = 1e9
_EXACT = 2**53  # up to here a float, and with it JSON, holds every integer


def _plain(error: JobError) -> JobError:
    if error.owner not in {"user", "service"} or error.owner != owner_of(error.code):
        raise ValueError("this is no error of ours")
    hint = None if error.hint is None else printable(error.hint)
    step = None if error.step is None else Step(error.step)
    return error.model_copy(update={"message": printable(error.message), "hint": hint, "step": step})


def _finite(value: Any) -> Any:
    """JSON has no NaN: a figure that is none is null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


_Text = Annotated[str, AfterValidator(printable), Field(max_length=300)]
_Integer = Annotated[int, Field(ge=-_EXACT, le=_EXACT)]
_Figure = Annotated[_Integer | Annotated[float, Field(allow_inf_nan=False)] | _Text | None, BeforeValidator(_finite)]


class ProgressMessage(BaseModel):
    """How far the recipe is: `fraction` of the whole recipe, never falling."""

    kind: Literal["progress"] = "progress"
    step: Step
    fraction: Annotated[float, Field(ge=0, le=1)]
    message: _Text = ""
    eta_seconds: Annotated[float, Field(ge=0, le=_LONGEST_ETA_SECONDS)] | None = None


class MetricMessage(BaseModel):
    """A figure worth keeping as it appears, such as an epoch's loss: `{"name": "loss", "value": 0.3, "epoch": 2}`."""

    kind: Literal["metric"] = "metric"
    data: Annotated[dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,59}$")], _Figure], Field(max_length=10)]


class LogMessage(BaseModel):
    """A line for the job's history."""

    kind: Literal["log", "warning"]
    message: Annotated[str, AfterValidator(printable), Field(max_length=2000)]


class CheckpointMessage(BaseModel):
    """An epoch is over, and what another attempt needs to go on from there is written to tmp/checkpoint.pt."""

    kind: Literal["checkpoint"] = "checkpoint"
    epoch: Annotated[int, Field(ge=1)]


Stage = Literal["make", "export", "verify", "measure"]
STAGES: tuple[Stage, ...] = get_args(Stage)  #: in their order; each runs in a process of its own


class StageMessage(BaseModel):
    """A stage is to begin, and waits until it may."""

    kind: Literal["stage"] = "stage"
    stage: Stage


class FinishedMessage(BaseModel):
    """The recipe is done: outputs/report.json and the artifacts are written."""

    kind: Literal["finished"] = "finished"


class FailedMessage(BaseModel):
    """The recipe gave up."""

    kind: Literal["failed"] = "failed"
    error: Annotated[JobError, AfterValidator(_plain)]


RunnerMessage = Annotated[
    ProgressMessage | MetricMessage | LogMessage | CheckpointMessage | StageMessage | FinishedMessage | FailedMessage,
    Field(discriminator="kind"),
]
runner_message_adapter: TypeAdapter[Any] = TypeAdapter(RunnerMessage)
Report = Callable[[ProgressMessage | MetricMessage | LogMessage | CheckpointMessage], None]


class StepProgress(Protocol):
    """Takes the progress inside one step: `done` of `total`, in any unit."""

    def __call__(self, done: float, total: float, detail: str | None = None) -> None:
        """Tell it; `detail` replaces the step's message."""


_MESSAGE_INTERVAL_SECONDS = 0.2
_ETA_SMOOTHING = 0.3  # weight of the newest estimate
_ETA_AFTER_FRACTION = 0.02  # an estimate from less is a guess


@dataclass(frozen=True)
class Course:
    """How far a recipe was when a stage of it ended."""

    fraction: float
    elapsed_seconds: float
    timings: dict[str, float]
    warnings: list[ReportWarning]


class ProgressTracker:
    """Turns what the steps tell into messages: the overall fraction, which never falls, and the time left.

    `weights` are the steps of the recipe in order with the share of the time each is expected to take, in any unit.
    Messages are at most five a second, and one whenever a step begins. Warnings and timings are kept for the report.
    A tracker that is given a course goes on from there.
    """

    def __init__(
        self,
        report: Report,
        weights: Mapping[Step, float],
        course: Course | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._report = report
        self._weights = dict(weights)
        self._total = sum(self._weights.values())
        self._clock = clock
        self._started_at = clock() - (course.elapsed_seconds if course else 0.0)
        self._fraction = course.fraction if course else 0.0
        self._sent_at = float("-inf")
        self._eta_seconds: float | None = None
        self._eta_at = self._started_at
        self.warnings: list[ReportWarning] = list(course.warnings) if course else []
        self.timings: dict[str, float] = dict(course.timings) if course else {}

    @property
    def elapsed_seconds(self) -> float:
        """Since the recipe began."""
        return self._clock() - self._started_at

    @property
    def course(self) -> Course:
        """How far it is, for whoever goes on."""
        return Course(self._fraction, self.elapsed_seconds, self.timings, self.warnings)

    @contextmanager
    def step(self, step: Step, message: str) -> Iterator[StepProgress]:
        """Run the body as one step; it is given a function that takes the progress inside. Timed, also if it raises."""
        steps = list(self._weights)
        before = sum(self._weights[earlier] for earlier in steps[: steps.index(step)]) / self._total
        share = self._weights[step] / self._total

        def advance(done: float, total: float, detail: str | None = None) -> None:
            inside = min(1.0, done / total) if total > 0 else 1.0
            self._move(step, before + share * inside, detail or message)

        began_at = self._clock()
        self._move(step, before, message, at_once=True)
        try:
            yield advance
            self._move(step, before + share, message, at_once=step == steps[-1])
        finally:
            self.timings[step.value] = self.timings.get(step.value, 0.0) + self._clock() - began_at

    def metric(self, **data: float | str | None) -> None:
        """Tell a figure as it appears, such as an epoch's loss."""
        self._report(MetricMessage(data=data))

    def checkpoint(self, epoch: int) -> None:
        """Tell that the checkpoint after this epoch is written."""
        self._report(CheckpointMessage(epoch=epoch))

    def log(self, message: str) -> None:
        """Tell a line for the job's history."""
        self._report(LogMessage(kind="log", message=message[:2000]))

    def warn(
        self,
        code: str,
        message: str,
        hint: str | None = None,
        *,
        layer: str | None = None,
        evidence: str | None = None,
        suggestion: Suggestion | None = None,
    ) -> None:
        """Tell something the user should know or do, and keep it for the report; the same warning counts once.

        `message` is the cause in one sentence, `evidence` what was measured, `suggestion` a patch of the spec.
        """
        warning = ReportWarning(
            code=code, message=message, hint=hint, layer=layer, evidence=evidence, suggestion=suggestion
        )
        if warning not in self.warnings:
            self.warnings.append(warning)
            self._report(LogMessage(kind="warning", message=message[:2000]))

    def _move(self, step: Step, fraction: float, message: str, *, at_once: bool = False) -> None:
        self._fraction = max(self._fraction, min(1.0, fraction))
        now = self._clock()
        if not at_once and now - self._sent_at < _MESSAGE_INTERVAL_SECONDS:
            return
        self._sent_at = now
        self._estimate(now)
        self._report(
            ProgressMessage(step=step, fraction=self._fraction, message=message[:300], eta_seconds=self._eta_seconds)
        )

    def _estimate(self, now: float) -> None:
        if self._fraction < _ETA_AFTER_FRACTION:
            return
        latest = (now - self._started_at) * (1 - self._fraction) / self._fraction
        if self._eta_seconds is None:
            self._eta_seconds = latest
        else:
            counted_down = max(0.0, self._eta_seconds - (now - self._eta_at))
            self._eta_seconds = _ETA_SMOOTHING * latest + (1 - _ETA_SMOOTHING) * counted_down
        self._eta_at = now
