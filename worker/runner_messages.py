"""What supervisor and runner tell each other beside a recipe's progress: ready, start, and what comes next."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from worker.sandbox import SandboxLevel, SandboxLimits

MAX_LINE_BYTES = 64 * 1024
Task = Literal["job", "plan"]


class ReadyMessage(BaseModel):
    """The runner has imported torch and waits; `level` is what this node can reach."""

    kind: Literal["ready"] = "ready"
    level: SandboxLevel


class StartMessage(BaseModel):
    """The first line that a runner reads; after it, an empty one for each stage that may begin."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: Task = "job"
    folder: Path = Field(description="Absolute path of the job's folder: all that the runner keeps of the file system.")
    limits: SandboxLimits
    min_level: SandboxLevel = Field(description="With less the runner refuses before it touches the upload.")
