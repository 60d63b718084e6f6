"""Jobs and reports in a notebook."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from octavo._job_card import job_card
from octavo._report import Report
from octavo._report_parts import artifacts_part, report_parts
from octavo._types import JobData
from tests.unit.client import samples

OF_FILES = {name: samples.report_of_every_runtime()[name] for name in ("recommended", "artifacts", "latency")}


def card(**changes: object) -> str:
    return Report.model_validate(samples.explained_report(**changes))._repr_html_()


@pytest.mark.parametrize("status", ["queued", "running", "succeeded", "failed", "cancelled"])
def test_a_card_shows_every_status_and_escapes_what_came_from_outside(status: str) -> None:
    hostile = "<script>alert(1)</script>"
    error = {"code": hostile, "message": hostile, "hint": hostile, "owner": "user"} if status == "failed" else None
    progress = {"fraction": 0.5, "message": hostile}
    html = job_card(JobData.model_validate(samples.job(status, name=hostile, error=error, progress=progress)))
    assert status in html
    assert "<script>" not in html
    assert "&lt;script&gt;" in html


def test_a_job_that_no_worker_may_run_says_what_it_waits_for() -> None:
    html = job_card(JobData.model_validate(samples.job("queued", waiting_for="No live worker has <avx9>.")))
    assert "No live worker has &lt;avx9&gt;." in html


def test_a_report_card_escapes_too() -> None:
    hostile = "<img onerror=alert(1)>"
    verdict = {"word": hostile, "sentence": hostile, "accuracy": "met"}
    fidelity = [{"output": hostile, "sqnr_db": 3.0, "cosine": 1.0, "agreement": 1.0}] * 2
    warning = {"code": "c", "message": hostile, "layer": hostile, "evidence": hostile, "hint": hostile}
    advised = {**warning, "suggestion": {"title": hostile, "patch": {}, "expected": hostile}}
    layer = {**samples.explained_report()["layers"][0], "name": hostile, "op": hostile}
    artifact = samples.artifact_result(hostile, hostile, labels=[hostile], note=hostile)
    html = card(
        method=hostile,
        artifacts=[artifact],
        verdict=verdict,
        quality=samples.report()["quality"] | {"fidelity": fidelity},
        warnings=[warning, advised],
        layers=[layer],
        before={**samples.explained_report()["before"], "job": hostile, "changes": {hostile: hostile}},
    )
    assert html.count("&lt;img") > 10
    assert "<img" not in html
    assert "99.16%" in html


def test_a_card_says_the_verdict_first_then_the_files_what_to_do_figures_and_layers() -> None:
    html = card(**OF_FILES)
    order = [
        "static: recommended",
        "model_int8.onnx",
        "What to do",
        "job.retry_with(0)",
        "−0.17 pp",
        "Before (job_",
        "<svg",
    ]
    places = [html.index(each) for each in order]
    assert places == sorted(places)


def test_a_card_is_well_formed_and_has_a_bar_for_each_layer_that_was_compared() -> None:
    """The longer the bar, the nearer to float; names in full in the titles."""
    tree = ET.fromstring(card())
    plot = tree.find("svg")
    assert plot is not None
    assert [title.text for title in plot.iter("title")] == [
        "layer4.1.conv2 (Conv2d)",
        "fc (Linear)",
        "backbone.features.denseblock4.denselayer16.conv2 (Conv2d)",
        "conv1 (Conv2d)",
    ]
    lengths = [float(bar.attrib["width"]) for bar in plot.iter("rect")]
    assert lengths == sorted(lengths)
    assert lengths[0] == pytest.approx(260 * 11.2 / 60, abs=0.06), "260 pixels stand for 60 dB; rounded to 0.1"


def test_a_card_tells_all_that_the_terminal_does() -> None:
    report = Report.model_validate(samples.full_report(**OF_FILES))
    tree, text = ET.fromstring(report._repr_html_()), report.table(1000)
    parts = list(report_parts(report))
    assert [part.title.split(",")[0].split(":")[0] for part in parts] == [
        "Latency of each candidate", "Time by layer", "Layers", "Sensitivity", "Quant boundaries", "In float",
        "Calibration", "Ranges that were tried", "Accuracy recovery", "Kernels", "Training",
    ]  # fmt: skip
    said = "\n".join(tree.itertext())
    for part in [artifacts_part(report), *parts]:
        for each in (part.title, *part.told, *(cell for row in part.rows for cell in row)):
            assert each in said
            assert each in text


def test_a_report_without_layers_has_no_plot_and_without_warnings_no_advice() -> None:
    html = card(layers=[], warnings=[], before=None)
    assert "<svg" not in html
    assert "What to do" not in html


def test_a_job_that_has_succeeded_shows_its_report() -> None:
    assert "What to do" in job_card(JobData.model_validate(samples.job("succeeded", report=samples.explained_report())))


def test_bars_have_the_colour_of_the_precision_and_no_judgement_of_the_client_s_own() -> None:
    plot = ET.fromstring(card()).find("svg")
    assert plot is not None
    colours = [bar.attrib["fill"] for bar in plot.iter("rect")]
    assert colours[2] == colours[3] != colours[1], "fc is in float; 21 and 33 dB are told by their length"
    assert colours[0] not in colours[1:], "there the model first goes wrong, says the report"


def test_where_the_model_first_goes_wrong_is_said_before_the_layers_and_not_where_the_report_does_not() -> None:
    html = card()
    assert html.index(samples.explained_report()["first_wrong"]["told"]) < html.index("<svg")
    assert "first goes wrong" not in card(first_wrong=None)
