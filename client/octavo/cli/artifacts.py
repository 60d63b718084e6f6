"""`octavo artifacts …`."""

from __future__ import annotations

from pathlib import Path

import click

from octavo.cli.output import data, json_option, message, open_client, suggest, table, write_json


@click.group()
def artifacts() -> None:
    """List and download what a job made."""


@artifacts.command("list")
@click.argument("job_id", metavar="JOB")
@json_option
def list_artifacts(job_id: str, as_json: bool) -> None:
    """List a job's artifacts."""
    from octavo._tables import bytes_text  # noqa: PLC0415  # `octavo --help` does without pydantic

    with open_client() as client:
        job = client.jobs.get(job_id)
    if as_json:
        write_json(list(job.artifacts))
        return
    rows = [["name", "kind", "size", "sha256"]]
    rows += [[entry.name, entry.kind, bytes_text(entry.size_bytes), entry.sha256] for entry in job.artifacts]
    table(rows, empty=f"{job.id} is {job.status} and has no artifacts.")


@artifacts.command("download")
@click.argument("job_id", metavar="JOB")
@click.argument("names", nargs=-1)
@click.option("--recommended", is_flag=True, help="Only the file that the report recommends, and its example.")
@click.option("-o", "--output", "directory", type=click.Path(file_okay=False, path_type=Path), default=Path())
@json_option
def download_artifacts(
    job_id: str, names: tuple[str, ...], *, recommended: bool, directory: Path, as_json: bool
) -> None:
    """Download a job's artifacts, or those named, checking each SHA-256; prints where they are.

    \b
    octavo artifacts download job_019abc… -o out/
    octavo artifacts download job_019abc… --recommended -o out/
    octavo artifacts download job_019abc… model_int8.pt
    """
    if recommended and names:
        raise click.UsageError("Name artifacts, or ask for the recommended one, not both.")
    with open_client() as client:
        job = client.jobs.get(job_id).raise_for_status()
        unknown = [name for name in names if name not in job.artifacts]
        if unknown:
            there_are = ", ".join(entry.name for entry in job.artifacts) or "none"
            raise click.ClickException(f"{job.id} has no artifact {unknown[0]!r}; there are: {there_are}")
        if not len(job.artifacts):
            raise click.ClickException(f"{job.id} is {job.status} and has no artifacts yet")
        best = job.artifacts.recommended
        if recommended and not best:
            raise click.ClickException(f"The report recommends no artifact; octavo report {job.id} says why.")
        paths = job.artifacts.download(directory, best if recommended else list(names) or None)
    if as_json:
        write_json({name: str(path) for name, path in paths.items()})
        return
    for path in paths.values():
        data(str(path))
    message("Every SHA-256 is right.")
    for example in (*best[1:], "load_example.py"):
        if example in paths:
            suggest(f"cd {directory} && python {example}")
            break
