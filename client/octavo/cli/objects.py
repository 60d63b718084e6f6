"""`octavo models …` and `octavo datasets …`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from octavo.cli.output import data, json_option, message, open_client, suggest, table, time_text, write_json

if TYPE_CHECKING:
    from octavo._types import Dataset, Model

_file = click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
_name = click.option("--name", help="For people; without it the file's name.")
_limit = click.option("--limit", type=click.IntRange(1), default=50, show_default=True)


@click.group()
def models() -> None:
    """Upload, list, show and delete models."""


@models.command("upload")
@_file
@_name
@json_option
def upload_model(file: Path, name: str | None, as_json: bool) -> None:
    """Upload a .pt2 or .onnx file; prints its id.

    \b
    octavo models upload net.pt2 --name resnet18

    From a live module, the SDK makes the file: client.models.upload(module, example_inputs).
    """
    with open_client() as client:
        model = client.models.upload(file, name=name)
    if as_json:
        write_json(model)
        return
    data(model.id)
    if model.format == "onnx":
        suggest(f"octavo benchmark {model.id} --wait")
        return
    suggest(
        f"octavo quantize {model.id} --method dynamic --wait",
        f"octavo quantize {model.id} --calibration images.npz --evaluation test.npz --wait",
    )


@models.command("list")
@_limit
@json_option
def list_models(limit: int, as_json: bool) -> None:
    """List the models, newest first."""
    with open_client() as client:
        found = list(client.models.list(limit=limit))
    if as_json:
        write_json(found)
        return
    rows = [["id", "name", "inputs", "size", "created"]]
    rows += [[model.id, model.name or "", _inputs_text(model), *_facts(model)] for model in found]
    table(rows, empty="There are no models; `octavo models upload net.pt2` uploads one.")


@models.command("show")
@click.argument("model_id", metavar="MODEL")
@json_option
def show_model(model_id: str, as_json: bool) -> None:
    """Show a model: inputs, parameters, size, SHA-256."""
    with open_client() as client:
        model = client.models.get(model_id)
    if as_json:
        write_json(model)
        return
    table(
        [
            ["id", model.id],
            ["name", model.name or ""],
            ["format", model.format],
            ["inputs", _inputs_text(model)],
            ["outputs", "" if model.outputs is None else str(model.outputs)],
            ["parameters", "" if model.parameters is None else f"{model.parameters:,}"],
            ["size", _facts(model)[0]],
            ["sha256", model.sha256],
            ["created", time_text(model.created_at)],
        ],
        empty="",
    )


@models.command("delete")
@click.argument("model_id", metavar="MODEL")
@json_option
def delete_model(model_id: str, as_json: bool) -> None:
    """Delete a model; refused while an unfinished job needs it."""
    with open_client() as client:
        client.models.delete(model_id)
    if as_json:
        write_json({"id": model_id, "deleted": True})
    message(f"{model_id} is deleted.")


@click.group()
def datasets() -> None:
    """Upload, list, show and delete datasets."""


@datasets.command("upload")
@_file
@_name
@json_option
def upload_dataset(file: Path, name: str | None, as_json: bool) -> None:
    """Upload a .npz or .safetensors file of named arrays; prints its id.

    \b
    octavo datasets upload images.npz

    The first axis of every array is the sample; keys are the model's input names (or 0, 1, …) and `labels`.
    """
    with open_client() as client:
        dataset = client.datasets.upload(file, name=name)
    if as_json:
        write_json(dataset)
        return
    data(dataset.id)
    suggest(f"octavo quantize net.pt2 --calibration {dataset.id} --wait")


@datasets.command("list")
@_limit
@json_option
def list_datasets(limit: int, as_json: bool) -> None:
    """List the datasets, newest first."""
    with open_client() as client:
        found = list(client.datasets.list(limit=limit))
    if as_json:
        write_json(found)
        return
    rows = [["id", "name", "samples", "arrays", "size", "created"]]
    for dataset in found:
        samples = "" if dataset.samples is None else str(dataset.samples)
        rows.append([dataset.id, dataset.name or "", samples, ", ".join(dataset.arrays), *_facts(dataset)])
    table(rows, empty="There are no datasets; `octavo datasets upload images.npz` uploads one.")


@datasets.command("show")
@click.argument("dataset_id", metavar="DATASET")
@json_option
def show_dataset(dataset_id: str, as_json: bool) -> None:
    """Show a dataset: its arrays, labels, size, SHA-256."""
    with open_client() as client:
        dataset = client.datasets.get(dataset_id)
    if as_json:
        write_json(dataset)
        return
    arrays = [[f"array {key}", f"{spec.dtype} {spec.shape}"] for key, spec in dataset.arrays.items()]
    table(
        [
            ["id", dataset.id],
            ["name", dataset.name or ""],
            ["samples", "" if dataset.samples is None else str(dataset.samples)],
            *arrays,
            ["labels", "yes" if dataset.labels else "no"],
            ["size", _facts(dataset)[0]],
            ["sha256", dataset.sha256],
            ["created", time_text(dataset.created_at)],
        ],
        empty="",
    )


@datasets.command("delete")
@click.argument("dataset_id", metavar="DATASET")
@json_option
def delete_dataset(dataset_id: str, as_json: bool) -> None:
    """Delete a dataset; refused while an unfinished job needs it."""
    with open_client() as client:
        client.datasets.delete(dataset_id)
    if as_json:
        write_json({"id": dataset_id, "deleted": True})
    message(f"{dataset_id} is deleted.")


def _inputs_text(model: Model) -> str:
    return ", ".join(
        f"{spec.name}: {spec.dtype}[{', '.join('?' if size is None else str(size) for size in spec.shape)}]"
        for spec in model.inputs
    )


def _facts(stored: Model | Dataset) -> list[str]:
    from octavo._tables import bytes_text  # noqa: PLC0415  # `octavo --help` does without pydantic

    return [bytes_text(stored.size_bytes), time_text(stored.created_at)]
