"""The page as a whole: self-contained, harmless, small, in order, and readable without a script."""

from __future__ import annotations

import hashlib
import math
import os
import re
import shutil
import subprocess
from base64 import b64encode
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from shared.job_report import JobReport
from tests.unit.worker.report_page.parsed import Node, parse
from tests.unit.worker.report_page.samples import (
    bare_dynamic,
    enormous,
    every_runtime,
    none_recommended,
    residual_cnn,
    trained,
    very_large,
)
from worker.report_page import figures, render_page

JOB = "job_019abc5d1f0e7a33c49d20"
SAMPLES = [bare_dynamic, residual_cnn, trained, every_runtime, none_recommended]
HOSTILE = [
    "</script><img src=x onerror=document.title='hacked'>",
    "\"><script>document.title='hacked'</script>",
    "' onmouseover='document.title=1' x='",
    "</style><style>*{display:none}</style>",
    "</title><svg onload=document.title='hacked'>",
    "<!--",
    "]]>",
    "&lt;b&gt;",
    "javascript:document.title='hacked'",
    "\x00\x1b[31m\u202egnp.exe",
    "{{7*7}}",
]


def page_of(report: JobReport) -> Node:
    return parse(render_page(report, job_id=JOB))


def changed(value: Any, change: Callable[[Any], Any]) -> Any:
    """A JSON document with every leaf changed."""
    if isinstance(value, dict):
        return {key: changed(each, change) for key, each in value.items()}
    if isinstance(value, list):
        return [changed(each, change) for each in value]
    return change(value)


# --- what is on it ----------------------------------------------------------------------------------------------------


def test_the_verdict_comes_first_then_the_files_what_to_do_and_the_evidence() -> None:
    sections = [each["aria-labelledby"] for each in page_of(residual_cnn()).all("section")]
    assert sections == [
        "verdict",
        "artifacts",
        "advice",
        "quality",
        "latency",
        "layer-times",
        "size",
        "layers",
        "sensitivity",
        "structure",
        "histograms",
        "calibration",
        "graphs",
        "provenance",
    ]


def test_what_is_absent_is_said_to_be() -> None:
    page = page_of(bare_dynamic())
    assert [each["aria-labelledby"] for each in page.all("section")] == [
        "verdict",
        "advice",
        "quality",
        "latency",
        "size",
        "layers",
        "provenance",
    ]
    assert (
        "Not in this report, because it was not asked for or dynamic quantization has none: artifacts; time by layer; "
        "sensitivity;" in page.text()
    )


def test_every_layer_is_on_the_page_before_any_script_runs() -> None:
    report = residual_cnn()
    names = {each.text() for each in page_of(report).all("code")}
    assert {each.name for each in report.layers} <= names


@pytest.mark.parametrize("make", SAMPLES)
def test_the_same_report_gives_the_same_page(make: Callable[[], JobReport]) -> None:
    report = make()
    copy = JobReport.model_validate_json(report.model_dump_json())
    assert render_page(report, job_id=JOB) == render_page(copy, job_id=JOB)


def test_a_model_of_400_layers_and_1500_nodes_stays_under_2_mb() -> None:
    report = very_large()
    assert report.graphs is not None
    assert (len(report.layers), len(report.graphs.int8_nodes), len(report.graphs.float_nodes)) == (400, 1500, 1500)
    assert len(render_page(report, job_id=JOB).encode()) < 2_000_000


@pytest.mark.parametrize(
    ("layers", "nodes", "suffix"),
    [(1000, 2000, ""), (1000, 2000, "block." * 20), (1500, 3000, "'&" * 60)],
    ids=["at the caps", "at the caps, with long names", "beyond them, with names that are escaped"],
)
def test_a_page_stays_under_2_mb_whatever_the_model_and_says_what_it_left_out(
    layers: int, nodes: int, suffix: str
) -> None:
    page = render_page(enormous(layers, nodes, suffix=suffix), job_id=JOB)
    assert len(page.encode()) < 2_000_000
    told = parse(page)
    for anchor in ("advice", "layers", "sensitivity", "structure", "histograms", "calibration", "graphs"):
        [section] = [each for each in told.all("section") if each["aria-labelledby"] == anchor]
        assert section.all("code", "td", "svg"), f"nothing is left in {anchor}"
        assert re.search(r"more: see report\.json|are listed\.", section.text()), anchor
    for caption, count, noun in (("Layers, from input", layers, "layer"), ("int8 graph, after", nodes, "node")):
        [table] = [each for each in told.all("table") if each.one("caption").text().startswith(caption)]
        shown = len(table.one("tbody").all("tr"))
        assert shown > 20
        left_out = f"The first {shown} are shown; {figures.plural(count - shown, noun)} more: see report.json."
        assert left_out in told.text()


def test_every_combination_of_batch_size_and_threads_fits() -> None:
    report = every_runtime()
    first = report.latency[0].model_copy(update={"note": "n" * 50_000})
    report.latency = [
        first.model_copy(update={"batch_size": batch_size, "threads": threads})
        for batch_size in range(1, 9)
        for threads in range(1, 9)
    ]
    page = render_page(report, job_id=JOB)
    assert len(page.encode()) < 2_000_000
    assert len(parse(page).all("svg")) > 5


# --- how it can be read -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", SAMPLES)
def test_the_page_can_be_read_by_keyboard_and_screen_reader(make: Callable[[], JobReport]) -> None:
    """One h1, no heading level skipped, a name for every table, column, row, drawing and box that scrolls."""
    page = page_of(make())
    assert page.one("html")["lang"] == "en"
    levels = [int(each.tag[1]) for each in page.all("h1", "h2", "h3", "h4")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    for table in page.all("table"):
        assert table.one("caption").text()
        assert all(each["scope"] == "col" for each in table.one("thead").all("th"))
        for row in table.one("tbody").all("tr"):
            assert [each["scope"] for each in row.all("th")] == ["row"]
            assert len(row.all("th", "td")) == len(table.one("thead").all("th"))
    assert all(each.all("title")[0].text() and each["role"] == "img" for each in page.all("svg"))
    for box in page.all("div"):
        if "scroll" in (box["class"] or "").split():
            assert (box["role"], box["tabindex"]) == ("region", "0")
            assert box["aria-label"]
    assert page.all("a")[0]["href"] == "#main"


@pytest.mark.parametrize("make", SAMPLES)
def test_ids_are_unique_and_every_link_leads_somewhere_on_the_page(make: Callable[[], JobReport]) -> None:
    page = page_of(make())
    ids = [each["id"] for each in page.walk() if each["id"]]
    assert len(set(ids)) == len(ids)
    assert {each["href"] for each in page.all("a")} <= {f"#{each}" for each in ids}


# --- what it may do ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", SAMPLES)
def test_the_page_needs_no_network(make: Callable[[], JobReport]) -> None:
    written = render_page(make(), job_id=JOB)
    page = parse(written)
    assert page.all("link", "img", "iframe", "object", "embed", "base", "form", "video", "audio", "source") == []
    for each in page.walk():
        assert each["src"] is None
        assert (each["href"] or "#").startswith("#")
        assert each["style"] is None  # the policy forbids it
    [style], [script] = page.all("style"), page.all("script")
    assert set(re.findall(r"url\(([^)]*)\)", style.text())) == {"#tip"}
    assert "@import" not in style.text()
    assert not re.search(
        r"fetch|XMLHttp|WebSocket|import\(|innerHTML|insertAdjacent|document\.write|eval", script.text()
    )


def test_the_policy_allows_this_style_and_script_and_nothing_else() -> None:
    page = page_of(residual_cnn())
    [policy] = [each["content"] for each in page.all("meta") if each["http-equiv"] == "Content-Security-Policy"]
    assert policy is not None
    directives = dict(each.strip().split(" ", 1) for each in policy.split(";"))
    assert directives["default-src"] == "'none'"
    for tag in ("style", "script"):
        digest = b64encode(hashlib.sha256(page.one(tag).text().encode()).digest()).decode()
        assert directives[f"{tag}-src"] == f"'sha256-{digest}'"


def noted() -> JobReport:
    """Something is to be said of the artifact."""
    report = residual_cnn(3)
    return report.model_copy(
        update={"artifacts": [each.model_copy(update={"note": "See below."}) for each in report.artifacts]}
    )


def hostile_report() -> JobReport:
    """Every text that is not one of the contract's own words comes from an attacker."""
    report = noted()
    texts = iter(range(10**9))

    def attack(value: Any) -> Any:
        return f"{HOSTILE[next(texts) % len(HOSTILE)]}" if isinstance(value, str) else value

    fields = report.model_dump(mode="json")
    for part in (
        "layers",
        "sensitivity",
        "boundaries",
        "fusions",
        "graphs",
        "histograms",
        "layer_times",
        "warnings",
        "spec",
        "environment",
    ):
        fields[part] = changed(fields[part], attack)
    fields["latency"][0]["candidates"][0]["name"] = HOSTILE[0]
    fields["latency"][0]["baseline"] = HOSTILE[3]
    fields["artifacts"][0]["note"] = HOSTILE[4]
    fields["quality"]["fidelity"][0]["output"] = HOSTILE[1]
    fields["before"]["job"] = HOSTILE[2]
    fields["timings"] = dict.fromkeys(HOSTILE, 1.0)
    # Literals stay what they were: an attacker who could change them would be refused by the report's schema.
    return JobReport.model_validate(_literals_kept(fields, report.model_dump(mode="json")))


def _literals_kept(fields: Any, original: Any) -> Any:
    literal = {"precision", "role", "dtype", "direction", "op", "flags", "torch", "qengine", "kind", "changed"}
    if isinstance(fields, dict) and isinstance(original, dict):
        return {
            key: original[key] if key in literal and key in original else _literals_kept(each, original.get(key))
            for key, each in fields.items()
        }
    if isinstance(fields, list) and isinstance(original, list):
        return [_literals_kept(*pair) for pair in zip(fields, original, strict=True)]
    return fields


def test_hostile_names_are_text() -> None:
    harmless, attacked = page_of(noted()), page_of(hostile_report())
    assert {each.tag for each in attacked.walk()} == {each.tag for each in harmless.walk()}
    assert len(attacked.all("script")) == len(attacked.all("style")) == 1
    names = {name for each in attacked.walk() for name in each.attributes}
    assert names == {name for each in harmless.walk() for name in each.attributes}
    assert not [name for name in names if name.startswith("on")]
    shown = attacked.text()
    assert all(each in shown for each in HOSTILE[:9])
    assert "\u202e" not in shown
    assert "\x00" not in shown


def opened(page: str, folder: Path) -> str:
    """The page in a browser, from disk, after its scripts have run."""
    (folder / "report.html").write_text(page, encoding="utf-8")
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    command += ["--virtual-time-budget=2000", "--dump-dom", f"{folder / 'report.html'}"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


@pytest.fixture
def listener() -> Iterator[tuple[str, list[str]]]:
    """A server on this machine, and the paths that were asked of it."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Access-Control-Allow-Origin", "*")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing on stderr."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


@pytest.mark.skipif(
    shutil.which("chromium") is None and os.environ.get("CI") != "true", reason="chromium is not installed"
)
@pytest.mark.parametrize("policy", [True, False], ids=["with the policy", "without"])
def test_markup_that_got_onto_the_page_runs_nothing_and_reaches_nobody(
    tmp_path: Path, listener: tuple[str, list[str]], policy: bool
) -> None:
    """The second line of defence, for a page opened from disk; without it the same markup does both."""
    url, asked = listener
    got_in = (
        f"<img src={url}/image><iframe src={url}/frame></iframe><link rel=stylesheet href={url}/style>"
        f"<script src={url}/script></script>"
        f"<script>document.title='hacked'; fetch('{url}/fetch')</script>"
    )
    page = render_page(residual_cnn(3), job_id=JOB).replace("</main>", f"{got_in}</main>")
    if not policy:
        page = re.sub("<meta http-equiv=[^>]*>", "", page)
    shown = opened(page, tmp_path)
    assert ("<title>hacked" in shown) is not policy
    assert set(asked) == (set() if policy else {"/image", "/frame", "/style", "/script", "/fetch"})


@pytest.mark.skipif(
    shutil.which("chromium") is None and os.environ.get("CI") != "true", reason="chromium is not installed"
)
def test_hostile_names_do_nothing_in_a_browser_and_the_script_does_its_work(tmp_path: Path) -> None:
    report = hostile_report()
    dom = re.sub(r"<(script|style)>.*?</\1>", "", opened(render_page(report, job_id=JOB), tmp_path), flags=re.DOTALL)
    assert "<title>hacked" not in dom
    assert "<img" not in dom
    assert '<thead><tr><th scope="col"><button type="button">' in dom  # the policy let our own script run
    assert '<input type="search"' in dom


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0.0, -1.0, 1e308, 1e-308])
def test_any_number_can_be_drawn(value: float) -> None:
    """No drawing has a coordinate that is none, and no text says nan or inf as Python does."""
    fields = changed(trained(3).model_dump(), lambda each: value if isinstance(each, float) else each)
    page = page_of(JobReport.model_validate(fields))
    for drawing in page.all("svg"):
        for each in drawing.walk():
            for name in ("x", "y", "x1", "x2", "y1", "y2", "width", "height", "d", "points", "cx", "cy"):
                assert not re.search("nan|inf", each[name] or "")
    for each in page.all("section"):
        if each["aria-labelledby"] != "provenance":  # the spec is JSON, with its own words
            assert not re.search(r"\b(nan|inf|None)\b", each.text())


def test_empty_lists_are_drawn_too() -> None:
    fields = trained(3).model_dump()
    for part in (
        "layers",
        "boundaries",
        "fusions",
        "histograms",
        "ranges",
        "recovery",
        "kernels",
        "warnings",
        "latency",
    ):
        fields[part] = []
    fields["quality"]["fidelity"] = []
    fields["quality"]["metric"] = None
    fields["graphs"] = {"float": [], "int8": []}
    fields["sensitivity"]["layers"] = []
    fields["training"]["epochs"] = []
    fields["calibration"]["inputs"] = []
    assert "not measured" in page_of(JobReport.model_validate(fields)).text()
