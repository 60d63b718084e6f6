"""Programs that write in place: the result is right, or it is refused; never silently wrong."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional

from shared.errors import ModelUnsupported, RaiseMismatch
from shared.quantization_spec import spec_adapter
from worker.quantization import convert, freeze, plan, prepare, raise_program, verify_raised
from worker.quantization.settling import functional_overload


class InPlace(nn.Module):
    """A convolution, something done in place, a convolution."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.between = between
        self.second = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.between(self.first(x)))


def relu_twice(x: Tensor) -> Tensor:
    y = x + 1
    x.relu_()
    return x + y.relu_()


def write_through_a_view(x: Tensor) -> Tensor:
    view = x.flatten(2)
    view.mul_(2)
    return x


def write_a_slice(x: Tensor) -> Tensor:
    x[:, :2] = x[:, 2:] * 3
    return x


def write_before_a_view_is_read(x: Tensor) -> Tensor:
    view = x.transpose(2, 3)
    x.add_(1)
    return x * view


def fill_a_corner(x: Tensor) -> Tensor:
    corner = x[:, 0]
    corner[:, :2].fill_(0.5)
    return x + corner.unsqueeze(1)


def write_a_reshape(x: Tensor) -> Tensor:
    reshaped = x.reshape(x.shape[0], -1)
    reshaped.clamp_(min=0)
    return x - 1


def mask(x: Tensor) -> Tensor:
    return x.masked_fill_(x < 0, 0.1).tanh_()


def write_a_number(x: Tensor) -> Tensor:
    x[:, 0] = 1
    return x


def without_gradients(x: Tensor) -> Tensor:
    with torch.no_grad():
        scaled = x * 2
    return x + scaled


def without_autocast(x: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        scaled = x * 2
    return x + scaled


def normalised_by_its_batch(x: Tensor) -> Tensor:
    return functional.batch_norm(x, None, None, training=True)


def leaky_at_its_default(x: Tensor) -> Tensor:
    return functional.leaky_relu(x)


HAZARDS = [
    relu_twice, write_through_a_view, write_a_slice, write_before_a_view_is_read, fill_a_corner, write_a_reshape, mask,
    write_a_number, without_gradients, without_autocast, normalised_by_its_batch, leaky_at_its_default,
]  # fmt: skip


def exported(module: nn.Module, *, train: bool = False) -> ExportedProgram:
    return torch.export.export(module.train(train), (torch.randn(2, 3, 6, 6),), dynamic_shapes=({0: Dim.DYNAMIC},))


@pytest.mark.parametrize("between", HAZARDS, ids=lambda function: function.__name__)
def test_a_write_in_place_is_kept_in_float_and_in_int8(between: Callable[[Tensor], Tensor]) -> None:
    """The raised graph writes nothing, equals the module, and its int8 form stays near it."""
    module = InPlace(between)
    program = exported(module)
    raised = raise_program(program)
    assert not [node for node in raised.graph.nodes if functional_overload(node.target)]
    x = torch.randn(16, 3, 6, 6)
    verify_raised(program, raised, (x,))
    with torch.no_grad():
        wanted = module(x.clone())
        assert torch.allclose(raised(x)[0], wanted, atol=1e-5)
        settled = plan(raised, spec_adapter.validate_python(STATIC))
        prepared = prepare(raised, settled, (x,))
        prepared(x)
        found = convert(prepared, settled)(x)[0]
    assert 20 * torch.log10(wanted.norm() / (wanted - found).norm()) > 25


STATIC = {"method": "static", "model": "mdl_0123456789abcdef", "calibration": "dst_0123456789abcdef"}


def test_what_was_written_in_place_can_be_traced_and_trained() -> None:
    """Neither `aten.copy` nor `aten.fill` can: training had no derivative, freezing an internal error."""

    def writes(x: Tensor) -> Tensor:
        x[:, 0] = 0.5
        x[:, 1] = x[:, 2]
        return x

    raised = raise_program(exported(InPlace(writes)))
    x = torch.randn(2, 3, 6, 6)
    raised(x)[0].sum().backward()
    assert all(parameter.grad is not None for parameter in raised.parameters())
    assert torch.equal(freeze(raised, (x,))(x)[0], raised(x)[0])


def test_the_callers_input_is_left_alone() -> None:
    class WritesItsInput(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.relu_() + 1

    raised = raise_program(exported(WritesItsInput()))
    x = torch.full((2, 3, 6, 6), -1.0)
    assert torch.equal(raised(x)[0], torch.ones_like(x))
    assert torch.equal(x, torch.full_like(x, -1.0))


def test_dropout_keeps_its_probability_for_training() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True), nn.Dropout(0.25))
    raised = raise_program(exported(module))
    assert [child.p for child in raised.modules() if isinstance(child, nn.Dropout)] == [0.25]


def test_state_kept_between_calls_is_refused() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(1))
            self.calls: Tensor

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return x * self.calls

    with pytest.raises(ModelUnsupported, match="calls"):
        raise_program(exported(Counts()))


def test_control_flow_is_refused() -> None:
    class Branches(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cond(x.sum() > 0, lambda y: y + 1, lambda y: y - 1, (x,))

    with pytest.raises(ModelUnsupported, match="cond"):
        raise_program(exported(Branches()))


def test_a_raised_model_that_computes_something_else_is_refused_by_name_and_distance() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"fine": x + 1, "wrong": x * 2}

    program = exported(Two())
    raised = raise_program(program)
    _replace(raised, torch.mul, 2, 2.5)
    with pytest.raises(RaiseMismatch, match=r"Output wrong .* off by"):
        verify_raised(program, raised, (torch.ones(2, 3, 6, 6),))


def test_a_raised_model_that_took_the_batch_for_a_constant_is_refused() -> None:
    class Flat(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(x.shape[0], -1)

    program = exported(Flat())
    raised = raise_program(program)
    for node in raised.graph.nodes:
        if node.target in ("view", "reshape"):
            node.args = (node.args[0], (2, -1))
    raised.recompile()
    with pytest.raises(RaiseMismatch, match="shape"):
        verify_raised(program, raised, (torch.ones(2, 3, 6, 6),))


def _replace(raised: fx.GraphModule, target: object, old: float, new: float) -> None:
    for node in raised.graph.nodes:
        if node.target is target:
            node.args = tuple(new if argument == old else argument for argument in node.args)
    raised.recompile()
