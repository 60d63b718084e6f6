"""Layers keep the names they have in the user's code."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram

from worker.quantization import freeze, input_specs, output_names, raise_program, verify_raised
from worker.quantization.naming import safe_path


def raised(module: nn.Module, *inputs: Tensor, strict: bool = False) -> fx.GraphModule:
    shapes = tuple({0: Dim.DYNAMIC} for _ in inputs)
    program = torch.export.export(module.eval(), inputs, dynamic_shapes=shapes, strict=strict)
    result = raise_program(program)
    verify_raised(program, result, inputs)
    return result


def layers(module: fx.GraphModule) -> dict[str, str]:
    return {node.meta["layer"]: node.meta["op"] for node in module.graph.nodes if node.op.startswith("call_")}


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.norm(self.conv(x)) + x)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.Sequential(Block(), Block())
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(x).flatten(2).transpose(1, 2)
        return self.head(self.attention(x, x, x, need_weights=False)[0])


def test_modules_and_functions_are_named_after_where_they_stand() -> None:
    found = layers(raised(Network(), torch.randn(2, 4, 6, 6)))
    expected = {
        "stages.0.conv": "Conv2d",
        "stages.0.norm": "BatchNorm2d",
        "stages.0.add": "add",
        "stages.0.relu": "ReLU",
        "stages.1.conv": "Conv2d",
        "stages.1.add": "add",
        "attention.in_proj": "Linear",
        "attention.out_proj": "Linear",
        "head": "Linear",
    }
    assert expected.items() <= found.items()


def test_strict_export_gives_the_same_names() -> None:
    inputs = torch.randn(2, 4, 6, 6)
    module = Network()
    assert layers(raised(module, inputs)) == layers(raised(module, inputs, strict=True))


def test_a_module_called_twice_gets_a_number_and_shares_its_weight() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(torch.relu(self.linear(x)))

    result = raised(Twice(), torch.randn(2, 4))
    first, second = result.get_submodule("linear"), result.get_submodule("linear_1")
    assert first.weight is second.weight


def test_tied_weights_stay_tied() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(9, 4)
            self.out = nn.Linear(4, 9, bias=False)
            self.out.weight = self.words.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.words((x > 0).long()))

    result = raised(Tied(), torch.randn(2, 3))
    assert result.get_submodule("words").weight is result.get_submodule("out").weight


def test_a_root_that_is_itself_a_layer_gets_a_name() -> None:
    assert layers(raised(nn.Linear(4, 2), torch.randn(2, 4))) == {"linear": "Linear"}


def test_a_layer_that_holds_layers_takes_another_name_than_theirs() -> None:
    class Adapted(nn.Linear):
        """Like LoRA: a Linear with Linears inside."""

        def __init__(self) -> None:
            super().__init__(4, 4)
            self.down = nn.Linear(4, 2)
            self.up = nn.Linear(2, 4)

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + self.up(self.down(x))

    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.proj = Adapted()

        def forward(self, x: Tensor) -> Tensor:
            return self.proj(x)

    assert {"proj.linear", "proj.down", "proj.up"} <= set(layers(raised(Root(), torch.randn(2, 4))))


def test_nested_inputs_and_outputs_are_flat_and_named() -> None:
    class Nested(nn.Module):
        def forward(self, pair: tuple[Tensor, Tensor], *, extra: dict[str, Tensor]) -> dict[str, object]:
            return {"sum": pair[0] + pair[1], "parts": (pair[0] * 2, extra["bias"] - 1, None)}

    x = torch.randn(2, 3)
    program = torch.export.export(Nested(), ((x, x + 1),), {"extra": {"bias": x + 2}})
    result = raise_program(program)
    assert [spec.shape for spec in input_specs(program)] == [(2, 3)] * 3
    assert output_names(program) == ["sum", "parts.0", "parts.1"]
    assert [torch.equal(a, b) for a, b in zip(result(x, x + 1, x + 2), (x + x + 1, x * 2, x + 1), strict=True)]
    verify_raised(program, result, (x, x + 1, x + 2))


class InManyScripts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.m = nn.ModuleDict({"größe-1": nn.Linear(4, 4), "中文": nn.Linear(4, 4), "a b/c": nn.ReLU()})

    def forward(self, x: Tensor) -> Tensor:
        return self.m["中文"](self.m["a b/c"](self.m["größe-1"](x)))


def test_names_of_any_script_are_kept_and_torchscript_gets_others() -> None:
    x = torch.randn(2, 4)
    result = raised(InManyScripts(), x)
    assert layers(result) == {"m.größe-1": "Linear", "m.a b/c": "ReLU", "m.中文": "Linear"}
    assert torch.allclose(freeze(result, (x,))(x)[0], result(x)[0])


def renamed(path: str) -> ExportedProgram:
    """A program whose first layer says that it stands at this path, as a hostile file could."""
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)).eval()
    program = torch.export.export(network, (torch.randn(2, 4),), dynamic_shapes=({0: Dim.DYNAMIC},))
    for node in program.graph.nodes:
        for key, (known, kind) in node.meta.get("nn_module_stack", {}).items():
            if known == "0":
                node.meta["nn_module_stack"][key] = (path, kind)
    return program


def test_a_name_cannot_run_code(tmp_path: Path) -> None:
    """FX writes `getattr(self, "<name>")` into source that it executes."""
    witness = tmp_path / "ran"
    result = raise_program(renamed(f'x" if open("{witness}", "w") else "0'))
    result(torch.randn(2, 4))
    assert not witness.exists()


@pytest.mark.parametrize(
    "path",
    [
        "a\x00b", "a\ud800b", "forward", "graph", "training", "__class__", "_modules", "..", ".", "if.class", "ﬁ",
        "n" * 100_000, ".".join("n" * 3000), "x.y.forward",
    ],
)  # fmt: skip
def test_whatever_a_layer_is_called_it_can_be_raised_and_frozen(path: str) -> None:
    x = torch.randn(2, 4)
    program = renamed(path)
    result = raise_program(program)
    verify_raised(program, result, (x,))
    assert torch.allclose(freeze(result, (x,))(x)[0], result(x)[0])


@pytest.mark.parametrize("path", ["", "0", "layer4.1.conv2", "größe-1.中文", "a b/c:d", "blocks.graph", "x.meta.code"])
def test_an_honest_path_stays_as_it_is(path: str) -> None:
    assert safe_path(path) == path
