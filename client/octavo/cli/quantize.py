"""`octavo quantize`."""

from __future__ import annotations

from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from octavo.cli.output import data, json_option, message, open_client, suggest, terminal_width, write_json
from octavo.cli.spec_options import hardware_text, read_spec, spec_options

if TYPE_CHECKING:
    from octavo._sync.client import Client
    from octavo._sync.job import Job

_PREFIXES = (("model", "mdl_"), ("calibration", "dst_"), ("evaluation", "dst_"), ("training", "dst_"))


@click.command()
@click.argument("model", required=False)
@spec_options
@click.option("--from", "based_on", metavar="JOB", help="Take an earlier job's spec; the other options change it.")
@click.option(
    "--apply", type=click.IntRange(0), multiple=True, metavar="N", help="With --from: do what warning N advises."
)
@click.option(
    "--wait", is_flag=True, help="Wait for the report; exit code 5 if the job fails, 6 if it misses its target."
)
@click.option("--timeout", type=float, metavar="SECONDS", help="With --wait: give up waiting after this (exit code 7).")
@json_option
def quantize(
    *,
    model: str | None,
    based_on: str | None,
    apply: tuple[int, ...],
    spec_file: IO[bytes] | None,
    wait: bool,
    timeout: float | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Quantize a model to int8; prints the job's id, or with --wait the report.

    \b
    octavo quantize net.pt2 --method dynamic --wait
    octavo quantize net.pt2 --calibration images.npz --evaluation test.npz --wait
    octavo quantize mdl_019abc… --method qat --training train.npz --evaluation dst_019abc… --epochs 3
    octavo quantize net.pt2 --calibration images.npz --float 'layer4.*' --float op=LayerNorm
    octavo quantize net.pt2 --calibration images.npz --set recovery.smooth_quant=true
    octavo quantize net.pt2 --calibration images.npz --runtime openvino
    octavo quantize net.pt2 --calibration images.npz --hardware isa=avx512_vnni,label.pool=edge
    octavo quantize --from job_019abc… --apply 0 --max-accuracy-drop 0.005 --wait

    MODEL is a model's id or a .pt2 file, which is uploaded; content that the server has is not sent again. The report
    numbers its warnings: --from JOB --apply N does what warning N advises. What may be given several times: --apply,
    --float, --override, --set, --runtime, --threads, --benchmark-batch, --hardware, --measure-on, --metadata. PATH is
    like activation.observer, VALUE is JSON or else text.
    """
    spec = read_spec(spec_file, options)
    if model is not None:
        spec["model"] = model
    if apply and based_on is None:
        raise click.UsageError("--apply takes advice of an earlier job's report: name the job by --from.")
    if based_on is None:
        if "model" not in spec:
            raise click.UsageError("Missing argument 'MODEL'.")
        spec.setdefault("method", "static")
    with open_client() as client:
        store_files(client, spec)
        request = spec if based_on is None else {"based_on": based_on, "apply": list(apply), "changes": spec}
        job = client.jobs.submit(request)
        if wait:
            message(f"Submitted {job.id}")
            finish(job, timeout, as_json=as_json)
            return
    print_submitted(job, as_json=as_json)


def print_submitted(job: Job, *, as_json: bool) -> None:
    """A job that nobody waits for."""
    if as_json:
        write_json(job.data)
    else:
        data(job.id)
        _say_what_it_waits_for(job)
        suggest(f"octavo jobs watch {job.id}")


def finish(job: Job, timeout: float | None, *, as_json: bool) -> None:
    """Wait for a job and print its report; errors carry the exit code."""
    _say_what_it_waits_for(job)
    job.wait(timeout)
    if as_json:
        write_json(job.data)
    else:
        print_report(job)
    job.raise_for_target()
    suggest_next(job)


def _say_what_it_waits_for(job: Job) -> None:
    if job.waiting_for is not None:
        message(f"The job waits. {job.waiting_for}")


def print_report(job: Job) -> None:
    """A job's report to stdout, with what to type for each of its suggestions."""
    from octavo._report_text import report_text  # noqa: PLC0415  # `octavo --help` does without pydantic

    if quantizes(job):
        data(report_text(job.report, width=terminal_width(), job_id=job.id))
    else:
        data(job.benchmark.table(terminal_width()))
    for each in job.measurements:
        data(f"Measured on {hardware_text(each.hardware)}: {each.job} {each.status}")


def suggest_next(job: Job) -> None:
    """What to type once a job has succeeded, to stderr."""
    compare = [f"octavo compare {job.based_on} {job.id}"] if job.based_on and quantizes(job) else []
    suggest(*compare, f"octavo artifacts download {job.id} -o out/")


def store_files(client: Client, spec: dict[str, Any]) -> None:
    """Put ids where the spec names files, which are uploaded first; none of them if something named is not there."""
    named = [(role, prefix) for role, prefix in _PREFIXES if spec.get(role) is not None]
    for role, prefix in named:
        require_named(role, str(spec[role]), prefix)
    for role, _ in named:
        spec[role] = _stored(client, role, str(spec[role]))


def require_named(role: str, given: str, *prefixes: str) -> None:
    """Raise BadParameter for what is neither a file nor an id with one of these prefixes."""
    if not Path(given).is_file() and not given.startswith(prefixes):
        ids = ", ".join(f"{prefix}…" for prefix in prefixes)
        raise click.BadParameter(f"{given!r} is neither a file nor an id ({ids})", param_hint=role)


def quantizes(job: Job) -> bool:
    """Whether it has a report of quantization, and not of a benchmark."""
    return job.spec.get("method") != "benchmark"


def _stored(client: Client, role: str, given: str) -> str:
    """The id of what was given: an id, or a file, which is uploaded first."""
    path = Path(given)
    if not path.is_file():
        return given
    stored = client.models.upload(path) if role == "model" else client.datasets.upload(path)
    message(f"Uploaded {path} as {stored.id}")
    return stored.id
