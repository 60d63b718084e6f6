"""What supervisor and runner agree on beside a recipe's progress: ready, start, what comes next, how threads wait."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from worker.sandbox import SandboxLevel, SandboxLimits

MAX_LINE_BYTES = 64 * 1024
# A thread of torch's that waits for another spins 300,000 rounds, and where other processes compute, it keeps the core
# from the one that it waits for (networks took up to three times as long). With 10,000, latencies on a quiet machine
# are the same; with 1000, or OMP_WAIT_POLICY=passive, threads fall asleep between layers (up to 1.6 and 5 times).
THREADS_WAIT = {"GOMP_SPINCOUNT": "10000"}
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
