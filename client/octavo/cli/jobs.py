"""`octavo jobs …`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from octavo.cli.output import (
    data,
    json_option,
    message,
    open_client,
    status_text,
    suggest,
    table,
    time_text,
    write_json,
)
from octavo.cli.quantize import finish, print_report, suggest_next
from octavo.cli.spec_options import hardware_text

if TYPE_CHECKING:
    from octavo._sync.job import Job
    from octavo._types import JobEvent

_job = click.argument("job_id", metavar="JOB")


@click.group()
def jobs() -> None:
    """List, show, watch and cancel jobs."""


@jobs.command("list")
@click.option("--status", type=click.Choice(["queued", "running", "succeeded", "failed", "cancelled"]))
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True)
@json_option
def list_jobs(status: str | None, limit: int, as_json: bool) -> None:
    """List the jobs, newest first."""
    with open_client() as client:
        found = list(client.jobs.list(status=status, limit=limit))
    if as_json:
        write_json([job.data for job in found])
        return
    rows = [["id", "status", "method", "name", "outcome", "created"]]
    for job in found:
        method = str(job.spec.get("method", ""))
        rows.append([job.id, job.status, method, job.name or "", _outcome(job), time_text(job.created_at)])
    table(rows, empty="There are no jobs; `octavo quantize net.pt2 --method dynamic` submits one.")


@jobs.command("show")
@_job
@json_option
def show_job(job_id: str, as_json: bool) -> None:
    """Show a job: where it stands, why it failed, or its report."""
    with open_client() as client:
        job = client.jobs.get(job_id)
    if as_json:
        write_json(job.data)
        return
    data(f"{job.id} ", status_text(job.status), f" {job.name}\n" if job.name else "\n")
    if job.data.report is not None:
        print_report(job)
        data("")
    elif job.error is not None:
        hint = f"Hint: {job.error.hint}\n" if job.error.hint else ""
        data(f"{job.error.message} [{job.error.code}]\n{hint}")
    elif job.status == "running":
        data(f"{_outcome(job)}\n")
    elif job.waiting_for is not None:
        data(f"{job.waiting_for}\n")
    facts = [
        ["method", str(job.spec.get("method", ""))],
        ["based on", job.based_on or ""],
        ["hardware", hardware_text(job.spec.get("hardware"))],
        *(["measured on", f"{hardware_text(each.hardware)}: {each.job} {each.status}"] for each in job.measurements),
        ["attempt", str(job.data.attempt)],
        ["created", time_text(job.created_at)],
        ["started", time_text(job.data.started_at)],
        ["finished", time_text(job.data.finished_at)],
        ["artifacts", ", ".join(artifact.name for artifact in job.artifacts)],
    ]
    table([[name, value] for name, value in facts if value], empty="")
    if job.data.report is not None:
        suggest_next(job)
    elif not job.finished:
        suggest(f"octavo jobs watch {job.id}")


@jobs.command("watch")
@_job
@click.option("--timeout", type=float, metavar="SECONDS", help="Give up waiting after this (exit code 7).")
@json_option
def watch_job(job_id: str, timeout: float | None, as_json: bool) -> None:
    """Show a job's progress until it is finished, then its report. Ctrl-C leaves the job running.

    Exit code 5 if the job fails, 6 if it misses its accuracy target.
    """
    with open_client() as client:
        finish(client.jobs.get(job_id), timeout, as_json=as_json)


@jobs.command("cancel")
@_job
@json_option
def cancel_job(job_id: str, as_json: bool) -> None:
    """Ask for a job's end."""
    with open_client() as client:
        job = client.jobs.cancel(job_id)
    if as_json:
        write_json(job.data)
    message(f"{job.id} is {'cancelled' if job.status == 'cancelled' else 'being cancelled'}.")


@jobs.command("events")
@_job
@click.option("--after", type=int, default=0, help="Only what came after this number.")
@click.option("--follow", "-f", is_flag=True, help="Go on until the job is finished.")
@json_option
def job_events(job_id: str, after: int, follow: bool, as_json: bool) -> None:
    """Print a job's history, a line an event; with --json a JSON object a line."""
    with open_client() as client:
        for event in client.jobs.events(job_id, after=after, follow=follow):
            data(json.dumps(event.model_dump(mode="json")) if as_json else _event_text(event))


def _outcome(job: Job) -> str:
    """A job in a few words."""
    if job.status == "succeeded":
        return job.progress.message.replace("_", " ")
    if job.error is not None:
        return job.error.code
    if job.status == "running":
        return f"{job.progress.fraction:.0%} {job.step or ''} {job.progress.message}".rstrip()
    return "" if job.waiting_for is None else "no worker for it"


def _event_text(event: JobEvent) -> str:
    if event.kind in {"log", "warning"}:
        text = str(event.data.get("message", ""))
    elif event.kind == "progress":
        text = f"{float(event.data.get('fraction') or 0):4.0%} {event.data.get('step')} {event.data.get('message', '')}"
    else:
        text = " ".join(f"{key}={value}" for key, value in event.data.items() if value is not None)
    return f"{event.seq:>4}  {time_text(event.created_at)}  {event.kind:8}  {text}".rstrip()
