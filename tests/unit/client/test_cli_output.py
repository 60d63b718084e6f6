"""What the command prints came from models and servers: a terminal must not obey it."""

import click
import pytest

from octavo.cli.output import data, message, terminal_width


@pytest.mark.parametrize(
    "command", ["\x1b]0;title\x07", "\x1b[2J", "\x1bc", "\x9b31m", "a\rb", "\x08", "\u202egnp.exe", "\u2066"]
)
def test_what_a_terminal_would_obey_is_replaced(command: str, capfd: pytest.CaptureFixture[str]) -> None:
    data(f"<{command}>")
    message(f"<{command}>")
    for text in capfd.readouterr():
        assert command not in text
        assert "\ufffd" in text


def test_lines_columns_and_colours_are_kept(capfd: pytest.CaptureFixture[str]) -> None:
    line = f"one\ttwo\n{click.style('Größe 1×', fg='red')}"
    with click.Context(click.Command("octavo"), color=True):
        data(line)
    assert capfd.readouterr().out == f"{line}\n"


@pytest.mark.parametrize(("columns", "width"), [(20, 60), (80, 80), (300, 120)])
def test_lines_are_as_long_as_the_terminal_within_what_is_good_to_read(
    columns: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert terminal_width() == width
