"""What the command prints came from models and servers: a terminal must not obey it."""

import json
from datetime import UTC, datetime

import click
import pytest

from octavo import Report, compare
from octavo._progress import JobBar
from octavo._types import JobEvent
from octavo.cli.output import coloured, data, message, terminal_width, write_json
from tests.unit.client import samples


@pytest.mark.parametrize(
    "command",
    [
        "\x1b[31m",
        "\x1b[8m",
        "\u2028",
        "\x1b]0;title\x07",
        "\x1b[2J",
        "\x1bc",
        "\x9b31m",
        "a\rb",
        "\x08",
        "\u202egnp.exe",
        "\u2066",
    ],
)
def test_what_a_terminal_would_obey_is_replaced(command: str, capfd: pytest.CaptureFixture[str]) -> None:
    data(f"<{command}>")
    message(f"<{command}>")
    for text in capfd.readouterr():
        assert command not in text
        assert "\ufffd" in text


def test_lines_columns_and_our_own_colours_are_kept(capfd: pytest.CaptureFixture[str]) -> None:
    with click.Context(click.Command("octavo"), color=True):
        data("one\ttwo\n", coloured("Größe 1×\x1b[8m", "red"))
    assert capfd.readouterr().out == f"one\ttwo\n{click.style('Größe 1×�[8m', fg='red')}\n"


def test_json_is_ascii_so_that_no_terminal_obeys_it_and_nothing_is_lost(capfd: pytest.CaptureFixture[str]) -> None:
    value = {"name": "größe\x9b31m\u202e", "list": ["\x1b[8m"]}
    write_json(value)
    written = capfd.readouterr().out
    assert written.isascii()
    assert "\x1b" not in written
    assert json.loads(written) == value


HOSTILE = "a\x1b]0;b\x07\x9b8m\u202ec"


def test_what_the_sdk_shows_as_text_obeys_no_terminal_either(capfd: pytest.CaptureFixture[str]) -> None:
    """A report's names and sentences, a comparison, and the bar of a job that runs."""
    report = Report.model_validate(samples.explained_report())
    report.verdict.sentence = report.layers[0].name = HOSTILE
    other = report.model_copy(deep=True, update={"spec": report.spec | {"name": "x", HOSTILE: HOSTILE}})
    found = compare([report, other])
    with JobBar(HOSTILE, enabled=True) as bar:
        for kind in ("progress", "status", "warning"):
            told = {"step": HOSTILE, "status": HOSTILE, "message": HOSTILE}
            bar.update(JobEvent(seq=1, kind=kind, created_at=datetime.now(UTC), data=told))
    for text in (report.table(), found.text(), found.figures(), capfd.readouterr().err):
        assert not {"\x07", "\x9b", "\u202e"} & set(text)
        assert "\x1b]" not in text


@pytest.mark.parametrize(("columns", "width"), [(20, 60), (80, 80), (300, 120)])
def test_lines_are_as_long_as_the_terminal_within_what_is_good_to_read(
    columns: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert terminal_width() == width
