"""`octavo report` and `octavo compare`."""

from __future__ import annotations

import click

from octavo.cli.output import data, json_option, open_client, terminal_width, write_json
from octavo.cli.quantize import print_report, quantizes


@click.command()
@click.argument("job_id", metavar="JOB")
@json_option
def report(job_id: str, as_json: bool) -> None:
    """Print a job's report: the verdict, what to do, the figures, the worst layers.

    \b
    octavo report job_019abc…
    octavo report job_019abc… --json > report.json
    """
    with open_client() as client:
        job = client.jobs.get(job_id)
    if as_json:
        write_json(job.report if quantizes(job) else job.benchmark)
    else:
        print_report(job)


@click.command()
@click.argument("job_ids", metavar="JOB JOB...", nargs=-1, required=True)
@json_option
def compare(job_ids: tuple[str, ...], as_json: bool) -> None:
    """Print jobs side by side: figures, what was asked differently, SQNR layer by layer.

    \b
    octavo compare job_019abc… job_019abd…
    octavo compare job_019abc… job_019abd… --json
    """
    from octavo._comparison import compare as compared  # noqa: PLC0415  # `octavo --help` does without pydantic

    if len(job_ids) < 2:
        raise click.UsageError("Name at least two jobs; `octavo report JOB` prints one.")
    with open_client() as client:
        comparison = compared(client.jobs.get(job_id) for job_id in job_ids)
    if as_json:
        write_json(comparison)
    else:
        data(comparison.text(terminal_width()))
