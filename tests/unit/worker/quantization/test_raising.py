"""Raising, operator by operator: each aten operator becomes what FX quantization knows, and computes the same."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from worker.quantization import freeze, input_specs, raise_program, verify_raised

IMAGE = (4, 8, 8)
ROW = (8,)


class Lambda(nn.Module):
    """A module of one expression; its submodules are given by name."""

    def __init__(self, function: Callable[..., Any], **modules: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self, *inputs)


def exported(module: nn.Module, *shapes: tuple[int, ...], train: bool = False, strict: bool = False) -> ExportedProgram:
    inputs = tuple(torch.randn(3, *shape) for shape in shapes)
    dynamic = tuple({0: Dim.DYNAMIC} for _ in inputs)
    module.train(train)
    if isinstance(module, Lambda):  # *inputs is one parameter that holds them all
        return torch.export.export(module, inputs, dynamic_shapes=(dynamic,), strict=strict)
    return torch.export.export(module, inputs, dynamic_shapes=dynamic, strict=strict)


def raised_and_verified(program: ExportedProgram) -> fx.GraphModule:
    """The raised module, after its outputs were compared with the program's at two batch sizes."""
    raised = raise_program(program)
    inputs = tuple(torch.randn(spec.with_batch(4)) for spec in input_specs(program))
    verify_raised(program, raised, inputs)
    return raised


def targets(raised: fx.GraphModule) -> list[Any]:
    """What the raised graph calls: module classes, functions and method names."""
    modules = dict(raised.named_modules())
    return [
        type(modules[node.target]) if node.op == "call_module" else node.target
        for node in raised.graph.nodes
        if node.op.startswith("call_")
    ]


def left_aten(raised: fx.GraphModule) -> list[str]:
    return [str(target) for target in targets(raised) if isinstance(target, torch._ops.OpOverload)]


@dataclass(frozen=True)
class Case:
    """A network of one operator, and what it must become."""

    module: Callable[[], nn.Module]
    becomes: Any
    shape: tuple[int, ...] = IMAGE


def function(call: Callable[[Tensor], Any]) -> Callable[[], nn.Module]:
    return lambda: Lambda(lambda _self, x: call(x))


MODULE_CASES = {
    "conv1d": Case(lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1), nn.Conv1d, (4, 9)),
    "conv2d": Case(lambda: nn.Conv2d(4, 6, 3, padding=1, dilation=2, groups=2, bias=False), nn.Conv2d),
    "conv2d same": Case(lambda: nn.Conv2d(4, 6, 3, padding="same"), nn.Conv2d),
    "conv2d same, uneven": Case(lambda: nn.Conv2d(4, 6, 2, padding="same"), nn.Conv2d),
    "conv3d": Case(lambda: nn.Conv3d(2, 3, 3), nn.Conv3d, (2, 5, 5, 5)),
    "conv_transpose1d": Case(lambda: nn.ConvTranspose1d(4, 6, 3, stride=2), nn.ConvTranspose1d, (4, 9)),
    "conv_transpose2d": Case(
        lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2), nn.ConvTranspose2d
    ),
    "conv_transpose3d": Case(lambda: nn.ConvTranspose3d(2, 3, 2), nn.ConvTranspose3d, (2, 4, 4, 4)),
    "linear": Case(lambda: nn.Linear(8, 3), nn.Linear, ROW),
    "linear without bias": Case(lambda: nn.Linear(8, 3, bias=False), nn.Linear, (5, 8)),
    "batch_norm1d": Case(lambda: nn.BatchNorm1d(8), nn.BatchNorm1d, ROW),
    "batch_norm2d": Case(lambda: nn.BatchNorm2d(4, eps=1e-3), nn.BatchNorm2d),
    "batch_norm2d, not affine": Case(lambda: nn.BatchNorm2d(4, affine=False), nn.BatchNorm2d),
    "batch_norm3d": Case(lambda: nn.BatchNorm3d(2), nn.BatchNorm3d, (2, 4, 4, 4)),
    "layer_norm": Case(lambda: nn.LayerNorm((8, 8), eps=1e-3), nn.LayerNorm),
    "layer_norm, not affine": Case(lambda: nn.LayerNorm(8, elementwise_affine=False), nn.LayerNorm, ROW),
    "group_norm": Case(lambda: nn.GroupNorm(2, 4), nn.GroupNorm),
    "prelu": Case(lambda: nn.PReLU(4), nn.PReLU),
    "dropout": Case(lambda: nn.Dropout(0.3), nn.Dropout),
}

FUNCTION_CASES = {
    "relu": Case(function(torch.relu), F.relu),
    "relu in place": Case(lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(inplace=True)), F.relu),
    "relu6": Case(function(F.relu6), F.relu6),
    "ReLU6 in place": Case(lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU6(inplace=True)), F.hardtanh),
    "hardtanh": Case(function(F.hardtanh), F.hardtanh),
    "hardswish": Case(function(F.hardswish), F.hardswish),
    "hardsigmoid": Case(function(F.hardsigmoid), F.hardsigmoid),
    "silu": Case(function(F.silu), F.silu),
    "mish": Case(function(F.mish), F.mish),
    "gelu": Case(function(F.gelu), F.gelu),
    "gelu tanh": Case(function(lambda x: F.gelu(x, approximate="tanh")), F.gelu),
    "elu": Case(function(lambda x: F.elu(x, 0.7)), F.elu),
    "leaky_relu": Case(function(lambda x: F.leaky_relu(x, 0.2)), F.leaky_relu),
    "sigmoid": Case(function(torch.sigmoid), torch.sigmoid),
    "tanh": Case(function(torch.tanh), torch.tanh),
    "softmax": Case(function(lambda x: x.softmax(-1)), F.softmax),
    "log_softmax": Case(function(lambda x: x.log_softmax(1)), F.log_softmax),
    "clamp": Case(function(lambda x: x.clamp(-1, 1)), torch.clamp),
    "add": Case(function(lambda x: x + x.flip(1)), torch.add),
    "add a number": Case(function(lambda x: x + 1), torch.add),
    "add in place": Case(function(lambda x: (x * 2).add_(x)), torch.add),
    "sub": Case(function(lambda x: x - 2), torch.sub),
    "mul": Case(function(lambda x: x * x), torch.mul),
    "div": Case(function(lambda x: x / 3), torch.div),
    "matmul": Case(function(lambda x: x @ x.transpose(-1, -2)), torch.matmul),
    "mean": Case(function(lambda x: x.mean((2, 3), keepdim=True)), torch.mean),
    "attention": Case(function(lambda x: F.scaled_dot_product_attention(x, x, x)), F.scaled_dot_product_attention),
    "causal attention": Case(
        function(lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True, scale=0.5)),
        F.scaled_dot_product_attention,
    ),
    "cat": Case(function(lambda x: torch.cat([x, x], 1)), torch.cat),
    "stack": Case(function(lambda x: torch.stack([x, x], 1)), torch.stack),
    "chunk": Case(function(lambda x: x.chunk(2, 1)[1] - x.chunk(2, 1)[0]), torch.narrow),
    "chunk, uneven": Case(function(lambda x: x.chunk(3, 3)), torch.narrow),
    "chunk of the batch": Case(function(lambda x: x.repeat(2, 1, 1, 1).chunk(2, 0)), torch.chunk),
    "split": Case(function(lambda x: x.split([1, 3], 1)[1]), torch.narrow),
    "split by size": Case(function(lambda x: x.split(3, 1)), torch.narrow),
    "slice": Case(function(lambda x: x[:, 1:3]), torch.narrow),
    "slice from the end": Case(function(lambda x: x[..., -3:-1]), torch.narrow),
    "slice to a size": Case(function(lambda x: x.flatten(1)[:, : x.shape[0]]), operator.getitem),
    "fill": Case(function(lambda x: x.fill_(0.5) + 1), torch.full_like),
    "new_zeros": Case(function(lambda x: x.flatten(1) + x.new_zeros(x.shape[0], 1)), "new_zeros"),
    "flatten": Case(function(lambda x: x.flatten(1)), torch.flatten),
    "channel_shuffle": Case(lambda: nn.ChannelShuffle(2), torch.channel_shuffle),
    "pixel_shuffle": Case(lambda: nn.PixelShuffle(2), F.pixel_shuffle),
    "max_pool1d": Case(lambda: nn.MaxPool1d(2), F.max_pool1d, (4, 8)),
    "max_pool2d": Case(lambda: nn.MaxPool2d(3, stride=2, padding=1), F.max_pool2d),
    "avg_pool1d": Case(lambda: nn.AvgPool1d(2), F.avg_pool1d, (4, 8)),
    "avg_pool2d": Case(lambda: nn.AvgPool2d(3, padding=1, count_include_pad=False), F.avg_pool2d),
    "adaptive_avg_pool1d": Case(lambda: nn.AdaptiveAvgPool1d(2), F.adaptive_avg_pool1d, (4, 8)),
    "adaptive_avg_pool2d": Case(lambda: nn.AdaptiveAvgPool2d((2, 1)), F.adaptive_avg_pool2d),
    "nearest": Case(lambda: nn.Upsample(scale_factor=2), F.interpolate),
    "bilinear": Case(lambda: nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True), F.interpolate),
    "pad": Case(function(lambda x: F.pad(x, (1, 2), value=0.5)), F.pad),
    "zeros": Case(function(lambda x: x.flatten(1) + torch.zeros(x.shape[0], 1)), torch.zeros),
    "arange": Case(function(lambda x: x.flatten(1)[:, 0] + torch.arange(x.shape[0])), torch.arange),
    "view": Case(function(lambda x: x.view(x.shape[0], -1)), "reshape"),
    "permute": Case(function(lambda x: x.permute(0, 2, 3, 1)), "permute"),
    "transpose": Case(function(lambda x: x.transpose(1, 2)), "transpose"),
    "contiguous": Case(function(lambda x: x.transpose(1, 2).contiguous()), "contiguous"),
    "unsqueeze": Case(function(lambda x: x.unsqueeze(1)), "unsqueeze"),
    "squeeze": Case(function(lambda x: x.mean(1, keepdim=True).squeeze(1)), "squeeze"),
    "expand": Case(function(lambda x: x[:, :1].expand(-1, 4, -1, -1)), "expand"),
    "size": Case(function(lambda x: x.reshape(x.shape[0] * 2, -1)), "size"),
}


@pytest.mark.parametrize("case", MODULE_CASES.values(), ids=MODULE_CASES.keys())
def test_an_operator_with_weights_becomes_its_module_with_the_same_output(case: Case) -> None:
    raised = raised_and_verified(exported(_with_statistics(case.module()), case.shape))
    assert targets(raised) == [case.becomes]


@pytest.mark.parametrize("case", FUNCTION_CASES.values(), ids=FUNCTION_CASES.keys())
def test_a_function_becomes_what_fx_quantization_knows_with_the_same_output(case: Case) -> None:
    assert case.becomes in targets(raised_and_verified(exported(case.module(), case.shape)))


@pytest.mark.parametrize("case", MODULE_CASES.values(), ids=MODULE_CASES.keys())
def test_a_program_exported_for_training_is_raised_in_evaluation_mode(case: Case) -> None:
    module = _with_statistics(case.module())
    raised = raised_and_verified(exported(module, case.shape, train=True))
    x = torch.randn(4, *case.shape)
    assert not any(child.training for child in raised.modules())
    assert torch.allclose(raised(x)[0], module.eval()(x), atol=1e-5)
    assert case.becomes in targets(raised)


DECOMPOSED = [name for name in MODULE_CASES if name not in ("prelu", "dropout")]


@pytest.mark.parametrize("name", DECOMPOSED)
def test_a_decomposed_program_gets_its_modules_back(name: str) -> None:
    case = MODULE_CASES[name]
    program = exported(_with_statistics(case.module()), case.shape).run_decompositions()
    assert case.becomes in targets(raised_and_verified(program))


def test_an_operator_that_is_unknown_stays_as_it_is() -> None:
    raised = raised_and_verified(exported(Lambda(lambda _self, x: x.cumsum(1).sin()), ROW))
    assert left_aten(raised) == ["aten.cumsum.default", "aten.sin.default"]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_recurrent_operator_becomes_its_module_and_its_zero_state_goes(kind: Any, bidirectional: bool) -> None:
    rnn = kind(8, 5, 2, batch_first=True, bidirectional=bidirectional)
    raised = raised_and_verified(exported(Lambda(lambda self, x: self.rnn(x), rnn=rnn), (6, 8)))
    assert kind in targets(raised)
    assert torch.zeros not in targets(raised)


def test_a_recurrent_operator_keeps_a_state_that_is_given() -> None:
    module = Lambda(
        lambda self, x, h, c: self.rnn(x, (h.transpose(0, 1), c.transpose(0, 1))), rnn=nn.LSTM(8, 5, batch_first=True)
    )
    assert nn.LSTM in targets(raised_and_verified(exported(module, (6, 8), (1, 5), (1, 5))))


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell])
def test_a_recurrent_cell_becomes_its_module(kind: Any) -> None:
    module = Lambda(lambda self, x, h: self.cell(x, (h, h) if kind is nn.LSTMCell else h), cell=kind(8, 5))
    assert kind in targets(raised_and_verified(exported(module, ROW, (5,))))


def test_embeddings_are_found_again_by_name() -> None:
    module = Lambda(lambda self, x: self.words((x > 0).long()), words=nn.Embedding(2, 6))
    raised = raised_and_verified(exported(module, ROW))
    assert isinstance(raised.get_submodule("words"), nn.Embedding)


def test_a_product_with_a_matrix_of_the_model_is_a_linear() -> None:
    class Conv1D(nn.Module):
        """As GPT-2 writes it: the weight is (inputs, outputs)."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(8, 3))
            self.bias = nn.Parameter(torch.randn(3))

        def forward(self, x: Tensor) -> Tensor:
            return torch.addmm(self.bias, x, self.weight)

    assert targets(raised_and_verified(exported(Lambda(lambda self, x: self.proj(x), proj=Conv1D()), ROW))) == [
        nn.Linear
    ]


def test_a_convolution_with_a_weight_computed_from_the_input_stays_aten() -> None:
    module = Lambda(lambda self, x: F.conv2d(x, self.conv.weight * x.abs().max()), conv=nn.Conv2d(4, 4, 1))
    assert "aten.conv2d.default" in left_aten(raised_and_verified(exported(module, IMAGE)))


def _with_statistics(module: nn.Module) -> nn.Module:
    """Batch norm whose statistics are not those it starts with."""
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            assert child.running_mean is not None
            assert child.running_var is not None
            child.running_mean.uniform_(-1, 1)
            child.running_var.uniform_(0.5, 2)
    return module


def test_a_slice_of_everything_is_nothing() -> None:
    assert targets(raised_and_verified(exported(Lambda(lambda _self, x: x[:] + 1), ROW))) == [torch.add]


@pytest.mark.parametrize("case", FUNCTION_CASES.values(), ids=FUNCTION_CASES.keys())
def test_what_was_raised_freezes_to_any_batch_size(case: Case) -> None:
    """Tracing takes computed sizes in aten operators for constants; in their raised form it must not."""
    raised = raise_program(exported(case.module(), case.shape))
    frozen = freeze(raised, (torch.randn(3, *case.shape),))
    x = torch.randn(5, *case.shape)
    for wanted, found in zip(raised(x), frozen(x), strict=True):
        assert torch.allclose(wanted, found, atol=1e-5)
