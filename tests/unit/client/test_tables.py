"""Reports as text and as HTML."""

from __future__ import annotations

import pytest

import octavo
from octavo._job_card import job_card
from octavo._report import Report
from octavo._tables import aligned, bytes_text
from octavo._types import JobData
from tests.unit.client import samples


def report(**changes: object) -> Report:
    return Report.model_validate(samples.report(**changes))


def test_a_report_as_a_table() -> None:
    """Figures flush right, the change behind them, warnings below."""
    assert report().table().splitlines() == [
        "static: 1.80 times as fast, accuracy holds.",
        "",
        "                          float     int8  change",
        "top1 on 597 samples      99.33%   99.16%  −0.17 pp (target 1.00 pp met)",
        "same arg max                      99.50%",
        "SQNR                             31.2 dB",
        "file                     1.5 MB   400 kB  3.75× smaller",
        "p50, batch 1, 1 thread  0.72 ms   0.4 ms  1.80× (1.74–1.86)",
        "Warning: Only 20 samples. [few_samples]",
        "  Hint: Use 100.",
    ]


def test_reports_side_by_side_keep_their_columns() -> None:
    slower = samples.report()["latency"][0] | {"speedup": 0.99, "speedup_ci95": [0.9, 1.1], "significant": False}
    quality = samples.report()["quality"] | {"metric": None}
    lines = octavo.compare([report(), report(method="dynamic", latency=[slower], quality=quality)]).splitlines()
    expected = """\
method   accuracy float → int8  drop      size                     p50 float → int8  speedup (95 % CI)  verdict
static   99.33% → 99.16%        −0.17 pp  1.5 MB → 400 kB (3.75×)  0.72 ms → 0.4 ms  1.80× (1.74–1.86)  recommended
dynamic  –                      –         1.5 MB → 400 kB (3.75×)  0.72 ms → 0.4 ms  0.99× (0.90–1.10)  recommended"""
    assert lines == expected.splitlines()


def test_a_speedup_in_doubt_is_said_to_be() -> None:
    doubtful = samples.report()["latency"][0] | {"speedup_ci95": [0.9, 1.1], "significant": False}
    assert "(0.90–1.10), no clear difference" in report(latency=[doubtful]).table()


def test_a_report_without_labels_and_latency_has_a_table() -> None:
    bare = report(quality=samples.report()["quality"] | {"metric": None, "fidelity": []}, latency=[], warnings=[])
    assert bare.table().splitlines()[2:] == ["       float    int8  change", "file  1.5 MB  400 kB  3.75× smaller"]
    assert "static" in octavo.compare([bare])


def test_a_mean_squared_error_is_no_percentage() -> None:
    metric = {"name": "mse", "float": 0.5, "int8": 0.52, "drop": 0.02, "max_drop": 0.01, "met": False}
    text = report(quality=samples.report()["quality"] | {"metric": metric}).table()
    assert "0.5" in text
    assert "+0.02 (target 0.01 not met)" in text
    assert "pp" not in text


def test_a_drop_of_nothing_has_no_minus() -> None:
    metric = samples.report()["quality"]["metric"] | {"drop": 0.0}
    assert "+0.00 pp" in report(quality=samples.report()["quality"] | {"metric": metric}).table()


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (123_456_789, "123 MB"), (5e12, "5 TB")]
)
def test_sizes_for_people(size: float, text: str) -> None:
    assert bytes_text(size) == text


def test_no_rows_are_no_text() -> None:
    assert aligned([]) == ""


@pytest.mark.parametrize("status", ["queued", "running", "succeeded", "failed", "cancelled"])
def test_a_card_shows_every_status_and_escapes_what_came_from_outside(status: str) -> None:
    hostile = "<script>alert(1)</script>"
    error = {"code": hostile, "message": hostile, "hint": hostile, "owner": "user"} if status == "failed" else None
    progress = {"fraction": 0.5, "message": hostile}
    html = job_card(JobData.model_validate(samples.job(status, name=hostile, error=error, progress=progress)))
    assert status in html
    assert "<script>" not in html
    assert "&lt;script&gt;" in html


def test_a_report_card_escapes_too() -> None:
    hostile = "<img onerror=alert(1)>"
    verdict = {"word": hostile, "sentence": hostile, "accuracy": "met"}
    fidelity = [{"output": hostile, "sqnr_db": 3.0, "cosine": 1.0, "agreement": 1.0}] * 2
    html = report(
        method=hostile, verdict=verdict, quality=samples.report()["quality"] | {"fidelity": fidelity}
    )._repr_html_()
    assert "<img" not in html
    assert "99.16%" in html


def test_what_a_newer_server_adds_is_kept() -> None:
    """Unknown fields and words must not break an older client."""
    newer = report(method="int4", invented={"a": 1})
    assert newer.model_dump()["invented"] == {"a": 1}
    assert newer.model_dump(mode="json")["quality"]["metric"]["float"] == 0.9933
