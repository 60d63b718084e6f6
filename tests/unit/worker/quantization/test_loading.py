"""Reading a .pt2: what goes in, what comes out, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from shared.errors import ModelCorrupt, ModelUnsupported
from worker.quantization import input_specs, load_program, output_names


def saved(folder: Path, module: nn.Module, *inputs: object, dynamic_shapes: object = None) -> Path:
    program = torch.export.export(module.eval(), inputs, dynamic_shapes=dynamic_shapes)
    torch.export.save(program, folder / "model.pt2")
    return folder / "model.pt2"


def test_inputs_tell_name_shape_dtype_and_bounds(tmp_path: Path) -> None:
    class Two(nn.Module):
        def forward(self, image: Tensor, ids: Tensor) -> Tensor:
            return image.mean((1, 2, 3)) + ids.float().mean(1)

    batch = Dim("batch", max=64)
    path = saved(
        tmp_path, Two(), torch.randn(4, 3, 8, 8), torch.zeros(4, 5, dtype=torch.int64),
        dynamic_shapes=({0: batch}, {0: batch, 1: Dim.DYNAMIC}),
    )  # fmt: skip
    image, ids = input_specs(load_program(path))
    assert (image.name, image.shape, image.dtype) == ("image", (None, 3, 8, 8), torch.float32)
    assert (ids.name, ids.shape, ids.dtype) == ("ids", (None, None), torch.int64)
    assert image.batch_symbol == ids.batch_symbol != ids.symbols[1]
    assert image.example_shape == (4, 3, 8, 8)
    assert image.bounds[0][1] == 64
    assert image.with_batch(7) == (7, 3, 8, 8)


def test_a_fixed_batch_is_a_number(tmp_path: Path) -> None:
    (spec,) = input_specs(load_program(saved(tmp_path, nn.Linear(4, 2), torch.randn(3, 4))))
    assert spec.shape == (3, 4)
    assert spec.batch_symbol is None


def test_one_tensor_is_called_output(tmp_path: Path) -> None:
    assert output_names(load_program(saved(tmp_path, nn.Linear(4, 2), torch.randn(3, 4)))) == ["output"]


def test_constants_among_the_inputs_are_left_out(tmp_path: Path) -> None:
    class Scaled(nn.Module):
        def forward(self, x: Tensor, scale: float, mask: Tensor | None = None) -> Tensor:
            return x * scale if mask is None else x * mask

    program = load_program(saved(tmp_path, Scaled(), torch.randn(3, 4), 2.0, None))
    assert [spec.name for spec in input_specs(program)] == ["x"]


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04" + bytes(200)])
def test_what_is_no_archive_is_corrupt(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.pt2").write_bytes(content)
    with pytest.raises(ModelCorrupt):
        load_program(tmp_path / "model.pt2")


def test_a_truncated_archive_is_corrupt(tmp_path: Path) -> None:
    path = saved(tmp_path, nn.Linear(64, 64), torch.randn(3, 64))
    path.write_bytes(path.read_bytes()[:-4000])
    with pytest.raises(ModelCorrupt):
        load_program(path)


def test_half_precision_is_refused_with_what_to_call(tmp_path: Path) -> None:
    path = saved(tmp_path, nn.Linear(4, 2).half(), torch.randn(3, 4).half())
    with pytest.raises(ModelUnsupported, match="float16") as caught:
        load_program(path)
    assert "model.float()" in (caught.value.hint or "")


def test_a_number_that_may_vary_is_refused(tmp_path: Path) -> None:
    class Repeats(nn.Module):
        def forward(self, x: Tensor, times: int) -> Tensor:
            return x.repeat(times, 1)

    path = saved(tmp_path, Repeats(), torch.randn(3, 4), 5, dynamic_shapes=(None, Dim.DYNAMIC))
    with pytest.raises(ModelUnsupported, match="times"):
        load_program(path)
