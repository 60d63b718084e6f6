"""What the page, the worker's, tells people to type is what the command, the client's, tells them."""

from __future__ import annotations

import pytest

from octavo._job_report import JobReport
from octavo._report_text import what_to_type
from shared.job_report import ReportWarning, Suggestion
from tests.unit.worker.report_page.parsed import parse
from tests.unit.worker.report_page.samples import residual_cnn
from worker.report_page import render_page

JOB = "job_0190a1b2c3d4e5f6"
PATCHES = [
    {"overrides": [{"layer": "conv1", "precision": "float32"}]},
    {"method": "static"},
    {"method": "static", "calibration": "dst_0123456789abcdef"},
    {"method": "qat"},
    {"method": "qat", "training": "dst_0123456789abcdef"},
]


@pytest.mark.parametrize("given", [{}, {"calibration": "dst_0123456789abcdef"}, {"training": "dst_0123456789abcdef"}])
def test_page_and_command_give_the_same_line_for_every_suggestion(given: dict[str, str]) -> None:
    """Data that the new method needs and the job lacks has the same file name to fill in."""
    warnings = [
        ReportWarning(code="planted", message="Planted.", suggestion=Suggestion(title="Change it", patch=patch))
        for patch in PATCHES
    ]
    report = residual_cnn(2)
    spec = {name: value for name, value in report.spec.items() if name not in ("calibration", "training")}
    report = report.model_copy(update={"warnings": warnings, "spec": spec | given})
    commands = [each.text() for each in parse(render_page(report, job_id=JOB)).all("pre") if each["class"] == "command"]
    client = JobReport.model_validate_json(report.model_dump_json())
    assert commands == [what_to_type(client, number, JOB) for number in range(len(PATCHES))]
    assert len(set(commands)) == len(PATCHES)
