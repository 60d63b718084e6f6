"""What one stage of a job hands to the next: a file among the job's scratch.

A pickle, because nobody but the stages of the same job writes or reads it, each inside of the same sandbox: whoever
took one over would gain nothing by it that the upload, which is loaded again, does not offer already.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from shared.job_report import ArtifactResult
from worker.job_folder import JobFolder
from worker.progress import Course
from worker.steps.evaluate import Yardstick
from worker.steps.export import MadeFile

_NAME = "handover.pickle"

T = TypeVar("T")


@dataclass
class Handover:
    """All that is known of a job that quantizes between two stages."""

    course: Course
    qengine: str
    """Whose kernels the torch artifact is for."""
    yardstick: Yardstick
    explained: dict[str, Any]
    """Fields of the report that are settled."""
    float_layers: list[str]
    """Those that the plan leaves in float."""
    float_torch: Path
    """The float model, frozen to TorchScript."""
    files: list[MadeFile]
    """The torch artifact first."""
    float_onnx: Path | None = None
    """The float model as ONNX, where that was wanted and worked."""
    artifacts: list[ArtifactResult] = field(default_factory=list)
    """What they are worth in their runtimes."""


def hand_over(folder: JobFolder, handover: object) -> None:
    """Leave it for the next stage."""
    with (folder.tmp / _NAME).open("wb") as file:
        pickle.dump(handover, file)


def take_over(folder: JobFolder, kind: type[T]) -> T:
    """What the stage before left."""
    with (folder.tmp / _NAME).open("rb") as file:
        found = pickle.load(file)  # noqa: S301  # the docstring of this module says why
    assert isinstance(found, kind)
    return found
