"""A static int8 model before it is converted: what static jobs make, and what QAT is compared with."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, fx

from shared.job_report import RangeTrial, RecoveryResult
from shared.quantization_spec import StaticSpec
from worker.datasets import Samples
from worker.quantization import Plan, parked, prepare
from worker.steps.held_back import divide
from worker.steps.load import LoadedModel
from worker.steps.recover import recover
from worker.steps.refine import refine


@dataclass
class StaticDraft:
    """The prepared graph, and what has been settled and measured on the way."""

    model: LoadedModel
    spec: StaticSpec
    plan: Plan
    prepared: fx.GraphModule
    observed: Samples
    """What the observers see first."""
    held_back: Samples
    """What they see when everything is settled."""
    recovery: list[RecoveryResult]
    ranges: list[RangeTrial] = field(default_factory=list)

    def refine(self) -> None:
        """Settle what is open, once the observers have seen what they see first."""
        refined = refine(
            self.model,
            self.prepared,
            self.plan,
            self.spec,
            observed=self.observed,
            held_back=self.held_back,
        )
        self.plan = refined.plan
        self.ranges = refined.ranges
        self.recovery = [*self.recovery, *refined.recovery]


def draft_static(
    model: LoadedModel, plan: Plan, spec: StaticSpec, samples: Samples, example: tuple[Tensor, ...]
) -> StaticDraft:
    """Make the float model easier to quantize where that helps, and insert observers."""
    observed, held_back = divide(samples, model.batch_size)
    recovery = recover(model, plan, spec, observed=observed, held_back=held_back, example=example)
    with parked(model.raised, beside=[recovery.module]):
        prepared = prepare(recovery.module, plan, example)
    return StaticDraft(model, spec, plan, prepared, observed, held_back, recovery.results)
