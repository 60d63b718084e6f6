"""The simulation computes what the int8 kernels compute, layer by layer at will."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, fx

from shared.quantization_spec import spec_adapter
from tests.unit.worker.quantization.test_planning import sqnr_db
from tests.zoo.models import FAMILIES, Family, trained
from tests.zoo.test_zoo import SPECS, exported
from worker.quantization import Plan, convert, load_program, plan, prepare, raise_program
from worker.quantization.simulating import LayerTrace, simulate

NAMES = ("squeeze_excite_silu", "dense_concatenation", "bert", "two_outputs")


@pytest.fixture(scope="module", params=NAMES)
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[fx.GraphModule, fx.GraphModule, Plan, tuple[Tensor, ...]]:
    torch.set_num_threads(1)
    family: Family = next(each for each in FAMILIES if each.name == request.param)
    program: Path = exported(family, trained(family), tmp_path_factory.mktemp("zoo"))
    raised = raise_program(load_program(program))
    settled = plan(raised, spec_adapter.validate_python(SPECS["static"]))
    prepared = calibrated(family, raised, settled)
    return raised, prepared, settled, family.make_inputs(32, torch.Generator().manual_seed(3))


def calibrated(family: Family, raised: fx.GraphModule, settled: Plan) -> fx.GraphModule:
    generator = torch.Generator().manual_seed(5)
    prepared = prepare(raised, settled, family.make_inputs(2, generator))
    with torch.no_grad():
        for _ in range(12):
            prepared(*family.make_inputs(16, generator))
    return prepared


Case = tuple[fx.GraphModule, fx.GraphModule, Plan, tuple[Tensor, ...]]


@torch.no_grad()
def test_it_is_as_far_from_the_float_model_as_the_kernels_are(case: Case) -> None:
    """Within half a dB at every output: the two differ by rounding only."""
    raised, prepared, settled, inputs = case
    simulated, converted = simulate(prepared, settled).run(*inputs), convert(prepared, settled)(*inputs)
    for reference, ours, kernels in zip(raised(*inputs), simulated, converted, strict=True):
        assert sqnr_db(reference, ours) == pytest.approx(sqnr_db(reference, kernels), abs=0.5)


@torch.no_grad()
def test_with_no_layer_in_int8_it_is_the_float_model(case: Case) -> None:
    raised, prepared, settled, inputs = case
    for reference, found in zip(raised(*inputs), simulate(prepared, settled).run(*inputs, int8=()), strict=True):
        assert torch.allclose(reference, found, atol=1e-4)


@torch.no_grad()
def test_a_trace_shows_every_layer_once_in_order(case: Case) -> None:
    _, prepared, settled, inputs = case
    simulation = simulate(prepared, settled)
    seen: list[str] = []
    simulation.trace(*inputs, visit=lambda trace: seen.append(trace.layer))
    assert tuple(seen) == simulation.layers
    assert set(seen) == settled.int8_layers & set(prepared.meta["octavo_groups"].values())


@torch.no_grad()
def test_a_trace_parts_the_error_made_from_the_error_that_arrives(case: Case) -> None:
    """The first layer has float inputs: its error is its own; what arrives at a later one is what others made."""
    _, prepared, settled, inputs = case
    simulation = simulate(prepared, settled)
    traces: list[LayerTrace] = []
    simulation.trace(*inputs, visit=traces.append)
    first = traces[0]
    assert torch.equal(first.own, first.total)
    assert not torch.equal(first.own, first.reference)
    with_arrivals = [trace for trace in traces[1:] if trace.arriving]
    assert with_arrivals
    assert any(not torch.equal(reference, int8) for trace in with_arrivals for reference, int8 in trace.arriving)


@torch.no_grad()
def test_one_layer_in_int8_costs_less_than_all(case: Case) -> None:
    raised, prepared, settled, inputs = case
    simulation = simulate(prepared, settled)
    reference = raised(*inputs)[0]
    everything = sqnr_db(reference, simulation.run(*inputs)[0])
    weighted = [str(node.target) for node, _ in simulation.weighted()]
    alone = [sqnr_db(reference, simulation.run(*inputs, int8={name})[0]) for name in weighted]
    assert min(alone) > everything
