"""The reference graph computes what is simulated, from the very integers that the torch artifact holds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn

from tests.unit.worker.quantization.test_planning import raised, spec, sqnr_db
from tests.unit.worker.quantization.test_preparing import CASES, calibrated, inputs
from tests.unit.worker.quantization.test_simulating import Case, case  # noqa: F401 - a fixture
from worker.quantization import convert, learn_scales, prepare_qat, reference_graph, simulate
from worker.quantization.correcting import correct_biases
from worker.quantization.float_reasons import FloatReason
from worker.quantization.int8_modules import int8_weights
from worker.quantization.planning import choose_plan

SAME_DB = 60.0  # of the same integers: floats are added up in another order, and a value on an edge may fall either way


def operators(graph: fx.GraphModule) -> list[str]:
    return [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]


@torch.no_grad()
def test_it_is_as_far_from_the_float_model_as_what_is_simulated(case: Case) -> None:  # noqa: F811
    raised_, prepared, settled, some = case
    reference = reference_graph(prepared, convert(prepared, settled), settled)
    for wanted, simulated, found in zip(
        raised_(*some), simulate(prepared, settled).run(*some), reference(*some), strict=True
    ):
        assert sqnr_db(wanted, found) == pytest.approx(sqnr_db(wanted, simulated), abs=0.5)


@torch.no_grad()
def test_weights_are_the_integers_of_the_torch_artifact(case: Case) -> None:  # noqa: F811
    _, prepared, settled, _ = case
    converted = convert(prepared, settled)
    reference = reference_graph(prepared, converted, settled)
    held = {
        name: next(iter(weights.values())).int_repr()
        for name, module in converted.named_modules()
        if (weights := int8_weights(module))
    }
    assert held
    for name, integers in held.items():
        layer = reference.get_submodule(name)
        found = layer[0].weight if isinstance(layer, nn.Sequential) else layer.weight
        assert torch.equal(integers, found)


@torch.no_grad()
def test_the_models_it_is_made_of_stay_as_they_were(case: Case) -> None:  # noqa: F811
    _, prepared, settled, some = case
    converted = convert(prepared, settled)
    before = [prepared(*some), converted(*some)]
    reference_graph(prepared, converted, settled)
    assert all(torch.equal(a, b) for run, kept in zip((prepared, converted), before, strict=True)
               for a, b in zip(run(*some), kept, strict=True))  # fmt: skip


@pytest.mark.parametrize(("module", "layer", "shape"), CASES)
@torch.no_grad()
def test_a_cap_that_a_kernel_saturates_at_is_one_here_too(
    module: type[nn.Module], layer: str, shape: tuple[int, ...]
) -> None:
    x = inputs(*shape)
    _, prepared, settled = calibrated(module(), x, activation={"reduce_range": False, "observer": "minmax"})
    reference = reference_graph(prepared, convert(prepared, settled), settled)
    assert layer in settled.int8_layers
    assert float(reference(x)[0].max()) <= 6.0 + 6.0 / 255


@pytest.mark.parametrize("learnable", [False, True])
def test_a_trained_model_has_one_without_fake_quantize_and_batch_norm(*, learnable: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 3, 8, 8)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4))
    model = raised(network, x[:2])
    settled = choose_plan(model, spec("qat", qengine="onednn", qat={"learnable_scales": learnable}))
    prepared = prepare_qat(model, settled, (x[:2],))
    prepared(x)
    if learnable:
        learn_scales(prepared)
    prepared(x)[0].square().sum().backward()
    prepared.eval()
    with torch.no_grad():
        converted = convert(prepared, settled)
        reference = reference_graph(prepared, converted, settled)
        assert not any("FakeQuant" in type(each).__name__ for each in reference.modules())
        assert not any(isinstance(each, nn.BatchNorm2d) for each in reference.modules())
        assert sqnr_db(reference(x)[0], converted(x)[0]) > SAME_DB / 2


@torch.no_grad()
def test_what_a_float_layer_gives_is_quantized_for_int8_layers_alone() -> None:
    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.shared, self.int8, self.floating = nn.Linear(8, 8), nn.Linear(8, 4), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = self.shared(x)
            return self.int8(x), self.floating(x)

    x = torch.randn(64, 8)
    model, prepared, settled = calibrated(
        Fork(), x, overrides=[{"layer": "shared"}, {"layer": "floating"}], recovery={"bias_correction": False}
    )
    reference = reference_graph(prepared, convert(prepared, settled), settled)
    wanted, found = model(x), reference(x)
    assert torch.equal(wanted[1], found[1])
    assert not torch.equal(wanted[0], found[0])
    assert sum("quantize_per_tensor" in each for each in operators(reference)) == 4  # in and out of `int8`


@torch.no_grad()
def test_what_is_corrected_for_int8_is_not_in_the_layers_that_stay_in_float() -> None:
    """A layer given up after its bias was corrected computes with its own: to the bit as simulated."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 16), nn.ReLU(), nn.Linear(16, 4)
    )
    x = torch.randn(16, 3, 8, 8)
    _, prepared, settled = calibrated(network, x)
    correct_biases(prepared, {name: torch.full((channels,), 0.1) for name, channels in (("0", 8), ("3", 16), ("5", 4))})
    sparing = settled.without("5", FloatReason("asked", "overridden: layer 5"))
    reference = reference_graph(prepared, convert(prepared, sparing), sparing)
    assert torch.equal(reference(x)[0], simulate(prepared, sparing).run(x)[0])
    assert torch.equal(reference.get_submodule("5").bias, network[5].bias)
