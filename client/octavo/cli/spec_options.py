"""The options that stand for a spec, of every command that takes one, and the way from them to the spec."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

_FILE_OR_ID = "A dataset's id, or a .npz or .safetensors file, which is uploaded."
_OPTIONS = (
    click.option("--method", type=click.Choice(["dynamic", "static", "qat"]), help="[default: static]"),
    click.option("--calibration", metavar="DATA", help=_FILE_OR_ID),
    click.option("--evaluation", metavar="DATA", help="Held-out data, with labels to measure accuracy."),
    click.option("--training", metavar="DATA", help="What QAT trains on."),
    click.option("--metric", type=click.Choice(["auto", "top1", "top5", "mse"])),
    click.option("--max-accuracy-drop", metavar="DROP", help="Absolute, such as 0.01; `auto`, or `none`: no target."),
    click.option(
        "--float", "floats", multiple=True, metavar="LAYER|op=TYPE", help="Keep these in float; LAYER may hold *."
    ),
    click.option("--override", "overrides", multiple=True, metavar="JSON", help="Other settings for some layers."),
    click.option("--set", "settings", multiple=True, metavar="PATH=VALUE", help="Any field of the spec."),
    click.option("--qengine", type=click.Choice(["auto", "x86", "onednn", "fbgemm", "qnnpack"])),
    click.option("--precision", type=click.Choice(["int8", "float16"]), help="Dynamic: of the weights."),
    click.option("--epochs", type=int, help="QAT: epochs."),
    click.option("--learning-rate", type=float, help="QAT: learning rate."),
    click.option("--batch-size", type=int, help="QAT: batch size."),
    click.option("--loss", type=click.Choice(["auto", "cross_entropy", "mse", "distillation"]), help="QAT: loss."),
    click.option(
        "--runtime",
        "runtimes",
        type=click.Choice(["torch", "onnxruntime", "openvino"]),
        multiple=True,
        help="Make an artifact for this, beside torch. [default: all that the worker has]",
    ),
    click.option("--threads", type=int, multiple=True, help="Measure latency with so many threads."),
    click.option("--benchmark-batch", type=int, multiple=True, help="Measure latency at this batch size."),
    click.option(
        "--hardware",
        multiple=True,
        metavar="WHAT",
        help="Run on a worker with this: isa=NAME, cpu=GLOB, label.NAME=VALUE, with commas between; `any`: no matter.",
    ),
    click.option(
        "--measure-on",
        multiple=True,
        metavar="WHAT",
        help="Once it has succeeded, measure its artifacts on a worker with this too, in a benchmark of its own.",
    ),
    click.option("--seed", type=int),
    click.option("--name", help="For people."),
    click.option("--metadata", multiple=True, metavar="KEY=VALUE", help="Yours, returned as it is."),
    click.option("--spec", "spec_file", type=click.File("rb"), help="A spec as JSON; the other options win over it."),
)
_AS_THEY_ARE = ("method", "calibration", "evaluation", "training", "metric", "qengine", "precision", "seed", "name")
_OF_QAT = ("epochs", "learning_rate", "batch_size", "loss")


def spec_options(command: Command) -> Command:
    """Give a command the options that `read_spec` reads."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def read_spec(file: IO[bytes] | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """The spec of the file with the options that were given: they win, and their overrides come last."""
    spec = _read_file(file)
    for part in (_given(options), *(_setting(text) for text in options["settings"])):
        _merge(spec, part)
    overrides = [*map(_float_override, options["floats"]), *map(_json_override, options["overrides"])]
    if overrides:
        spec["overrides"] = [*spec.get("overrides", []), *overrides]
    return spec


def _read_file(file: IO[bytes] | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        spec = json.load(file)
    except ValueError as error:
        raise click.BadParameter(f"not JSON: {error}", param_hint="--spec") from error
    if not isinstance(spec, dict):
        raise click.BadParameter("a spec is a JSON object", param_hint="--spec")
    return spec


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with a place of their own in the spec."""
    spec = {key: options[key] for key in _AS_THEY_ARE if options[key] is not None}
    if options["max_accuracy_drop"] is not None:
        spec["max_accuracy_drop"] = _drop(options["max_accuracy_drop"])
    if options["hardware"]:
        spec["hardware"] = read_hardware(",".join(options["hardware"]), "--hardware")
    if options["measure_on"]:
        spec["measure_on"] = [read_hardware(each, "--measure-on") for each in options["measure_on"]]
    if options["runtimes"]:
        spec["runtimes"] = list(options["runtimes"])
    if options["metadata"]:
        spec["metadata"] = read_metadata(options["metadata"])
    qat = {key: options[key] for key in _OF_QAT if options[key] is not None}
    if qat:
        spec["qat"] = qat
    benchmark = {"threads": list(options["threads"]), "batch_sizes": list(options["benchmark_batch"])}
    if any(benchmark.values()):
        spec["benchmark"] = {key: sizes for key, sizes in benchmark.items() if sizes}
    return spec


def _merge(spec: dict[str, Any], part: Mapping[str, Any]) -> None:
    for key, value in part.items():
        if isinstance(value, Mapping) and isinstance(spec.get(key), dict):
            _merge(spec[key], value)
        else:
            spec[key] = value


def _setting(text: str) -> dict[str, Any]:
    """`recovery.smooth_quant=true` as `{"recovery": {"smooth_quant": true}}`; what is no JSON is text."""
    path, value_text = _pair(text, "--set")
    try:
        value = json.loads(value_text)
    except ValueError:
        value = value_text
    for name in reversed(path.split(".")):
        value = {name: value}
    found: dict[str, Any] = value
    return found


def _float_override(text: str) -> dict[str, str]:
    key, equals, op = text.partition("=")
    return {"op": op, "precision": "float32"} if equals and key == "op" else {"layer": text, "precision": "float32"}


def _json_override(text: str) -> dict[str, Any]:
    try:
        override = json.loads(text)
    except ValueError:
        override = None
    if not isinstance(override, dict):
        example = '{"layer": "conv1", "activation": {"observer": "percentile"}}'
        raise click.BadParameter(f"{text!r} is no JSON object such as '{example}'", param_hint="--override")
    return override


def read_metadata(pairs: Sequence[str]) -> dict[str, str]:
    """`key=value` each."""
    return dict(_pair(text, "--metadata") for text in pairs)


def numbers(text: str, option: str) -> list[int]:
    """`1,8` as `[1, 8]`."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter(f"{text!r} is not like 1,8", param_hint=option) from None


def read_hardware(text: str, option: str) -> dict[str, Any] | None:
    """`isa=avx512_vnni,label.pool=edge` as `{"isa": ["avx512_vnni"], "labels": {"pool": "edge"}}`."""
    if text == "any":
        return None
    hardware: dict[str, Any] = {}
    for part in text.split(","):
        key, value = _pair(part, option)
        if key == "isa":
            hardware.setdefault("isa", []).append(value)
        elif key == "cpu":
            hardware["cpu"] = value
        elif key.startswith("label."):
            hardware.setdefault("labels", {})[key.removeprefix("label.")] = value
        else:
            raise click.BadParameter(f"{part!r} is not like isa=, cpu= or label.NAME=", param_hint=option)
    return hardware


def hardware_text(hardware: Mapping[str, Any] | None) -> str:
    """What a spec asks for, as `--hardware` takes it."""
    if hardware is None:
        return ""
    cpu = [f"cpu={hardware['cpu']}"] if hardware.get("cpu") else []
    labels = [f"label.{name}={value}" for name, value in hardware.get("labels", {}).items()]
    return ",".join([*(f"isa={name}" for name in hardware.get("isa", [])), *cpu, *labels])


def _drop(text: str) -> float | str | None:
    if text in ("none", "auto"):
        return None if text == "none" else text
    try:
        return float(text)
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is no number, nor `auto` or `none`", param_hint="--max-accuracy-drop"
        ) from None


def _pair(text: str, option: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise click.BadParameter(f"{text!r} is not like key=value", param_hint=option)
    return key, value
