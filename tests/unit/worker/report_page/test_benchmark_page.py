"""The page of a benchmark: as self-contained and harmless as that of a job that quantizes."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from api.examples import BENCHMARK_JOB
from shared.benchmark_report import BenchmarkReport
from tests.unit.worker.report_page.parsed import Node, parse
from tests.unit.worker.report_page.test_page import HOSTILE, JOB, changed
from worker.report_page import render_page
from worker.report_page.page import MAX_BYTES

REPORT: dict[str, Any] = BENCHMARK_JOB["report"]


def page_of(report: dict[str, Any]) -> Node:
    return parse(render_page(BenchmarkReport.model_validate(report), job_id=JOB))


def test_the_conclusion_comes_first_then_the_candidates_and_the_evidence() -> None:
    page = page_of(REPORT)
    sections = [each["aria-labelledby"] for each in page.all("section")]
    assert sections == ["verdict", "candidates", "latency", "advice", "provenance"]
    text = page.text()
    assert REPORT["conclusion"] in text
    figures = ("97.78\u00a0%", "31.4\u00a0dB", "3 of 3", "2.00×")
    for told in ("Fastest: digits in int8, model_int8.onnx in ONNX Runtime", *figures):
        assert told in text
    assert "reference" in text
    assert page.all("title")[0].text() == "Benchmark: digits in int8, model_int8.onnx in ONNX Runtime – Octavo"


def test_what_is_missing_wrong_or_differs_is_marked_and_explained() -> None:
    report = deepcopy(REPORT)
    [form] = report["candidates"][1]["forms"]
    form.update(labels=["differs"], note="Its answers are others.")
    report["candidates"][0]["forms"].append(
        form | {"name": "float/openvino", "kind": "openvino", "runtime": "openvino", "labels": ["missing"]}
        | {"quality": None, "load": None, "size_bytes": None, "note": "OpenVINO does not take the file."}
    )  # fmt: skip
    page = page_of(report)
    assert {"differs", "missing"} <= {each.text() for each in page.all("span")}
    assert "OpenVINO does not take the file." in page.text()
    assert "Fastest, and differs: digits in int8" in page.text()


def test_no_text_of_the_report_becomes_markup() -> None:
    """Names of candidates are the user's, the rest was written where an upload ran."""
    report = deepcopy(REPORT)
    texts = iter(range(10**9))

    def attack(value: Any) -> Any:
        return HOSTILE[next(texts) % len(HOSTILE)] if isinstance(value, str) else value

    for part in ("spec", "warnings"):
        report[part] = changed(report[part], attack)
    report["conclusion"] = HOSTILE[0]
    report["timings"] = dict.fromkeys(HOSTILE, 1.0)
    report["latency"][0] |= {"note": HOSTILE[1], "conclusion": HOSTILE[2]}
    report["environment"] |= {"cpu_model": HOSTILE[3], "governor": HOSTILE[4]}
    for number, candidate in enumerate(report["candidates"]):
        evil = HOSTILE[number]
        renamed = {each["name"]: f"{evil}/{each['kind']}" for each in candidate["forms"]}
        report = changed(report, lambda value, renamed=renamed: renamed.get(value, value))
        report["candidates"][number] |= {"name": evil, "source": HOSTILE[5]}
        report["candidates"][number]["forms"][0]["note"] = HOSTILE[6]
    page = page_of(report)
    assert len(page.all("script")) == 1
    assert len(page.all("style")) == 1
    for tag in ("img", "iframe"):
        assert page.all(tag) == []
    assert HOSTILE[0] in page.text()


@pytest.mark.parametrize("count", [1, 8])
def test_every_size_of_a_benchmark_fits(count: int) -> None:
    report = deepcopy(REPORT)
    report["latency"] = report["latency"] * (8 * count)
    assert len(render_page(BenchmarkReport.model_validate(report), job_id=JOB).encode()) < 2_000_000


def test_the_largest_benchmark_fits_and_says_what_is_left_out() -> None:
    """Eight candidates in all of their forms, at every combination that can be asked, under the longest names."""
    runtimes = {
        "eager": "torch", "channels_last": "torch", "frozen": "torch", "onnxruntime": "onnxruntime",
        "openvino": "openvino", "openvino_bf16": "openvino",
    }  # fmt: skip
    names = [f"{number}{'&' * 79}" for number in range(8)]
    forms = [f"{name}/{kind}" for name in names for kind in runtimes]
    [first], form = REPORT["latency"], REPORT["candidates"][0]["forms"][0]
    report = REPORT | {
        "fastest": forms[0],
        "reference": forms[0],
        "candidates": [
            REPORT["candidates"][0]
            | {"name": name}
            | {
                "forms": [
                    form | {"name": f"{name}/{kind}", "kind": kind, "runtime": runtime, "note": "n" * 5000}
                    for kind, runtime in runtimes.items()
                ]
            }
            for name in names
        ],
        "latency": [
            first
            | {"batch_size": batch_size, "threads": threads, "baseline": forms[0], "fastest": forms[0]}
            | {"conclusion": "c" * 50_000, "note": "n" * 50_000}
            | {"candidates": [first["candidates"][0] | {"name": name} for name in forms]}
            | {"speedups": [first["speedups"][0] | {"name": name} for name in forms[1:]]}
            for batch_size in range(1, 9)
            for threads in range(1, 9)
        ],
    }
    written = render_page(BenchmarkReport.model_validate(report), job_id=JOB)
    assert len(written.encode()) < MAX_BYTES
    [section] = [each for each in parse(written).all("section") if each["aria-labelledby"] == "latency"]
    for table in section.all("table"):
        assert len(table.one("tbody").all("tr")) > 5
    assert section.text().count("more: see report.json") == 2, "the tables of speedups and of latencies"
