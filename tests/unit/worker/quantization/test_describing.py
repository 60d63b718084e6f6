"""What a report says an int8 model is made of, read from small networks that are really quantized."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.export import Dim
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from shared.layer_report import QuantBoundary
from shared.quantization_spec import spec_adapter
from shared.spec_patch import apply_patch
from worker.quantization import (
    Description,
    convert,
    describe,
    per_channel_gain_db,
    plan,
    prepare,
    quantize_dynamic,
    raise_program,
    stretch_of,
)

MODEL, DATASET = "mdl_0123456789abcdef", "dst_0123456789abcdef"
Described = tuple[Description, fx.GraphModule]


def described(module: nn.Module, *inputs: Tensor, **spec: Any) -> Described:
    """The description of a quantized module, and that module; its first input is what it is calibrated on."""
    torch.set_num_threads(1)
    dynamic = spec.get("method") == "dynamic"
    asked = {"method": "static", "model": MODEL} | ({} if dynamic else {"calibration": DATASET}) | spec
    shapes = tuple({0: Dim.DYNAMIC} for _ in inputs)
    raised = raise_program(torch.export.export(module.eval(), inputs, dynamic_shapes=shapes))
    settled = plan(raised, spec_adapter.validate_python(asked))
    one = tuple(tensor[:1] for tensor in inputs)
    if dynamic:
        quantized = quantize_dynamic(raised, settled)
        return describe(raised, None, quantized, settled, one), quantized
    prepared = prepare(raised, settled, inputs)
    with torch.no_grad():
        prepared(*inputs)
    converted = convert(prepared, settled)
    return describe(raised, prepared, converted, settled, one), converted


def images(seed: int = 1) -> Tensor:
    return torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


class Blocks(nn.Module):
    """Every way in which neighbours fuse, or do not."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fused, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.late, self.late_norm = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.read_twice = nn.Conv2d(8, 8, 3, padding=1)
        self.gated = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.fused(x)))
        x = self.late_norm(F.relu(self.late(x)))
        twice = self.read_twice(x)
        x = F.relu(twice) + twice
        return self.head(F.silu(self.gated(x)).mean((2, 3)))


def test_fusions_are_told_and_why_others_are_none() -> None:
    found, _ = described(Blocks(), images())
    told = {tuple(fusion.layers): (fusion.pattern, fusion.fused, fusion.reason or "") for fusion in found.fusions}
    assert told["fused", "norm", "relu"] == ("Conv2d + BatchNorm2d + ReLU", True, "")
    late = told["late", "relu_1", "late_norm"]
    assert (late[1], "after relu" in late[2]) == (False, True)
    twice = told["read_twice", "relu_2"]
    assert (twice[1], "is read by add as well" in twice[2]) == (False, True)
    gated = told["gated", "silu"]
    assert (gated[1], "only ReLU" in gated[2]) == (False, True)


def test_layers_tell_what_runs_as_one_with_them_and_what_they_multiply() -> None:
    found, _ = described(Blocks(), images())
    layers = {layer.name: layer for layer in found.layers}
    assert layers["fused"].fused == ["norm", "relu"]
    assert layers["fused"].precision == "int8"
    assert layers["fused"].macs == 8 * 8 * 8 * 3 * 9
    assert layers["head"].macs == 8 * 4
    assert layers["fused"].weight_bytes == 8 * 27 + 4 * 8
    assert "flatten" not in layers


class Island(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x)).reshape(x.shape[0], 8, 4, 16))


def test_boundaries_are_found_through_shapes_with_the_override_that_removes_them() -> None:
    found, _ = described(Island(), images(), overrides=[{"layer": "b"}])
    told = [(boundary.direction, boundary.producer, boundary.consumer) for boundary in found.boundaries]
    assert told == [
        ("quantize", "x", "a"), ("dequantize", "a", "b"), ("quantize", "b", "c"), ("dequantize", "c", "output"),
    ]  # fmt: skip
    edge, entering, leaving, _ = found.boundaries
    assert edge.removed_by is None
    assert entering.removed_by == leaving.removed_by == {"overrides": [{"layer": "b", "precision": "int8"}]}
    assert (edge.elements, leaving.elements) == (3 * 64, 8 * 64)
    assert all(boundary.cost_ms is not None and boundary.cost_ms > 0 for boundary in found.boundaries)


class Tables(nn.Module):
    """An int8 table, which gives floats, read by a layer and by the sum behind it."""

    def __init__(self, table: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.fc, self.norm, self.head = table, nn.Linear(16, 16), nn.LayerNorm(16), nn.Linear(16, 4)

    def forward(self, ids: Tensor) -> Tensor:
        rows = self.table(ids)
        return self.head(self.norm(rows + F.dropout(self.fc(rows), 0.1, self.training)))


class Mixed(nn.Module):
    """Operators with and without int8 kernels, and a transposed convolution that `fbgemm` gets wrong."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.up = nn.Conv2d(3, 8, 3, padding=1), nn.ConvTranspose2d(8, 8, 2, stride=2)
        self.b, self.act, self.head = nn.Conv2d(8, 4, 1), nn.PReLU(), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.up(F.silu(self.a(x))), 2)
        return self.head((self.act(self.b(torch.cumsum(x, 1) * x)) + 1).mean((2, 3)))


class Encoder(nn.Module):
    """A table read by a sum, and by layers only through a transposition."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head = nn.Embedding(20, 16), nn.Linear(16, 4)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, activation="gelu")

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.layer(self.table(ids))[:, -1])


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.rnn = nn.Linear(8, 16), nn.LSTM(16, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(self.fc(x))[0]


IDS = torch.arange(32 * 6).reshape(32, 6) % 20

HEAD_IN_INT8 = {"layer": "head", "precision": "int8"}


@pytest.mark.parametrize(
    ("module", "inputs", "spec"),
    [
        (lambda: Tables(nn.Embedding(20, 16)), IDS, {"overrides": [HEAD_IN_INT8]}),
        (lambda: Tables(nn.Embedding(20, 16)), IDS, {"overrides": [HEAD_IN_INT8, {"layer": "table"}]}),
        (lambda: Tables(nn.EmbeddingBag(20, 16, mode="max")), IDS, {"overrides": [HEAD_IN_INT8]}),
        (Encoder, IDS, {}),
        (Mixed, images(), {"qengine": "fbgemm"}),
        (Mixed, images(), {"overrides": [{"layer": "b"}, {"layer": "mul"}]}),
    ],
    ids=["table", "table-in-float", "bag-max", "encoder", "fbgemm", "asked"],
)
def test_every_override_that_is_said_to_remove_a_boundary_is_accepted_and_removes_it(
    module: Callable[[], nn.Module], inputs: Tensor, spec: dict[str, Any]
) -> None:
    found, _ = described(module(), inputs, **spec)
    offered = [boundary for boundary in found.boundaries if boundary.removed_by is not None]
    assert offered
    for boundary in offered:
        patched = apply_patch({"overrides": [], **spec}, boundary.removed_by or {})
        after, _ = described(module(), inputs, **patched)
        assert crossings([boundary]).isdisjoint(crossings(after.boundaries)), boundary.removed_by


def crossings(boundaries: list[QuantBoundary]) -> set[tuple[str, str, str]]:
    return {
        (each.direction, producer, consumer)
        for each in boundaries
        for producer in each.producer.split(", ")
        for consumer in each.consumer.split(", ")
    }


def test_no_override_is_offered_that_leaves_nothing_in_int8_or_asks_a_table_for_integers() -> None:
    recurrent, _ = described(Recurrent(), torch.randn(16, 5, 8))
    assert {boundary.removed_by for boundary in recurrent.boundaries if boundary.producer == "fc"} == {None}
    tables, _ = described(Tables(nn.Embedding(20, 16)), IDS, overrides=[HEAD_IN_INT8])
    (entering,) = (boundary for boundary in tables.boundaries if boundary.producer == "table")
    assert entering.removed_by == {"overrides": [{"layer": "fc", "precision": "float32"}]}


class Namesake(nn.Module):
    """A convolution that is called as the model's input is, and another that is called as its output is."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.x, self.output = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.x(x))


def test_no_override_removes_the_edge_of_a_model_whose_layer_is_called_as_its_input_is() -> None:
    found, _ = described(Namesake(), images())
    assert [(boundary.producer, boundary.consumer) for boundary in found.boundaries] == [
        ("x", "x"),
        ("output", "output"),
    ]
    assert [boundary.removed_by for boundary in found.boundaries] == [None, None]


def test_the_graphs_are_told_before_and_after_with_layer_precision_and_shape() -> None:
    found, _ = described(Island(), images(), overrides=[{"layer": "b"}])
    before = {node.name: node for node in found.graphs.float_nodes}
    assert {node.precision for node in before.values()} == {"float32", "other"}
    assert before["a"].shape == [None, 8, 8, 8]
    after = [(node.layer, node.precision, node.shape) for node in found.graphs.int8_nodes if node.op == "call_module"]
    shape = [None, 8, 8, 8]
    assert after == [("a", "int8", shape), ("b", "float32", shape), ("c", "int8", [None, 8, 4, 16])]
    assert sum(node.precision == "boundary" for node in found.graphs.int8_nodes) == len(found.boundaries)


def test_operators_that_conversion_renamed_keep_their_layer() -> None:
    """`add_relu` and `hardswish` are new nodes, which know nothing of where they come from."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.one, self.two = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
            self.swish = nn.Hardswish()

        def forward(self, x: Tensor) -> Tensor:
            x = self.swish(self.one(x))
            return F.relu(x + self.two(x))

    found, _ = described(Two(), images())
    named = {node.layer: node.target for node in found.graphs.int8_nodes if node.op == "call_function" and node.layer}
    assert named == {"swish": "hardswish", "add": "add_relu"}
    precisions = {layer.name: layer.precision for layer in found.layers}
    assert precisions == {"one": "int8", "swish": "int8", "two": "int8", "add": "int8"}


def test_qparams_are_those_that_the_int8_modules_hold() -> None:
    found, converted = described(Island(), images())
    layer = next(layer for layer in found.layers if layer.name == "a")
    weight, given, made = layer.qparams
    module: Any = converted.get_submodule("a")
    assert (weight.role, given.role, made.role) == ("weight", "input", "output")
    assert made.scale == pytest.approx(module.scale)
    assert made.zero_point == module.zero_point
    assert weight.channels is not None
    assert weight.channels.count == 8
    assert weight.channels.scale_max == pytest.approx(float(module.weight().q_per_channel_scales().max()))
    assert given.tensor == "x"
    x = images()
    assert (given.min, given.max) == (pytest.approx(float(x.min())), pytest.approx(float(x.max())))
    assert weight.quant_max == 127
    assert weight.observer == "per_channel_minmax"


def test_dead_channels_and_tensors_of_zeros_are_flagged() -> None:
    module = Island()
    with torch.no_grad():
        module.b.weight[3], module.b.weight[5] = 0, 0.5
        module.c.weight.zero_()
        module.c.bias.zero_()  # type: ignore[union-attr]  # it has one
    found, _ = described(module, images())
    layers = {layer.name: layer.qparams for layer in found.layers}
    weight = layers["b"][0]
    assert weight.channels is not None
    assert (weight.channels.dead, weight.channels.constant) == ([3], [5])
    assert set(weight.flags) == {"dead_channels", "constant_channels"}
    assert "scale_zero" in layers["c"][0].flags
    assert "scale_zero" in layers["c"][-1].flags, "its output was zero all along"


@pytest.mark.parametrize(
    ("method", "precision", "weights"),
    [("int8", "int8", ["weight_ih_l0", "weight_hh_l0"]), ("float16", "float16", [])],
)
def test_dynamic_quantization_is_described_by_its_weights(method: str, precision: str, weights: list[str]) -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.rnn, self.out = nn.LSTM(16, 8, batch_first=True), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.rnn(x)[0][:, -1])

    found, _ = described(Reader(), torch.randn(4, 5, 16), method="dynamic", precision=method)
    layers = {layer.name: layer for layer in found.layers}
    assert layers["rnn"].precision == layers["out"].precision == precision
    assert [qparams.tensor for qparams in layers["rnn"].qparams] == weights
    assert layers["rnn"].macs == 5 * 4 * 8 * (16 + 8)
    assert (found.boundaries, found.fusions) == ([], [])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (lambda: torch.linspace(-1, 1, 100_000), 1.0),
        (lambda: torch.cat([torch.linspace(-1, 1, 100_000), torch.tensor([9.0])]), 5.0),  # (9 + 1) / 2
        (lambda: torch.cat([torch.linspace(1, 2, 100_000), torch.tensor([20.0])]), 10.0),  # both ranges hold zero
    ],
)
def test_stretch_is_the_range_over_that_of_all_but_a_thousandth(values: Callable[[], Tensor], expected: float) -> None:
    """Within a bin's width of 1 in 2048, which is 1 % of the inner range here, and the 0.1 % left out."""
    made = values()
    low, high = float(made.min()), float(made.max())
    found = stretch_of(torch.histc(made, 2048, low, high), low, high, low, high)
    assert found == pytest.approx(expected, rel=0.015)


def test_what_a_scale_a_channel_would_gain_is_told_of_weights_with_one() -> None:
    module = Island()
    with torch.no_grad():
        module.b.weight[1:] /= 100
        module.b.weight[0, 0] = 2 * module.b.weight[0].abs().max()
    _, converted = described(module, images(), weight={"observer": "minmax"})
    assert per_channel_gain_db(converted, "b") == pytest.approx(9.0, abs=0.1)  # 8 channels, one of which is all
    _, converted = described(module, images())
    assert per_channel_gain_db(converted, "b") is None
