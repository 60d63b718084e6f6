"""A live module becomes a .pt2 with an open batch size, and is left as it was."""

from __future__ import annotations

import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

import octavo
from octavo._export import export_module
from shared.model_file import inspect_model


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.norm = nn.BatchNorm1d(3)
        self.dropout = nn.Dropout(0.5)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.dropout(self.norm(self.linear(features)))
        return out


class Two(nn.Module):
    def forward(self, left: torch.Tensor, right: torch.Tensor | None = None) -> torch.Tensor:
        return left if right is None else left + 2 * right


class FixedBatch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(2, -1)


class DataDependent(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


class Boxes(NamedTuple):
    corners: torch.Tensor
    scores: torch.Tensor


class LibraryOutput(OrderedDict[str, Any]):
    """Like `transformers`' ModelOutput: a class of its own, registered with torch by its keys."""


pytree.register_pytree_node(
    LibraryOutput,
    lambda output: (list(output.values()), list(output.keys())),
    lambda values, keys: LibraryOutput(zip(keys, values, strict=True)),
    serialized_type_name="library.LibraryOutput",
)


class ReturnsClasses(nn.Module):
    def forward(self, x: torch.Tensor) -> LibraryOutput:
        return LibraryOutput(logits=x + 1, boxes=Boxes(x * 2, x * 3), rest=(x, [x]))


def exported(module: nn.Module, inputs: Any, tmp_path: Path, **options: bool) -> Any:
    path = tmp_path / "model.pt2"
    export_module(module, inputs, path, **options)
    return torch.export.load(path)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_batch_is_open_whatever_that_of_the_example(tmp_path: Path, batch: int) -> None:
    """A batch of one is no exception, though torch.export takes a 1 for a constant."""
    module = Small().eval()
    program = exported(module, torch.randn(batch, 4), tmp_path)
    for size in (2, 3, 7):
        features = torch.randn(size, 4)
        torch.testing.assert_close(program.module()(features), module(features))


def test_the_batch_can_be_fixed(tmp_path: Path) -> None:
    program = exported(Small(), torch.randn(3, 4), tmp_path, dynamic_batch=False)
    [features] = [node for node in program.graph.nodes if node.name == "features"]
    assert tuple(features.meta["val"].shape) == (3, 4)


@pytest.mark.parametrize(
    ("inputs", "names"),
    [
        ((torch.ones(2, 3), torch.ones(2, 3)), ["left", "right"]),
        ([torch.ones(2, 3), torch.ones(2, 3)], ["left", "right"]),
        ({"left": torch.ones(1, 3), "right": torch.ones(1, 3)}, ["left", "right"]),
        ({"left": torch.ones(2, 3), "right": None}, ["left"]),
        (torch.ones(2, 3), ["left"]),
    ],
    ids=["tuple", "list", "keywords", "keyword None", "tensor"],
)
def test_inputs_are_named_as_in_forward(tmp_path: Path, inputs: Any, names: list[str]) -> None:
    program = exported(Two(), inputs, tmp_path)
    assert list(program.graph_signature.user_inputs) == names


def test_a_module_is_exported_in_eval_mode_and_goes_back_to_what_it_was(tmp_path: Path) -> None:
    """Part by part: a frozen batch norm in a module that trains stays frozen."""
    module = Small().train()
    module.norm.eval()
    program = exported(module, torch.randn(2, 4), tmp_path)
    assert (module.training, module.norm.training, module.dropout.training) == (True, False, True)
    features = torch.randn(2, 4)
    torch.testing.assert_close(program.module()(features), module.eval()(features))


def test_modes_are_restored_when_the_export_fails(tmp_path: Path) -> None:
    module = DataDependent().train()
    with pytest.raises(octavo.ExportFailed):
        export_module(module, torch.ones(2), tmp_path / "model.pt2")
    assert module.training


def test_the_example_inputs_stay_here(tmp_path: Path) -> None:
    """They are the user's data, and could only be read back by unpickling."""
    export_module(Small(), torch.full((2, 4), 1234.5), tmp_path / "model.pt2")
    with zipfile.ZipFile(tmp_path / "model.pt2") as archive:
        samples = [name for name in archive.namelist() if "sample_inputs" in name]
        assert [archive.getinfo(name).file_size for name in samples] == [0] * len(samples)


def test_a_fixed_batch_is_explained(tmp_path: Path) -> None:
    with pytest.raises(octavo.ExportFailed) as raised:
        export_module(FixedBatch(), torch.ones(2, 6), tmp_path / "model.pt2")
    assert "FixedBatch can be exported, but not with an open batch size" in str(raised.value)
    assert "dynamic_batch=False" in str(raised.value)
    export_module(FixedBatch(), torch.ones(2, 6), tmp_path / "model.pt2", dynamic_batch=False)


def test_a_module_that_cannot_be_exported_is_not_blamed_on_the_batch(tmp_path: Path) -> None:
    with pytest.raises(octavo.ExportFailed, match=r"torch\.export cannot export DataDependent") as raised:
        export_module(DataDependent(), torch.ones(2), tmp_path / "model.pt2")
    assert "dynamic_batch" not in str(raised.value)


@pytest.mark.parametrize(
    ("module", "inputs", "reason"),
    [
        (Small(), None, "needs example_inputs"),
        (Small(), "text", "must be tensors"),
        (Small(), (torch.ones(1, 4), 3), "example input 1 is int"),
        (object(), torch.ones(1), "takes an nn.Module or the path of a .pt2, not object"),
    ],
)
def test_what_cannot_be_exported_is_refused_with_a_reason(
    tmp_path: Path, module: Any, inputs: Any, reason: str
) -> None:
    with pytest.raises(octavo.ExportFailed, match=reason):
        export_module(module, inputs, tmp_path / "model.pt2")


def test_classes_of_a_library_come_back_as_plain_containers(tmp_path: Path) -> None:
    """The server has no such library, and refuses a file that names its classes."""
    x = torch.randn(3, 4)
    program = exported(ReturnsClasses(), x, tmp_path)
    inspect_model(tmp_path / "model.pt2")
    found = program.module()(x)
    assert type(found) is dict
    assert list(found) == ["logits", "boxes", "rest"]
    torch.testing.assert_close(found["boxes"], {"corners": x * 2, "scores": x * 3})
    torch.testing.assert_close(found["rest"], (x, [x]))
