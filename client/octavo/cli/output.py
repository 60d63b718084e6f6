"""What goes to stdout and what to stderr, and how JSON and tables look."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

from octavo._printable import printable

if TYPE_CHECKING:
    from pydantic import BaseModel

    from octavo._sync.client import Client

F = TypeVar("F", bound=Callable[..., Any])

_STATUS_COLOURS = {"succeeded": "green", "ok": "green", "failed": "red", "error": "red", "warning": "yellow"}


class Coloured(str):
    """Text in colours of our own, which goes to the terminal as it is."""

    __slots__ = ()


def json_option(command: F) -> F:
    """The --json flag, the same everywhere."""
    return click.option("--json", "as_json", is_flag=True, help="Data as JSON, as the HTTP API gives it.")(command)


def open_client() -> Client:
    """The client for the server that this run of the command speaks to."""
    from octavo._sync.client import Client  # noqa: PLC0415  # `octavo --help` does without an HTTP client

    return Client(click.get_current_context().find_root().obj)


def data(*parts: str) -> None:
    """Data, to stdout; what is not our own colour is made fit for a terminal."""
    click.echo(_shown(parts))


def message(*parts: str) -> None:
    """For whoever watches, to stderr; likewise."""
    click.echo(_shown(parts), err=True)


def _shown(parts: Sequence[str]) -> str:
    return "".join(part if isinstance(part, Coloured) else printable(part) for part in parts)


def suggest(*commands: str) -> None:
    """What to type next, to stderr."""
    message("Next:")
    for command in commands:
        message(f"  {command}")


def write_json(value: BaseModel | Sequence[BaseModel] | dict[str, Any] | list[Any]) -> None:
    """One JSON document, to stdout."""
    click.echo(json.dumps(_plain(value), indent=2))


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


def status_text(status: str, width: int = 0) -> Coloured:
    """A status word, padded and then coloured where that is wanted: colour has no width."""
    return coloured(status.ljust(width), _STATUS_COLOURS.get(status))


def coloured(text: str, colour: str | None) -> Coloured:
    """The text, made fit for a terminal, in one of click's colours."""
    return Coloured(click.style(printable(text), fg=colour))


def time_text(moment: datetime | None) -> str:
    """A time of day here, for people."""
    return "" if moment is None else moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")
