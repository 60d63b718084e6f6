"""Progress as numbers: what a running recipe tells its supervisor, line by line.

The runner writes one JSON line for each message; the supervisor validates every line, because whoever controls the
runner controls what it says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, TypeAdapter

from shared.errors import JobError
from shared.job import Step


class ProgressMessage(BaseModel):
    """How far the recipe is: `fraction` of the whole recipe, never falling."""

    kind: Literal["progress"] = "progress"
    step: Step
    fraction: Annotated[float, Field(ge=0, le=1)]
    message: Annotated[str, Field(max_length=300)] = ""
    eta_seconds: Annotated[float, Field(ge=0)] | None = None


class MetricMessage(BaseModel):
    """A figure worth keeping as it appears, such as an epoch's loss: `{"name": "loss", "value": 0.3, "epoch": 2}`."""

    kind: Literal["metric"] = "metric"
    data: dict[str, float | int | str | None]


class LogMessage(BaseModel):
    """A line for the job's history."""

    kind: Literal["log", "warning"]
    message: Annotated[str, Field(max_length=2000)]


class FinishedMessage(BaseModel):
    """The recipe is done: outputs/report.json and the artifacts are written."""

    kind: Literal["finished"] = "finished"


class FailedMessage(BaseModel):
    """The recipe gave up."""

    kind: Literal["failed"] = "failed"
    error: JobError


RunnerMessage = Annotated[
    ProgressMessage | MetricMessage | LogMessage | FinishedMessage | FailedMessage, Field(discriminator="kind")
]
runner_message_adapter: TypeAdapter[Any] = TypeAdapter(RunnerMessage)
Report = Callable[[ProgressMessage | MetricMessage | LogMessage], None]
