"""Every family by every method that makes sense for it: .pt2 with a dynamic batch, raised, quantized, frozen, compared.

Run with `-s` to see the SQNR that each reaches. The floors lie about 3 dB below what was measured: a regression of the
engine falls through them, noise of the kernels does not.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn
from torch.export import Dim
from torch.utils import _pytree as pytree

from shared.quantization_spec import spec_adapter
from tests.zoo.models import FAMILIES, Family, trained
from worker.quantization import (
    Plan,
    convert,
    describe_layers,
    freeze,
    freeze_batch_norm,
    freeze_observers,
    load_program,
    plan,
    prepare,
    prepare_qat,
    quantize_dynamic,
    raise_program,
    verify_raised,
)
from worker.quantization.planning import has_vnni

MODEL, DATASET = "mdl_0123456789abcdef", "dst_0123456789abcdef"
SEVEN_BIT_COST_DB = 7  # the floors were measured with full-range activations, which take VNNI
CALIBRATION_SAMPLES, EVALUATION_SAMPLES, TRAINED_STEPS, BATCH = 192, 64, 12, 16
SPECS = {
    "dynamic": {"method": "dynamic", "model": MODEL},
    "static": {"method": "static", "model": MODEL, "calibration": DATASET},
    "qat": {"method": "qat", "model": MODEL, "training": DATASET},
}


@pytest.mark.zoo
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_each_family_keeps_its_outputs_by_each_method(family: Family, tmp_path: Path) -> None:
    """The raised module equals the program, and int8 stays above the family's floor by every method."""
    torch.set_num_threads(1)
    module = trained(family)
    program = load_program(exported(family, module, tmp_path))
    raised = raise_program(program)
    evaluation = family.make_inputs(EVALUATION_SAMPLES, torch.Generator().manual_seed(3))
    verify_raised(program, raised, evaluation)
    with torch.no_grad():
        original = pytree.tree_leaves(module(*evaluation))
        assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(original, raised(*evaluation), strict=True))

    reached = {method: sqnr_by(method, family, raised, evaluation) for method in family.floor_db}
    print(f"\n{family.name:28s}" + "".join(f"{method} {db:5.1f} dB   " for method, db in reached.items()))  # noqa: T201 - the zoo's table
    allowance = 0 if has_vnni() else SEVEN_BIT_COST_DB
    below = {method: db for method, db in reached.items() if not db >= family.floor_db[method] - allowance}
    assert not below, f"below the floor {family.floor_db}: {below}"


def exported(family: Family, module: nn.Module, folder: Path) -> Path:
    """The .pt2 that a user would upload, with a dynamic batch."""
    inputs = family.make_inputs(3, torch.Generator().manual_seed(4))
    program = torch.export.export(module, inputs, dynamic_shapes=tuple({0: Dim.DYNAMIC} for _ in inputs))
    torch.export.save(program, folder / "model.pt2")
    return folder / "model.pt2"


def sqnr_by(method: str, family: Family, raised: fx.GraphModule, evaluation: tuple[Tensor, ...]) -> float:
    """The lowest SQNR of any output, of the frozen int8 model against float, by one method."""
    settled = plan(raised, spec_adapter.validate_python(SPECS[method]))
    quantized: nn.Module
    if method == "dynamic":
        quantized = quantize_dynamic(raised, settled)
    elif method == "static":
        quantized = convert(calibrated(family, raised, settled), settled)
    else:
        quantized = convert(fine_tuned(family, raised, settled), settled)
    layers = describe_layers(raised, quantized, settled)
    int8 = {layer.name for layer in layers if layer.precision == "int8"}
    assert int8, layers
    assert {layer.name for layer in layers} & settled.int8_layers <= int8, "a layer planned for int8 is float"
    frozen = freeze(quantized, tuple(tensor[:2] for tensor in evaluation))
    with torch.no_grad():
        return min(sqnr_db(a, b) for a, b in zip(raised(*evaluation), frozen(*evaluation), strict=True))


def calibrated(family: Family, raised: fx.GraphModule, settled: Plan) -> fx.GraphModule:
    generator = torch.Generator().manual_seed(5)
    prepared = prepare(raised, settled, family.make_inputs(2, generator))
    with torch.no_grad():
        for _ in range(CALIBRATION_SAMPLES // BATCH):
            prepared(*family.make_inputs(BATCH, generator))
    return prepared


def fine_tuned(family: Family, raised: fx.GraphModule, settled: Plan) -> fx.GraphModule:
    """A few steps of distillation from the float model, as a job without labels does."""
    generator = torch.Generator().manual_seed(6)
    prepared = prepare_qat(raised, settled, family.make_inputs(2, generator)).eval()
    with torch.no_grad():
        for _ in range(CALIBRATION_SAMPLES // BATCH):
            prepared(*family.make_inputs(BATCH, generator))
    optimizer = torch.optim.Adam(prepared.parameters(), lr=1e-4)
    prepared.train()
    freeze_batch_norm(prepared)  # else its statistics drift from the float model's, and SQNR measures that
    for step in range(TRAINED_STEPS):
        if step >= TRAINED_STEPS // 2:
            freeze_observers(prepared)
        inputs = family.make_inputs(BATCH, generator)
        with torch.no_grad():
            wanted = raised(*inputs)
        loss = torch.stack([(a - b).square().mean() for a, b in zip(wanted, prepared(*inputs), strict=True)]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return prepared.eval()


def sqnr_db(wanted: Tensor, found: Tensor) -> float:
    return float(20 * torch.log10(wanted.norm() / (wanted - found).norm()))
