"""What a plan foretells, held against the job that is done afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from shared.errors import NothingToQuantize, SpecInvalid
from shared.job_plan import JobPlan, Pace, plan_question_adapter
from shared.quantization_spec import RUNTIMES
from tests.unit.worker.conftest import MODEL_ID, Digits, MakeFolder, export
from worker import plan_recipe, recipes
from worker.duration import estimate
from worker.job_folder import JobFolder, PlanInputs
from worker.plan_recipe import plan_ahead


def asked(tmp_path: Path, program: Path, method: str, samples: dict[str, int] | None = None, **spec: Any) -> JobPlan:
    """The answer to a question about this model."""
    folder = JobFolder(tmp_path / f"question-{len(list(tmp_path.iterdir()))}")
    question = plan_question_adapter.validate_python({"method": method, "model": MODEL_ID} | spec)
    folder.create(PlanInputs(spec=question, samples=samples or {}, threads=1))
    folder.model.write_bytes(program.read_bytes())
    plan_ahead(folder, lambda _: None)
    return JobPlan.model_validate_json(folder.plan.read_bytes())


class Upscaling(nn.Module):
    """A transposed convolution, which not every runtime has in int8."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(16, 16, 2, stride=2)
        self.out = nn.Conv2d(16, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.up(torch.relu(self.down(x)))))


class Block(nn.Module):
    """Attention over tokens, with layer norms and a GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(32)
        self.qkv = nn.Linear(32, 96)
        self.up = nn.Linear(32, 64)
        self.down = nn.Linear(64, 32)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        x = x + nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.down(nn.functional.gelu(self.up(x)))
        return self.head(x.mean(1))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.LSTM | nn.GRU]) -> None:
        super().__init__()
        self.recurrent = kind(16, 32, batch_first=True)
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.recurrent(x)[0][:, -1])


@pytest.mark.parametrize(
    ("network", "shape", "method"),
    [
        pytest.param(Upscaling, (3, 16, 16), "static", id="transposed"),
        pytest.param(Block, (12, 32), "static", id="transformer"),
        pytest.param(Block, (12, 32), "dynamic", id="transformer, dynamic"),
        pytest.param(lambda: Recurrent(nn.LSTM), (7, 16), "dynamic", id="LSTM"),
        pytest.param(lambda: Recurrent(nn.GRU), (7, 16), "dynamic", id="GRU"),
    ],
)
def test_each_runtime_computes_in_int8_what_was_foretold(
    make_folder: MakeFolder, tmp_path: Path, network: Any, shape: tuple[int, ...], method: str
) -> None:
    torch.manual_seed(0)
    x = torch.randn(64, *shape)
    export(network(), (x[:2],), tmp_path / "model.pt2")
    plan = asked(tmp_path, tmp_path / "model.pt2", method)
    data = {"calibration": {"x": x.numpy()}} if method == "static" else {"evaluation": {"x": x.numpy()}}
    report = recipes.run(make_folder(tmp_path / "model.pt2", method, data, runtimes=None), lambda _: None)

    computing = [each for each in plan.layers if each.macs and each.op in _WITH_WEIGHTS]
    for artifact in report.artifacts:
        if "missing" in artifact.labels:
            continue
        foretold = sum(artifact.runtime in each.int8_in for each in computing)
        assert foretold == artifact.int8_operators, (artifact.runtime, artifact.note)
    missing = {each.runtime for each in report.artifacts if "missing" in each.labels}
    assert missing == {each.runtime for each in plan.runtimes if each.note is not None}


_WITH_WEIGHTS = {"Conv2d", "ConvTranspose2d", "Linear", "LSTM", "GRU"}


class Between(nn.Module):
    """Operators without an int8 kernel stand between those that have one, and one of them multiplies."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.second = nn.Linear(16, 16)
        self.table = nn.Parameter(torch.randn(16, 16))
        self.last = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        x = torch.maximum(self.second(x), x)
        x = torch.addmm(x, x, self.table)
        return self.last(x.sub(1)).topk(3)[0]


def test_what_has_no_int8_kernel_is_foretold_in_float(make_folder: MakeFolder, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(128, 16)
    export(Between(), (x[:2],), tmp_path / "model.pt2")
    plan = asked(tmp_path, tmp_path / "model.pt2", "static")
    report = recipes.run(
        make_folder(tmp_path / "model.pt2", "static", {"calibration": {"x": x.numpy()}}), lambda _: None
    )
    done = {each.name: each.precision for each in report.layers}
    foretold = {each.layer: each.precision for each in plan.layers}
    assert foretold == {name: done[name] for name in foretold}
    assert {"maximum", "addmm", "topk"} <= {each.op for each in plan.layers if each.precision == "float32"}
    assert plan.int8_share == pytest.approx((16 + 16 + 4) / (3 * 16 + 4))


def test_the_layers_and_the_shares_are_those_of_the_job(
    digits: Digits, make_folder: MakeFolder, tmp_path: Path
) -> None:
    overrides = [{"layer": "features.0", "precision": "float32"}]
    plan = asked(tmp_path, digits.program, "static", overrides=overrides)
    data = {"calibration": {"x": digits.training_x[:100]}}
    report = recipes.run(make_folder(digits.program, "static", data, overrides=overrides), lambda _: None)
    done = {each.name: each.precision for each in report.layers}
    foretold = {each.layer: each.precision for each in plan.layers}
    assert list(foretold) == list(done)
    by_data = "classifier"  # the job measures whether int8 costs the output too much there
    assert {name for name in done if done[name] != foretold[name]} <= {by_data}
    assert foretold["features.0"] == "float32"
    assert any("by data" in note for note in plan.notes)

    # (1·9·8 and 8·9·16 products at each of 64 places; 256·10)
    products = {"features.0": 4608, "features.3": 73728, "classifier": 2560}
    assert {each.layer: each.macs for each in plan.layers if each.macs} == products
    assert plan.int8_share == pytest.approx((73728 + 2560) / sum(products.values()))
    assert [each.reason for each in plan.layers if each.layer == "features.0"] == ["overridden: layer features.0"]
    assert f"{100 * plan.int8_share:.1f} % of the arithmetic" in plan.conclusion


def test_more_data_and_more_epochs_take_longer(digits: Digits, tmp_path: Path) -> None:
    short = asked(tmp_path, digits.program, "qat", {"training": 100}, qat={"epochs": 1})
    long = asked(tmp_path, digits.program, "qat", {"training": 100_000}, qat={"epochs": 10})
    assert long.duration.steps["train"] > 20 * short.duration.steps["train"] > 0
    assert long.duration.seconds == pytest.approx(sum(long.duration.steps.values()))
    assert long.duration.low_seconds < long.duration.seconds < long.duration.high_seconds
    assert "ms a sample" in long.duration.basis


def test_without_data_the_plan_says_what_it_assumes(digits: Digits, tmp_path: Path) -> None:
    plan = asked(tmp_path, digits.program, "static")
    assert "assumed: 128 samples to calibrate with" in plan.duration.basis
    assert [each.runtime for each in plan.runtimes] == list(RUNTIMES)


def test_float16_is_no_int8(tmp_path: Path) -> None:
    export(Block(), (torch.randn(2, 12, 32),), tmp_path / "model.pt2")
    plan = asked(tmp_path, tmp_path / "model.pt2", "dynamic", precision="float16")
    assert {each.precision for each in plan.layers if each.op == "Linear"} == {"float16"}
    assert all(each.int8_in == [] for each in plan.layers)
    assert (plan.int8_layers, plan.int8_share) == (0, 0)
    assert "layers would be quantized to float16" in plan.conclusion
    assert "but in" not in plan.conclusion
    assert {each.runtime for each in plan.runtimes if each.note} == {"onnxruntime", "openvino"}


def test_a_table_is_int8_in_torch_alone_and_in_openvino_nothing_is(tmp_path: Path) -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(50, 32)
            self.head = nn.Linear(32, 4)

        def forward(self, index: Tensor) -> Tensor:
            return self.head(self.table(index).mean(1))

    export(Words(), (torch.randint(50, (2, 6)),), tmp_path / "model.pt2")
    plan = asked(tmp_path, tmp_path / "model.pt2", "dynamic", overrides=[{"layer": "table", "precision": "int8"}])
    int8_in = {each.op: each.int8_in for each in plan.layers if each.precision == "int8"}
    assert int8_in == {"Embedding": ["torch"], "Linear": ["torch", "onnxruntime"]}


@pytest.mark.parametrize(("method", "role", "samples"), [("qat", "training", 2000), ("static", "calibration", 128)])
def test_without_data_it_takes_as_long_as_with_what_is_assumed(
    digits: Digits, tmp_path: Path, method: str, role: str, samples: int
) -> None:
    spec = plan_question_adapter.validate_python({"method": method, "model": MODEL_ID})
    pace = Pace(sample_seconds=0.02, load_seconds=1, plan_seconds=1, layers=3)
    without = estimate(spec, {}, pace, runtimes=3)
    assert without.steps == estimate(spec, {role: samples}, pace, runtimes=3).steps
    assert without.steps["evaluate"] == pytest.approx(1.2 * 0.02 * samples)
    assert f"assumed: {samples} samples" in without.basis


def test_a_model_that_does_not_run_on_made_up_inputs_gets_a_plan_without_its_own_time(tmp_path: Path) -> None:
    class Checked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(4, 8))
            self.linear = nn.Linear(8, 2)

        def forward(self, index: Tensor) -> Tensor:
            return self.linear(self.table[index - 100])

    export(Checked(), (torch.tensor([100, 101]),), tmp_path / "model.pt2")
    plan = asked(tmp_path, tmp_path / "model.pt2", "static")
    assert plan.duration.basis.startswith("without the time of the model itself")
    assert np.isfinite(plan.duration.seconds)


def test_what_the_job_would_refuse_is_refused(digits: Digits, tmp_path: Path) -> None:
    with pytest.raises(SpecInvalid, match="matches nothing"):
        asked(tmp_path, digits.program, "static", overrides=[{"layer": "nowhere"}])
    everything = [{"layer": "*", "precision": "float32"}]
    with pytest.raises(NothingToQuantize):
        asked(tmp_path, digits.program, "static", overrides=everything)


def test_of_more_layers_than_a_plan_holds_the_first_are_listed_and_all_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "model.pt2"
    export(Upscaling(), (torch.rand(2, 3, 16, 16),), program)
    whole = asked(tmp_path, program, "static")
    monkeypatch.setattr(plan_recipe, "MAX_LAYERS", 2)
    listed = asked(tmp_path, program, "static")
    assert listed.layers == whole.layers[:2]
    assert (listed.int8_layers, listed.int8_share) == (whole.int8_layers, whole.int8_share)
    assert listed.conclusion == whole.conclusion
    assert listed.notes == [
        *whole.notes,
        f"Of {len(whole.layers)} layers the first 2 are listed; counts and shares are of all of them.",
    ]
