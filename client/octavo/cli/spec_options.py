"""From the options of `octavo quantize` to a spec."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import IO, Any

import click

_AS_THEY_ARE = ("method", "calibration", "evaluation", "training", "metric", "qengine", "precision", "seed", "name")
_OF_QAT = ("epochs", "learning_rate", "batch_size", "loss")


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
        spec["hardware"] = _hardware(",".join(options["hardware"]))
    if options["runtimes"]:
        spec["runtimes"] = list(options["runtimes"])
    if options["metadata"]:
        spec["metadata"] = dict(_pair(text, "--metadata") for text in options["metadata"])
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


def _hardware(text: str) -> dict[str, Any] | None:
    """`isa=avx512_vnni,label.pool=edge` as `{"isa": ["avx512_vnni"], "labels": {"pool": "edge"}}`."""
    if text == "any":
        return None
    hardware: dict[str, Any] = {}
    for part in text.split(","):
        key, value = _pair(part, "--hardware")
        if key == "isa":
            hardware.setdefault("isa", []).append(value)
        elif key == "cpu":
            hardware["cpu"] = value
        elif key.startswith("label."):
            hardware.setdefault("labels", {})[key.removeprefix("label.")] = value
        else:
            raise click.BadParameter(f"{part!r} is not like isa=, cpu= or label.NAME=", param_hint="--hardware")
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
