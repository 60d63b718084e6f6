"""What a runner left behind, checked before anyone sees it: names, kinds, sizes, hashes, and the report's form."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from shared.errors import InternalError, OutputTooLarge
from shared.job import Artifact
from shared.job_report import JobReport

_EXPECTED: dict[str, tuple[Any, str]] = {
    "model_int8.pt": ("model", "application/octet-stream"),
    "report.json": ("report", "application/json"),
    "report.html": ("page", "text/html; charset=utf-8"),
    "load_example.py": ("example", "text/x-python; charset=utf-8"),
    "SHA256SUMS": ("manifest", "text/plain; charset=utf-8"),
}
_MAX_REPORT_BYTES = 64 * 1024**2


def collect_artifacts(outputs: Path, *, limit_bytes: int) -> list[Artifact]:
    """The artifacts in the folder, hashed.

    Raises OutputTooLarge, and InternalError when a file is missing, not one that a recipe writes, or not regular.
    """
    found = {entry.name: entry.stat(follow_symlinks=False) for entry in os.scandir(outputs)}
    if set(found) != set(_EXPECTED):
        unexpected = [name[:80] for name in sorted(set(found) - set(_EXPECTED))[:5]]
        raise InternalError(f"The recipe left {len(found)} files, {unexpected} among them, not {sorted(_EXPECTED)}.")
    # A hard link could be a file of somebody else's, shown under the job's name.
    if irregular := [name for name, each in found.items() if not stat.S_ISREG(each.st_mode) or each.st_nlink != 1]:
        raise InternalError(f"The recipe left {irregular} that are not regular files.")
    if sum(each.st_size for each in found.values()) > limit_bytes:
        raise OutputTooLarge
    artifacts = []
    for name, (kind, media_type) in _EXPECTED.items():
        with (outputs / name).open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        artifacts.append(
            Artifact(name=name, kind=kind, media_type=media_type, size_bytes=found[name].st_size, sha256=sha256)
        )
    return artifacts


def read_report(outputs: Path) -> dict[str, Any]:
    """The report as it will be stored; InternalError when it is not one."""
    path = outputs / "report.json"
    if path.stat().st_size > _MAX_REPORT_BYTES:
        raise OutputTooLarge("The report is too large.")
    try:
        return JobReport.model_validate_json(path.read_bytes()).model_dump(mode="json")
    except ValidationError as error:
        raise InternalError("The recipe wrote a report that is not one.") from error
