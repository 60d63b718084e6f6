"""`octavo quantize`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from octavo.cli.output import data, json_option, message, open_client, suggest, write_json

if TYPE_CHECKING:
    from octavo._sync.client import Client
    from octavo._sync.job import Job

_FILE_OR_ID = "A dataset's id, or a .npz or .safetensors file, which is uploaded."


@click.command()
@click.argument("model", required=False)
@click.option("--method", type=click.Choice(["dynamic", "static", "qat"]), help="[default: static]")
@click.option("--calibration", metavar="DATA", help=_FILE_OR_ID)
@click.option("--evaluation", metavar="DATA", help="Held-out data, with labels to measure accuracy.")
@click.option("--training", metavar="DATA", help="What QAT trains on.")
@click.option("--metric", type=click.Choice(["auto", "top1", "top5", "mse"]))
@click.option("--max-accuracy-drop", metavar="DROP", help="Absolute, such as 0.01; `none` sets no target.")
@click.option("--qengine", type=click.Choice(["auto", "x86", "onednn", "fbgemm", "qnnpack"]))
@click.option("--override", "overrides", multiple=True, metavar="layer=GLOB|op=TYPE", help="Keep these in float.")
@click.option("--epochs", type=int, help="QAT: epochs.")
@click.option("--learning-rate", type=float, help="QAT: learning rate.")
@click.option("--batch-size", type=int, help="QAT: batch size.")
@click.option("--loss", type=click.Choice(["auto", "cross_entropy", "mse", "distillation"]), help="QAT: loss.")
@click.option("--threads", type=int, multiple=True, help="Measure latency with so many threads; may be repeated.")
@click.option("--benchmark-batch", type=int, multiple=True, help="Measure latency at this batch size; may be repeated.")
@click.option("--seed", type=int)
@click.option("--name", help="For people.")
@click.option("--metadata", multiple=True, metavar="KEY=VALUE", help="Yours, returned as it is; may be repeated.")
@click.option("--spec", "spec_file", type=click.File("rb"), help="A spec as JSON; the other options win over it.")
@click.option(
    "--wait", is_flag=True, help="Wait for the report; exit code 5 if the job fails, 6 if it misses its target."
)
@click.option("--timeout", type=float, metavar="SECONDS", help="With --wait: give up waiting after this (exit code 7).")
@json_option
def quantize(
    model: str | None, spec_file: IO[bytes] | None, wait: bool, timeout: float | None, as_json: bool, **options: Any
) -> None:
    """Quantize a model to int8; prints the job's id, or with --wait the report.

    \b
    octavo quantize net.pt2 --method dynamic --wait
    octavo quantize net.pt2 --calibration images.npz --evaluation test.npz --wait
    octavo quantize mdl_019abc… --method qat --training train.npz --evaluation dst_019abc… --epochs 3
    octavo quantize net.pt2 --calibration images.npz --override 'layer=layer4.*' --max-accuracy-drop 0.005

    MODEL is a model's id or a .pt2 file, which is uploaded; content that the server has is not sent again.
    """
    spec = _read_spec(spec_file)
    spec.update(_given(options))
    if model is not None:
        spec["model"] = model
    if "model" not in spec:
        raise click.UsageError("Missing argument 'MODEL'.")
    spec.setdefault("method", "static")
    with open_client() as client:
        for role, prefix in (("model", "mdl_"), ("calibration", "dst_"), ("evaluation", "dst_"), ("training", "dst_")):
            if spec.get(role) is not None:
                spec[role] = _stored(client, role, prefix, str(spec[role]))
        job = client.jobs.submit(spec)
        if wait:
            message(f"Submitted {job.id}")
            finish(job, timeout, as_json=as_json)
            return
    if as_json:
        write_json(job.data)
    else:
        data(job.id)
        suggest(f"octavo jobs watch {job.id}")


def finish(job: Job, timeout: float | None, *, as_json: bool) -> None:
    """Wait for a job and print its report; errors carry the exit code."""
    job.wait(timeout)
    if as_json:
        write_json(job.data)
    else:
        data(job.report.table())
    job.raise_for_target()
    suggest(f"octavo artifacts download {job.id} -o out/")


def _read_spec(file: IO[bytes] | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        spec = json.load(file)
    except ValueError as error:
        raise click.BadParameter(f"not JSON: {error}", param_hint="--spec") from error
    if not isinstance(spec, dict):
        raise click.BadParameter("a spec is a JSON object", param_hint="--spec")
    return spec


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, in the spec's shape."""
    spec = {
        key: options[key]
        for key in ("method", "calibration", "evaluation", "training", "metric", "qengine", "seed", "name")
        if options[key] is not None
    }
    if options["max_accuracy_drop"] is not None:
        spec["max_accuracy_drop"] = _drop(options["max_accuracy_drop"])
    if options["overrides"]:
        pairs = (_pair(text, "--override") for text in options["overrides"])
        spec["overrides"] = [{key: value, "precision": "float32"} for key, value in pairs]
    if options["metadata"]:
        spec["metadata"] = dict(_pair(text, "--metadata") for text in options["metadata"])
    qat = {key: options[key] for key in ("epochs", "learning_rate", "batch_size", "loss") if options[key] is not None}
    if qat:
        spec["qat"] = qat
    benchmark = {"threads": list(options["threads"]), "batch_sizes": list(options["benchmark_batch"])}
    if any(benchmark.values()):
        spec["benchmark"] = {key: sizes for key, sizes in benchmark.items() if sizes}
    return spec


def _drop(text: str) -> float | None:
    if text == "none":
        return None
    try:
        return float(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is neither a number nor `none`", param_hint="--max-accuracy-drop") from None


def _pair(text: str, option: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise click.BadParameter(f"{text!r} is not like key=value", param_hint=option)
    return key, value


def _stored(client: Client, role: str, prefix: str, given: str) -> str:
    """The id of what was given: an id, or a file, which is uploaded first."""
    path = Path(given)
    if path.is_file():
        stored = client.models.upload(path) if role == "model" else client.datasets.upload(path)
        message(f"Uploaded {path} as {stored.id}")
        return stored.id
    if given.startswith(prefix):
        return given
    raise click.BadParameter(f"{given!r} is neither a file nor an id ({prefix}…)", param_hint=role)
