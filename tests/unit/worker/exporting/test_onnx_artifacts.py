"""Every family of the zoo as an ONNX file in the runtime that it is for: the same quality, on int8 kernels."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest
import torch
from torch import Tensor, fx

from shared.quantization_spec import Runtime, spec_adapter
from tests.unit.worker.quantization.test_planning import sqnr_db
from tests.unit.worker.quantization.test_simulating import calibrated
from tests.zoo.models import FAMILIES, Family, trained
from tests.zoo.test_zoo import SPECS, exported
from worker.exporting import FORMS, export_onnx, in_form, save, trace
from worker.quantization import (
    Plan,
    convert,
    input_specs,
    load_program,
    output_names,
    plan,
    raise_program,
    reference_graph,
    simulate,
)
from worker.quantization.grouping import groups
from worker.runtimes import Session, SessionSettings, open_session

Case = tuple[Family, fx.GraphModule, fx.GraphModule, Plan, Path]


NAMES = (
    "residual_shared_relu", "depthwise_relu6_hardswish", "squeeze_excite_silu", "dense_concatenation",
    "channel_shuffle", "conv1d_audio", "vision_transformer", "bert", "two_inputs", "tied_weights",
    "encoder_decoder",
)  # fmt: skip


@pytest.fixture(scope="module", params=NAMES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    torch.set_num_threads(1)
    family: Family = next(each for each in FAMILIES if each.name == request.param)
    folder = tmp_path_factory.mktemp("zoo")
    program = load_program(exported(family, trained(family), folder))
    raised = raise_program(program)
    settled = plan(raised, spec_adapter.validate_python(SPECS["static"]))
    prepared = calibrated(family, raised, settled)
    reference = reference_graph(prepared, convert(prepared, settled), settled)
    example = family.make_inputs(2, torch.Generator().manual_seed(5))
    specs = input_specs(program)
    model = export_onnx(trace(reference, example, specs), specs, output_names(program))
    for runtime in FORMS:
        save(in_form(model, runtime), folder / f"{runtime}.onnx")
    return family, raised, prepared, settled, folder


def opened(case: Case, runtime: Runtime) -> Session:
    return open_session(runtime, case[-1] / f"{runtime}.onnx", SessionSettings())


def samples(case: Case, count: int = 32) -> tuple[Tensor, ...]:
    return case[0].make_inputs(count, torch.Generator().manual_seed(3))


@pytest.mark.parametrize("runtime", FORMS)
@torch.no_grad()
def test_it_is_no_further_from_the_float_model_than_what_is_simulated(case: Case, runtime: Runtime) -> None:
    """At most half a dB; nearer it may be, where the runtime leaves in float what torch's kernels cannot."""
    _, raised, prepared, settled, _ = case
    some = samples(case)
    simulated = simulate(prepared, settled).run(*some)
    for reference, ours, found in zip(raised(*some), simulated, opened(case, runtime).run(some), strict=True):
        assert sqnr_db(reference, found) > sqnr_db(reference, ours) - 0.5


@pytest.mark.parametrize("runtime", FORMS)
def test_its_int8_layers_run_on_int8_kernels(case: Case, runtime: Runtime) -> None:
    _, raised, _, settled, _ = case
    kernels = opened(case, runtime).kernels()
    without_kernel = {"ConvTranspose2d"} if runtime == "onnxruntime" else set()
    in_float = [
        each
        for each in groups(raised)
        if each.is_weighted and (each.name not in settled.int8_layers or each.op in without_kernel)
    ]
    assert kernels.int8
    assert len(kernels.floating) == len(in_float)


@pytest.mark.parametrize("runtime", FORMS)
def test_the_batch_stays_open(case: Case, runtime: Runtime) -> None:
    session = opened(case, runtime)
    for count in (1, 3):
        assert all(len(output) == count for output in session.run(samples(case, count)))


@pytest.mark.parametrize("runtime", FORMS)
def test_it_has_a_gelu_and_lookups_as_themselves(case: Case, runtime: Runtime) -> None:
    """Spelled out, or as GatherND, ONNX Runtime computes the one step by step and OpenVINO the other by a reference."""
    nodes = [*ir.load(case[-1] / f"{runtime}.onnx").graph]
    assert "Erf" not in {node.op_type for node in nodes}
    looked_up = [node.inputs[0] for node in nodes if node.op_type == "GatherND"]
    assert not any(table is not None and table.const_value is not None for table in looked_up)
