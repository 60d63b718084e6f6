"""Small networks that once came out wrong in some runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from shared.quantization_spec import spec_adapter
from tests.unit.worker.conftest import export
from tests.unit.worker.quantization.test_planning import sqnr_db
from tests.zoo.test_zoo import SPECS
from worker.exporting import FORMS, export_onnx, in_form, save, trace
from worker.quantization import convert, input_specs, load_program, plan, prepare, raise_program, reference_graph
from worker.runtimes import SessionSettings, open_session

NEAR_DB = 25.0
Between = Callable[[Tensor], Tensor]


class Dense(nn.Module):
    """Two Linears, and something between."""

    def __init__(self, between: Between) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(16, 16), nn.Linear(16, 4)
        self.norm = nn.GroupNorm(4, 16)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        seen: Tensor = self.last(self.between(self.first(x)))
        return seen


class Normed(Dense):
    """Likewise, with a norm between."""

    def forward(self, x: Tensor) -> Tensor:
        seen: Tensor = self.last(torch.relu(self.norm(self.first(x))))
        return seen


class Image(nn.Module):
    """A convolution, something over all of its positions, and a Linear."""

    def __init__(self, over_all: Between) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(16, 4)
        self.over_all = over_all

    def forward(self, x: Tensor) -> Tensor:
        seen: Tensor = self.last(self.over_all(self.first(x)))
        return seen


DENSE: dict[str, Callable[[], nn.Module]] = {
    # torch shares one range between a product with a number and what it is of
    "product with a small number": lambda: Dense(lambda x: torch.relu(x * 0.01)),
    "product with a large number": lambda: Dense(lambda x: torch.relu(x * 100)),
    # ONNX Runtime's biases have the step of what the layer reads, which a later pass had changed
    "relu behind a difference": lambda: Dense(lambda x: torch.relu(x - 0.3)),
    "relu behind a norm": lambda: Normed(torch.relu),
    "relu that lets nothing through": lambda: Dense(lambda x: torch.relu(x - 10)),
}
IMAGES: dict[str, Callable[[], nn.Module]] = {
    # OpenVINO's own maximum over all positions of an int8 convolution
    "amax": lambda: Image(lambda x: x.amax((2, 3))),
    "amax that keeps its dimensions": lambda: Image(lambda x: x.amax((-1, -2), keepdim=True).flatten(1)),
    "adaptive maximum pool": lambda: Image(lambda x: nn.functional.adaptive_max_pool2d(x, 1).flatten(1)),
}


@pytest.mark.parametrize(
    ("make", "shape"),
    [pytest.param(make, (16,), id=name) for name, make in DENSE.items()]
    + [pytest.param(make, (3, 12, 12), id=name) for name, make in IMAGES.items()],
)
@torch.no_grad()
def test_it_is_near_to_float(tmp_path: Path, make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    seen, unseen = torch.randn(2, 64, *shape)
    export(make(), (seen[:2],), tmp_path / "model.pt2")
    program = load_program(tmp_path / "model.pt2")
    raised, specs = raise_program(program), input_specs(program)
    settled = plan(raised, spec_adapter.validate_python(SPECS["static"]))
    torch.backends.quantized.engine = settled.qengine
    prepared = prepare(raised, settled, (seen[:2],))
    prepared(seen)
    converted = convert(prepared, settled)
    (reference,), (in_torch,) = raised(unseen), converted(unseen)
    assert sqnr_db(reference, in_torch) > NEAR_DB, "torch"
    program = trace(reference_graph(prepared, converted, settled), (seen[:2],), specs)
    model = export_onnx(program, specs, ["output"])
    for runtime in FORMS:
        save(in_form(model, runtime), tmp_path / f"{runtime}.onnx")
        (found,) = open_session(runtime, tmp_path / f"{runtime}.onnx", SessionSettings()).run([unseen])
        assert sqnr_db(reference, found) > NEAR_DB, runtime
