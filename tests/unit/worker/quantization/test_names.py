"""Layers keep the names they have in the user's code."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn
from torch.export import Dim

from worker.quantization import input_specs, output_names, raise_program, verify_raised


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
