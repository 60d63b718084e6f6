"""An artifact that does not come back as it was is not offered."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import fx, nn

from shared.errors import InternalError
from tests.unit.worker.test_datasets import spec
from worker.datasets import InMemorySamples
from worker.inference import BatchRange
from worker.job_folder import JobFolder
from worker.loading_example import _random_tensor
from worker.quantization import raise_program
from worker.steps.convert import Quantized
from worker.steps.load import LoadedModel
from worker.steps.package import _example_input, package


def traced(module: nn.Module, batch_size: int = 2) -> torch.jit.ScriptModule:
    return torch.jit.trace(module.eval(), torch.randn(batch_size, 4))


def as_tuple(function: object) -> nn.Module:
    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
            return (function(x),)  # type: ignore[operator]  # any function of a tensor

    return Model()


SAMPLES = InMemorySamples((torch.randn(16, 4, generator=torch.Generator().manual_seed(0)),))
IDENTITY = as_tuple(lambda x: 2 * x)


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    folder = JobFolder(tmp_path)
    for path in (folder.inputs, folder.outputs, folder.tmp):
        path.mkdir()
    return folder


def raised() -> fx.GraphModule:
    example = (torch.randn(2, 4),)
    return raise_program(torch.export.export(IDENTITY, example, dynamic_shapes=[({0: torch.export.Dim.DYNAMIC})]))


def packaged(folder: JobFolder, frozen: torch.jit.ScriptModule, made_from: nn.Module = IDENTITY) -> None:
    model = LoadedModel(raised(), (spec("x", (None, 4)),), ("output",), BatchRange(1, 100), 32)
    example = (torch.randn(2, 4),)
    file = folder.tmp / "int8.pt"
    torch.jit.save(frozen, file)
    package(folder, model, Quantized(made_from, file, "x86"), example=example, samples=SAMPLES)


def test_the_same_outputs_are_offered(folder: JobFolder) -> None:
    packaged(folder, traced(IDENTITY))
    assert {path.name for path in folder.outputs.iterdir()} == {"model_int8.pt"}


@pytest.mark.parametrize(
    "wrong",
    [
        as_tuple(lambda x: 2.1 * x),
        as_tuple(lambda x: torch.cat([2 * x, x])),
        as_tuple(lambda x: 2 * x if x.shape[0] == 2 else x),
    ],
    ids=["other values", "another shape", "a batch size taken for a constant"],
)
def test_other_outputs_are_not(folder: JobFolder, wrong: nn.Module) -> None:
    frozen = traced(wrong, 3)
    with pytest.raises(InternalError, match="not offered"):
        packaged(folder, frozen)


def test_choices_may_turn_on_a_rounding_but_not_all_of_them(folder: JobFolder) -> None:
    """Of eight samples one chooses another class, and of eight all do."""
    chosen = as_tuple(lambda x: x.argmax(1))
    packaged(folder, traced(as_tuple(lambda x: x.argmax(1) + (x[:, 0] == x[:, 0].max()))), chosen)
    with pytest.raises(InternalError, match="not offered"):
        packaged(folder, traced(as_tuple(lambda x: x.argmin(1))), chosen)


@pytest.mark.parametrize(
    ("dtype", "sample", "expected"),
    [
        (torch.float32, torch.zeros(1, 3), "torch.randn((2, 3), dtype=torch.float32)"),
        (torch.int64, torch.tensor([[4, 7]]), "torch.randint(0, 8, (2, 2)).to(torch.int64)"),
        (torch.int64, torch.tensor([[0, 0]]), "torch.full((2, 2), 0).to(torch.int64)"),
        (torch.bool, torch.tensor([[True, False]]), "torch.full((2, 2), 1).to(torch.bool)"),
    ],
)
def test_example_inputs_are_such_as_the_model_takes(dtype: torch.dtype, sample: torch.Tensor, expected: str) -> None:
    assert _random_tensor(_example_input(spec("x", (None, sample.shape[1]), dtype), sample, 2)) == f"{expected},  # x"
