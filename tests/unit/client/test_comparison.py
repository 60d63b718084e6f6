"""Several jobs side by side."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import octavo
from octavo._report import Report
from tests.unit.client import samples

ASKED = {"method": "static", "name": "first", "activation": {"observer": "histogram", "percentile": 99.0}}
OVERRIDE = {"layer": "layer4.1.conv2", "op": None, "activation": {"observer": "percentile"}, "weight": None}


@dataclass(frozen=True)
class Handle:
    """What of a job a comparison reads."""

    id: str
    name: str | None
    report: Report


def report(sqnr_db: float | None = 11.2, **changes: Any) -> Report:
    body = deepcopy(samples.explained_report(**{"spec": {**ASKED, "overrides": [{"layer": "fc"}]}, **changes}))
    body["layers"][1]["error"]["sqnr_db"] = sqnr_db
    return Report.model_validate(body)


BETTER = report(
    30.4,
    spec={**ASKED, "name": "second", "activation": {"observer": "minmax"}, "overrides": [{"layer": "fc"}, OVERRIDE]},
)


def test_figures_stand_in_columns_a_job_each() -> None:
    slower = samples.report()["latency"][0] | {"speedup": 0.99, "speedup_ci95": [0.9, 1.1], "significant": False}
    dynamic = report(method="dynamic", latency=[slower], quality=samples.report()["quality"] | {"metric": None})
    expected = """\
                   A                        B
method             static                   dynamic
verdict            recommended              recommended
top1               99.33% → 99.16%          –
change             −0.17 pp                 –
same arg max       99.50%                   99.50%
SQNR               31.2 dB                  31.2 dB
file               1.5 MB → 400 kB (3.75×)  1.5 MB → 400 kB (3.75×)
fastest float      frozen torch float       frozen torch float
fastest int8       torch int8               torch int8
p50                0.72 ms → 0.4 ms         0.72 ms → 0.4 ms
speedup (95 % CI)  1.80× (1.74–1.86)        0.99× (0.90–1.10)"""
    assert octavo.compare([report(), dynamic]).figures() == expected


def test_what_each_recommends_stands_last_and_the_artifacts_are_there_for_programs() -> None:
    comparison = octavo.compare([Report.model_validate(samples.report_of_every_runtime()), report()])
    assert comparison.figures().splitlines()[-1].split() == ["recommended", "model_int8.pt", "–"]
    assert [len(each.artifacts) for each in comparison.jobs] == [3, 0]


def test_jobs_are_named_before_their_figures() -> None:
    jobs = [Handle("job_1", "first", report()), Handle("job_2", None, BETTER)]
    comparison = octavo.compare(jobs)
    assert str(comparison).splitlines()[:3] == ["A  job_1  first", "B  job_2  second", ""]
    assert [each.job for each in comparison.jobs] == ["job_1", "job_2"]
    assert all(stats.samples_ms == [] for each in comparison.jobs for stats in each.latency[0].candidates)
    assert jobs[0].report.latency[0].candidates[0].samples_ms, "the reports themselves are left as they are"


def test_what_was_asked_differently_is_told_but_not_what_only_one_method_knows() -> None:
    comparison = octavo.compare([report(), BETTER])
    assert [(each.field, each.values) for each in comparison.spec] == [
        ("activation.observer", ["histogram", "minmax"]),
        ("overrides", [[{"layer": "fc"}], [{"layer": "fc"}, OVERRIDE]]),
    ]
    lines = comparison.text(120).splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("Asked differently"))
    assert lines[start : start + 3] == [
        "Asked differently    A          B",
        "activation.observer  histogram  minmax",
        "overrides            –          layer4.1.conv2: activation.observer=percentile",
    ]
    assert "layer4.1.conv2: …erver=percentile" in comparison.text(90)


def test_lists_of_plain_values_are_told_whole() -> None:
    specs = ({"benchmark": {"batch_sizes": [1, 8]}}, {"benchmark": {"batch_sizes": [8]}})
    reports = [report() for _ in specs]
    for each, spec in zip(reports, specs, strict=True):
        each.spec = spec
    assert "benchmark.batch_sizes  1, 8  8" in octavo.compare(reports).text(120)


def test_a_noisy_speedup_is_marked() -> None:
    noisy = report()
    noisy.latency = [noisy.latency[0].model_copy(update={"noisy": True})]
    assert octavo.compare([noisy, report()]).text(120).count(", noisy") == 1


def test_layers_that_all_jobs_compared_come_with_the_largest_difference_first() -> None:
    fewer = report(None)
    fewer.layers = fewer.layers[:3]
    comparison = octavo.compare([report(), BETTER])
    assert (comparison.layers[0].layer, comparison.layers[0].sqnr_db) == ("layer4.1.conv2", [11.2, 30.4])
    assert comparison.layers[3].precision == ["float32", "float32"]
    against_fewer = octavo.compare([BETTER, fewer])
    assert {each.layer for each in against_fewer.layers} == {each.name for each in fewer.layers}
    assert against_fewer.layers[0].sqnr_db == [30.4, None], "identical in one of them only"
    assert "layer4.1.conv2                            30.4 dB  identical" in str(against_fewer)
    assert "20.4 dB (float32)" in str(comparison)


def test_many_layers_are_counted() -> None:
    body = samples.explained_report()
    body["layers"] = [{**body["layers"][0], "name": f"conv{number}"} for number in range(30)]
    text = str(octavo.compare([Report.model_validate(body)] * 2))
    assert "conv19" in text
    assert "conv20" not in text
    assert "and 10 more layers that differ less" in text


def test_a_comparison_shows_itself_in_a_notebook() -> None:
    hostile = Handle("job_1", None, report(spec={"name": "<script>"}))
    html = octavo.compare([hostile, hostile])._repr_html_()
    assert "&lt;script&gt;" in html
    assert "<script>" not in html
