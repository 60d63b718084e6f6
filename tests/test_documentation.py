"""The documentation is tested against the code: what it names exists, and what exists is named."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from octavo.cli import main as octavo_command
from server.cli import main as server_command
from shared.job import TRANSITIONS
from shared.settings import Settings

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md")])
CLIENT_VARIABLES = {"OCTAVO_URL", "OCTAVO_API_KEY"}


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def test_generated_pages_are_current() -> None:
    """After changing a setting, an error, a command, an endpoint, the spec or the report: `make docs`."""
    program = [sys.executable, str(ROOT / "docs" / "generate_reference.py"), "--check"]
    result = subprocess.run(program, capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.returncode == 0, result.stderr


def command_lines(page: Path) -> list[list[str]]:
    """`octavo …` and `octavo-server …` as they stand in code blocks and in inline code."""
    text = page.read_text()
    blocks = re.findall(r"```(?:bash|sh|console)\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    words = [re.sub(r"^\$ ", "", line.strip()).split() for line in lines]
    return [each for each in words if each and each[0] in {"octavo", "octavo-server"}]


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_command_that_a_page_shows_exists(page: Path) -> None:
    for words in command_lines(page):
        command: click.Command = octavo_command if words[0] == "octavo" else server_command
        rest = words[1:]
        while isinstance(command, click.Group) and rest and re.fullmatch(r"[a-z-]+", rest[0]) and rest[0][0] != "-":
            assert rest[0] in command.commands, f"{' '.join(words)}: there is no `{rest[0]}`"
            command, rest = command.commands[rest[0]], rest[1:]
        options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        shown = {word.partition("=")[0] for word in rest if re.match(r"--[a-z]", word)}
        assert shown <= options | {"--help", "--version"}, " ".join(words)


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_setting_that_a_page_names_exists(page: Path) -> None:
    known = set(CLIENT_VARIABLES)
    for name, field in Settings.model_fields.items():
        known.add(f"OCTAVO_{name}".upper())
        nested = getattr(field.annotation, "model_fields", {})
        known |= {f"OCTAVO_{name}__{inner}".upper() for inner in nested}
    named = set(re.findall(r"\bOCTAVO_[A-Z_]+[A-Z]\b", page.read_text()))
    assert named <= known


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_link_between_pages_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_make_target_that_a_page_names_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make ([a-z]+)", page.read_text(), re.MULTILINE)) <= targets


def test_the_diagram_of_states_shows_the_transitions_and_no_other() -> None:
    diagram = (ROOT / "docs" / "reference" / "states.md").read_text()
    shown = set(re.findall(r"^ +([a-z]+) --> ([a-z]+)$", diagram, re.MULTILINE))
    assert shown == {(str(a), str(b)) for a, following in TRANSITIONS.items() for b in following}
