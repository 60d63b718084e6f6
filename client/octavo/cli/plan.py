"""`octavo plan`."""

from __future__ import annotations

from typing import IO, Any

import click

from octavo.cli.output import data, json_option, open_client, suggest, terminal_width, write_json
from octavo.cli.quantize import store_files
from octavo.cli.spec_options import read_spec, spec_options


@click.command()
@click.argument("model", required=False)
@spec_options
@json_option
def plan(*, model: str | None, spec_file: IO[bytes] | None, as_json: bool, **options: Any) -> None:
    """Ask what `octavo quantize` with the same options would do; a worker answers in seconds, from the model alone.

    \b
    octavo plan net.pt2
    octavo plan net.pt2 --method dynamic
    octavo plan net.pt2 --calibration images.npz --float 'layer4.*' --hardware isa=avx512_vnni

    Which layers will be quantized and which not, and why; what share of the arithmetic that is in each runtime; whether
    the CPU has the instructions for it; how long the job will take. No job is made. Data may be left out: it only tells
    how many samples there will be.
    """
    spec = read_spec(spec_file, options)
    if model is not None:
        spec["model"] = model
    if "model" not in spec:
        raise click.UsageError("Missing argument 'MODEL'.")
    spec.setdefault("method", "static")
    with open_client() as client:
        store_files(client, spec)
        found = client.jobs.plan_of(spec)
    if as_json:
        write_json(found)
    else:
        data(found.table(terminal_width()))
        suggest(f"octavo quantize {spec['model']} --method {spec['method']} … --wait")
