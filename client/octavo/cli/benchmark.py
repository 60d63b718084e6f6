"""`octavo benchmark`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from octavo.cli.output import json_option, message, open_client
from octavo.cli.quantize import finish, print_submitted, require_named, store_files
from octavo.cli.spec_options import numbers, read_hardware, read_metadata

if TYPE_CHECKING:
    from octavo._sync.client import Client


@click.command()
@click.argument("candidates", nargs=-1, required=True, metavar="MODEL|FILE|JOB[:ARTIFACT]...")
@click.option("--evaluation", metavar="DATA", help="What outputs are compared on, with labels to measure accuracy.")
@click.option("--metric", type=click.Choice(["auto", "top1", "top5", "mse"]))
@click.option("--batch-sizes", metavar="N,N", help="[default: 1]")
@click.option("--threads", metavar="N,N", help="[default: 1]")
@click.option("--max-seconds", type=float, help="Time for each batch size with each thread count. [default: 5]")
@click.option(
    "--runtime",
    "runtimes",
    type=click.Choice(["torch", "onnxruntime", "openvino"]),
    multiple=True,
    help="Measure in this one. [default: all that the worker has]",
)
@click.option(
    "--hardware",
    multiple=True,
    metavar="WHAT",
    help="Measure on a worker with this: isa=NAME, cpu=GLOB, label.NAME=VALUE, with commas between.",
)
@click.option("--seed", type=int)
@click.option("--name", help="For people.")
@click.option("--metadata", multiple=True, metavar="KEY=VALUE", help="Yours, returned as it is.")
@click.option("--wait", is_flag=True, help="Wait for the report; exit code 5 if the job fails.")
@click.option("--timeout", type=float, metavar="SECONDS", help="With --wait: give up waiting after this (exit code 7).")
@json_option
def benchmark(
    *,
    candidates: tuple[str, ...],
    evaluation: str | None,
    wait: bool,
    timeout: float | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure models and artifacts, alone or against each other; prints the job's id, or with --wait the report.

    \b
    octavo benchmark net.pt2 --wait
    octavo benchmark net.pt2 job_019abc… theirs.onnx --evaluation test.npz --wait
    octavo benchmark job_019abc…:model_int8.pt job_019abc…:model_int8.onnx --batch-sizes 1,8 --threads 1,2
    octavo benchmark net.onnx --runtime openvino --hardware isa=avx512_vnni --wait

    MODEL is a model's id, FILE a .pt2 or .onnx, which is uploaded; JOB stands for the artifact that its report
    recommends, or else for the fastest right one. The others' outputs are held against the first's. What may be given
    several times: --runtime, --hardware, --metadata.
    """
    for each in candidates:
        require_named("candidates", each, "mdl_", "job_")
    spec: dict[str, Any] = {"method": "benchmark", "evaluation": evaluation, **_asked(options)}
    with open_client() as client:
        store_files(client, spec)
        spec["candidates"] = [_candidate(client, each) for each in candidates]
        job = client.jobs.submit(spec)
        if wait:
            message(f"Submitted {job.id}")
            finish(job, timeout, as_json=as_json)
        else:
            print_submitted(job, as_json=as_json)


def _asked(options: dict[str, Any]) -> dict[str, Any]:
    """The options with a place of their own in the spec."""
    spec = {key: options[key] for key in ("metric", "seed", "name") if options[key] is not None}
    benchmark = {} if options["max_seconds"] is None else {"max_seconds": options["max_seconds"]}
    for key, option in (("batch_sizes", "--batch-sizes"), ("threads", "--threads")):
        if options[key] is not None:
            benchmark[key] = numbers(options[key], option)
    if benchmark:
        spec["benchmark"] = benchmark
    if options["runtimes"]:
        spec["runtimes"] = list(options["runtimes"])
    if options["hardware"]:
        spec["hardware"] = read_hardware(",".join(options["hardware"]), "--hardware")
    if options["metadata"]:
        spec["metadata"] = read_metadata(options["metadata"])
    return spec


def _candidate(client: Client, given: str) -> dict[str, Any]:
    from octavo._spec import build_candidate  # noqa: PLC0415  # `octavo --help` does without pydantic

    path = Path(given)
    if path.is_file():
        model = client.models.upload(path)
        message(f"Uploaded {path} as {model.id}")
        return build_candidate(model)
    return build_candidate(given)
