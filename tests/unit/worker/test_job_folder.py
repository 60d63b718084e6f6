"""A job's folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from shared.quantization_spec import DynamicSpec
from worker.job_folder import JobFolder, JobInputs

INPUTS = JobInputs(
    job_id="job_0123456789abcdef",
    spec=DynamicSpec(method="dynamic", model="mdl_0123456789abcdef"),
    datasets={"evaluation": "evaluation.npz"},
    threads=2,
)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path / "job")
    folder.create(INPUTS)
    assert folder.read_inputs() == INPUTS
    assert all(path.is_dir() for path in (folder.inputs, folder.outputs, folder.tmp))
    assert folder.model == tmp_path / "job" / "inputs" / "model.pt2"


def test_a_folder_with_other_contents_is_refused(tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text('{"job_id": "job_1"}')
    with pytest.raises(ValidationError):
        JobFolder(tmp_path).read_inputs()
