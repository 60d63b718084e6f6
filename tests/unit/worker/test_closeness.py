"""Which output decides how near a model is: by hand, and that an arg max beside the logits changes no choice."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from shared.job_report import MetricResult, OutputFidelity, Quality, RangeTrial, RecoveryResult
from shared.layer_report import Graphs
from tests.unit.worker.findings.conftest import MakeCase, make_case
from tests.unit.worker.quantization.test_planning import spec
from tests.unit.worker.test_verdict import FASTER, SIZE
from worker.closeness import SQNR_LIMIT_DB, closeness, is_far, is_poor, worst_output
from worker.datasets import InMemorySamples, batches
from worker.findings import Case
from worker.inference import batch_range
from worker.quantization import input_specs, output_names, prepare, raise_program
from worker.quantization.planning import choose_plan
from worker.steps.analyse import Analysis
from worker.steps.held_back import divide
from worker.steps.load import LoadedModel
from worker.steps.recover import recover
from worker.steps.refine import refine
from worker.verdict import judge

__all__ = ["make_case"]  # the fixture


def signal(sqnr_db: float | None, agreement: float | None = None) -> OutputFidelity:
    return OutputFidelity(output="signal", sqnr_db=sqnr_db, cosine=0.9, agreement=agreement)


def discrete(agreement: float) -> OutputFidelity:
    return OutputFidelity(output="class", discrete=True, sqnr_db=None, cosine=None, agreement=agreement)


@pytest.mark.parametrize(
    ("sqnr_db", "agreement", "far", "agrees"),
    [
        (25.0, 1.0, False, True),
        (15.0, 1.0, False, True),
        (15.0, 0.9, True, False),
        (15.0, 0.97, False, False),
        # Of plain numbers, or where one class always wins, nothing is learnt from an arg max.
        (6.0, 1.0, True, False),
        (-3.0, 1.0, True, False),
        (15.0, None, True, False),
        (25.0, None, False, False),
    ],
)
def test_an_arg_max_that_agrees_excuses_a_low_sqnr_and_not_a_wrong_output(
    sqnr_db: float, agreement: float | None, *, far: bool, agrees: bool
) -> None:
    output = signal(sqnr_db, agreement)
    assert is_far([output]) == far
    assert closeness([output]).agrees == agrees


@pytest.mark.parametrize(
    ("outputs", "sqnr_db", "agreement"),
    [
        ([signal(30.0), signal(20.0)], 20.0, None),
        ([signal(None), signal(20.0)], 20.0, None),
        ([signal(None)], SQNR_LIMIT_DB, None),
        ([signal(30.0, 0.99), discrete(0.5)], 30.0, 0.5),
        ([signal(None), discrete(0.5)], SQNR_LIMIT_DB, 0.5),
        # Of 100 one-hot vectors 5 differ: signal 100, noise 10.
        ([discrete(0.95), discrete(0.99)], 10.0, 0.95),
        ([discrete(1.0)], SQNR_LIMIT_DB, 1.0),
        ([], SQNR_LIMIT_DB, None),
    ],
)
def test_the_worst_signal_decides_and_choices_only_where_there_is_none(
    outputs: list[OutputFidelity], sqnr_db: float, agreement: float | None
) -> None:
    found = closeness(outputs)
    assert found.sqnr_db == pytest.approx(sqnr_db)
    assert found.agreement == agreement
    assert (found.reported_db is None) == (sqnr_db == SQNR_LIMIT_DB)


def test_the_worst_output_is_a_signal_if_there_is_one() -> None:
    near, far, choice = signal(30.0), signal(10.0), discrete(0.1)
    assert worst_output([choice, near, far]) is far
    assert worst_output([choice, discrete(0.9)]) is choice
    assert worst_output([]) is None


# --- choices ---------------------------------------------------------------------------------------------------------


class Classifier(nn.Module):
    """All logits lie near 30: int8, whose steps are coarse there, often chooses another of the 64 classes, any one.

    The norm's channels have scales that SmoothQuant changes something about.
    """

    def __init__(self, *, logits: bool, chosen: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.last = nn.Linear(12, 32), nn.LayerNorm(32), nn.Linear(32, 64)
        self.returned = (logits, chosen)
        with torch.no_grad():
            self.norm.weight.mul_(torch.logspace(-1, 1, 32))
            self.last.bias.add_(30)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        logits = self.last(self.norm(self.first(x)))
        return tuple(each for each, wanted in zip((logits, logits.argmax(1)), self.returned, strict=True) if wanted)


LOGITS = {"logits": True, "chosen": False}
BOTH = {"logits": True, "chosen": True}
CHOSEN = {"logits": False, "chosen": True}


def inputs() -> Tensor:
    x = torch.randn(256, 12, generator=torch.Generator().manual_seed(1))
    return torch.where(x.abs() > 2.5, 4 * x, x)


def settled(module: nn.Module) -> tuple[list[RecoveryResult], list[RangeTrial], frozenset[str]]:
    """What recovery and refinement made of the module."""
    x = inputs()
    program = torch.export.export(module.eval(), (x[:2],), dynamic_shapes=({0: Dim.DYNAMIC},))
    specs = tuple(input_specs(program))
    model = LoadedModel(raise_program(program), specs, tuple(output_names(program)), batch_range(specs), 32)
    asked = spec("static", qengine="onednn")
    assert asked.method == "static"
    plan = choose_plan(model.raised, asked)
    observed, held_back = divide(InMemorySamples((x,), None), 32)
    recovery = recover(model, plan, asked, observed=observed, held_back=held_back, example=(x[:2],))
    prepared = prepare(recovery.module, plan, (x[:2],))
    with torch.no_grad():
        for batch in batches(observed, 32):
            prepared(*batch.inputs)
    refined = refine(model, prepared, plan, asked, observed=observed, held_back=held_back)
    return [*recovery.results, *refined.recovery], refined.ranges, frozenset(refined.plan.int8_layers)


def test_an_arg_max_beside_the_logits_changes_no_choice_and_no_figure() -> None:
    alone, both = settled(Classifier(**LOGITS)), settled(Classifier(**BOTH))
    assert both == alone
    recovery, ranges, _ = alone
    assert {result.name for result in recovery if result.with_sqnr_db} >= {"smooth_quant", "bias_correction"}
    assert len(ranges) == 3


def test_a_model_that_gives_classes_alone_is_refined_by_their_agreement() -> None:
    recovery, ranges, int8_layers = settled(Classifier(**CHOSEN))
    assert int8_layers
    held_back = 32
    differing = [10 ** (-trial.sqnr_db / 10) / 2 * held_back for trial in ranges if trial.sqnr_db is not None]
    assert differing, "int8 chooses other classes here"
    assert differing == pytest.approx([round(each) for each in differing]), "each a whole number of samples"
    assert recovery


def target(*, met: bool | None) -> MetricResult:
    return MetricResult(name="top1", float_value=0.9, int8_value=0.8, drop=0.1, max_drop=0.2, met=met)


@pytest.mark.parametrize(
    ("outputs", "metric", "poor"),
    [
        ([signal(20.0)], None, False),
        ([signal(19.9)], None, True),
        ([signal(12.0, 0.95)], None, False),  # it decides as float does
        ([signal(30.0, 0.949)], None, True),
        ([signal(40.0), signal(19.9)], None, True),
        ([signal(None)], None, False),
        ([discrete(0.94)], None, True),
        ([signal(19.9)], target(met=None), True),
        ([signal(19.9)], target(met=True), False),
        ([signal(40.0)], target(met=False), True),
    ],
)
def test_the_target_decides_what_is_poor_and_without_one_the_outputs_do_for_verdict_and_findings_alike(
    outputs: list[OutputFidelity], metric: MetricResult | None, poor: bool
) -> None:
    quality = Quality(data="evaluation", samples=10, metric=metric, fidelity=outputs)
    assert is_poor(quality) == poor
    word = judge(quality, [FASTER], SIZE).word
    assert (word in ("accuracy_not_met", "low_fidelity")) == poor
    case = Case(
        spec("static"),
        {},
        Analysis([], {}, None, [], [], frozenset(), Graphs(float_nodes=[], int8_nodes=[]), [], {}, {}, 0),
        quality,
    )
    assert case.is_poor == poor


def outcome(case: Case) -> tuple[float, list[tuple[str, float]]]:
    assert case.analysis.sensitivity is not None
    return case.base_db, [(entry.layer, entry.gain_db) for entry in case.analysis.sensitivity.layers]


def test_an_arg_max_beside_the_logits_changes_no_sensitivity_and_no_finding(make_case: MakeCase) -> None:
    x = (inputs(),)
    alone, both = (make_case(Classifier(**returned), x, x) for returned in (LOGITS, BOTH))
    assert outcome(both) == outcome(alone)
    fidelity = both.quality.fidelity
    assert [each.discrete for each in fidelity] == [False, True]
    assert fidelity[1].agreement is not None
    assert fidelity[1].agreement == fidelity[0].agreement
    assert fidelity[1].agreement < 0.95


def test_a_model_that_gives_classes_alone_is_ranked_by_their_agreement(make_case: MakeCase) -> None:
    x = (inputs(),)
    case = make_case(Classifier(**CHOSEN), x, x)
    (output,) = case.quality.fidelity
    assert output.agreement is not None
    assert case.is_poor == (output.agreement < 0.95)
    assert 10 ** (-case.base_db / 10) / 2 == pytest.approx(1 - output.agreement)
    assert case.analysis.sensitivity is not None
    assert case.analysis.sensitivity.layers
