"""What a candidate takes, as its description says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from shared.errors import ModelUnsupported
from shared.model_file import TensorDescription
from worker.job_folder import CandidateFile, JobFolder
from worker.steps.candidates import open_candidates


def candidate(dtype: str) -> CandidateFile:
    inputs = [TensorDescription(name="x", shape=[None, 4], dtype=dtype)]
    return CandidateFile(name="net", source="job_1/net.onnx", file="net.onnx", format="onnx", inputs=inputs)


def test_types_are_those_of_torch_and_no_other_word_of_it(tmp_path: Path) -> None:
    """The type of an artifact's input stands in a report that a runner wrote."""
    [found] = open_candidates(JobFolder(tmp_path), [candidate("bfloat16")])
    assert found.specs[0].dtype is torch.bfloat16
    for word in ("load", "os", "__dict__", "float31"):
        with pytest.raises(ModelUnsupported, match=f"'x' takes '{word}', which is no type of torch"):
            open_candidates(JobFolder(tmp_path), [candidate(word)])
