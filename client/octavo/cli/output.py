"""What goes to stdout and what to stderr, and how JSON and tables look."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from pydantic import BaseModel

    from octavo._sync.client import Client

F = TypeVar("F", bound=Callable[..., Any])

_STATUS_COLOURS = {"succeeded": "green", "ok": "green", "failed": "red", "error": "red", "warning": "yellow"}

# What a terminal would obey or show in another order, but for line breaks, tabs and our own colours.
_COMMANDS = re.compile("\x1b(?!\\[[0-9;]*m)|[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def json_option(command: F) -> F:
    """The --json flag, the same everywhere."""
    return click.option("--json", "as_json", is_flag=True, help="Data as JSON, as the HTTP API gives it.")(command)


def open_client() -> Client:
    """The client for the server that this run of the command speaks to."""
    from octavo._sync.client import Client  # noqa: PLC0415  # `octavo --help` does without an HTTP client

    return Client(click.get_current_context().find_root().obj)


def data(text: str) -> None:
    """Data, to stdout."""
    click.echo(_COMMANDS.sub("\N{REPLACEMENT CHARACTER}", text))


def message(text: str) -> None:
    """For whoever watches, to stderr."""
    click.echo(_COMMANDS.sub("\N{REPLACEMENT CHARACTER}", text), err=True)


def suggest(*commands: str) -> None:
    """What to type next, to stderr."""
    message("Next:")
    for command in commands:
        message(f"  {command}")


def write_json(value: BaseModel | Sequence[BaseModel] | dict[str, Any] | list[Any]) -> None:
    """One JSON document, to stdout."""
    click.echo(json.dumps(_plain(value), indent=2, ensure_ascii=False))


def _plain(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json", by_alias=True)
    return [_plain(entry) for entry in value] if isinstance(value, list) else value


def table(rows: Sequence[Sequence[str]], *, empty: str) -> None:
    """A table with a head to stdout, or to stderr that there is nothing."""
    from octavo._tables import aligned  # noqa: PLC0415

    if len(rows) < 2:
        message(empty)
    else:
        data(aligned(rows))


def terminal_width() -> int:
    """Characters in a line of the terminal, as far as lines are good to read."""
    return min(max(shutil.get_terminal_size().columns, 60), 120)


def status_text(status: str, width: int = 0) -> str:
    """A status word, padded and then coloured where that is wanted: colour has no width."""
    return click.style(status.ljust(width), fg=_STATUS_COLOURS.get(status))


def time_text(moment: datetime | None) -> str:
    """A time of day here, for people."""
    return "" if moment is None else moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")
