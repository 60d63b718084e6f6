"""The `octavo-server` command: runs the parts of Octavo, alone or together."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import click

_data_dir = click.option(
    "--data-dir",
    envvar="OCTAVO_DATA_DIR",
    default="octavo-data",
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Where everything is kept.",
)
_host = click.option("--host", envvar="OCTAVO_API__HOST", default="127.0.0.1", show_default=True)
_port = click.option(
    "--port", envvar="OCTAVO_API__PORT", default=8080, show_default=True, type=click.IntRange(0, 65535)
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="octavo-server")
def main() -> None:
    """Run Octavo: `octavo-server up` starts everything on this machine.

    Settings are environment variables (OCTAVO_…); docs/reference/settings.md lists them.
    """


@main.command()
@_data_dir
@_host
@_port
@click.option("-v", "--verbose", is_flag=True, help="Show the logs of all parts; they are in <data-dir>/logs anyway.")
def up(data_dir: Path, host: str, port: int, verbose: bool) -> None:
    """Start broker, database, API and worker on this machine; Ctrl-C stops all of it."""
    from server.stack import Stack  # noqa: PLC0415 - `--help` and the other commands need none of it

    started_at = time.monotonic()
    settings = _settings(data_dir=data_dir, api={"host": host, "port": port})
    stack = Stack(settings, verbose=verbose)
    click.echo(f"Starting Octavo in {stack.directory.path} …", err=True)

    def announce() -> None:
        key_file = stack.directory.api_key_file
        click.echo(
            f"Octavo is ready ({time.monotonic() - started_at:.1f} s).\n\n"
            f"  address   {stack.address}    (API documentation: {stack.address}/docs)\n"
            f"  data      {stack.directory.path}    (logs below logs/)\n"
            f"  API key   {stack.directory.api_key()}    (kept in {key_file})\n\n"
            "Next, in another terminal (where `octavo` is not found: source .venv/bin/activate first):\n\n"
            f"  export OCTAVO_URL={stack.address} OCTAVO_API_KEY=$(cat {key_file})\n"
            "  octavo doctor\n\n"
            "Ctrl-C stops everything."
        )
        sys.stdout.flush()

    stack.run(announce)


@main.command()
@_data_dir
@_host
@_port
def api(data_dir: Path, host: str, port: int) -> None:
    """Run one API process."""
    _become("api", OCTAVO_DATA_DIR=str(data_dir), OCTAVO_API__HOST=host, OCTAVO_API__PORT=str(port))


@main.command()
@_data_dir
@click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="NAME=VALUE",
    help="What jobs may ask for; may be given several times, and adds to OCTAVO_WORKER__LABELS.",
)
def worker(data_dir: Path, labels: tuple[str, ...]) -> None:
    """Run one worker node."""
    settings = _settings(
        data_dir=data_dir, worker={"labels": dict(map(_label, labels))}
    )  # with those of the environment
    _become("worker", OCTAVO_DATA_DIR=str(data_dir), OCTAVO_WORKER__LABELS=json.dumps(settings.worker.labels))


@main.command()
@_data_dir
def migrate(data_dir: Path) -> None:
    """Bring the database to this version's tables, and make the directory or the bucket of objects."""
    from shared.database import migrate as migrate_database  # noqa: PLC0415 - `--help` need not load SQLAlchemy
    from shared.errors import OctavoError  # noqa: PLC0415
    from shared.object_store import open_store  # noqa: PLC0415

    settings = _settings(data_dir=data_dir)
    store = open_store(settings)
    try:
        migrate_database(settings.database_url)
        store.prepare()
    except OctavoError as error:
        raise click.ClickException(f"{error.message} {error.hint or ''}".rstrip()) from error
    finally:
        store.close()
    click.echo("The database and the object store are up to date.", err=True)


@main.command()
@_data_dir
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def doctor(data_dir: Path, as_json: bool) -> None:
    """Look for what would keep Octavo from working here; exit code 1 when there is something."""
    from server.doctor import examine, render  # noqa: PLC0415 - the checks load every library there is

    findings = examine(_settings(data_dir=data_dir))
    click.echo(render(findings, as_json=as_json))
    sys.exit(any(finding.status == "error" for finding in findings))


def _label(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.BadParameter(f"{text!r} is not like name=value", param_hint="--label")
    return name, value


def _settings(**given: Any) -> Any:
    from pydantic import ValidationError  # noqa: PLC0415 - `--help` need not load pydantic

    from shared.settings import Settings  # noqa: PLC0415

    try:
        return Settings(**given)
    except ValidationError as error:
        wrong = "\n".join(
            f"  OCTAVO_{'__'.join(str(part) for part in problem['loc']).upper()}: {problem['msg']}"
            for problem in error.errors()
        )
        raise click.UsageError(f"These settings are wrong:\n{wrong}") from error


def _become(module: str, **environment: str) -> NoReturn:
    # Safe path: the directory it is started in may hold an `api` or a `worker` of its own.
    os.environ.update(environment, PYTHONSAFEPATH="1")
    os.execv(sys.executable, [sys.executable, "-m", module])  # noqa: S606 - our own module, by the same interpreter
