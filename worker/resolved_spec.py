"""The spec in a report, with every `auto` resolved: what was asked, and from the runner only what a recipe settles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from shared.benchmark_spec import BenchmarkSpec
from shared.job_spec import Spec
from shared.quantization_spec import (
    RUNTIMES,
    ActivationSettings,
    Metric,
    QatSettings,
    Qengine,
    Runtime,
    WeightSettings,
)

_Text = Annotated[str, Field(max_length=20_000)]


class _SettledPlan(BaseModel):
    """What a plan settles beyond the spec."""

    model_config = ConfigDict(extra="forbid")

    qengine: Qengine
    operators: Literal["all", "weighted"]
    float_layers: dict[_Text, _Text] = Field(max_length=100_000)
    notes: list[_Text] = Field(max_length=1000)
    reduce_range: bool | None = None
    float_macs_share: float = Field(default=0.0, ge=0, le=1)


class _Settled(BaseModel):
    """All that a recipe settles; whatever else a report has in its spec is ignored."""

    metric: Metric | None
    max_accuracy_drop: Literal["auto"] | Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = "auto"
    runtimes: list[Runtime] | None = Field(default=None, max_length=len(RUNTIMES))
    qengine: Qengine = "auto"
    weight: WeightSettings = WeightSettings()
    activation: ActivationSettings = ActivationSettings()
    qat: QatSettings = QatSettings()
    plan: _SettledPlan | None = None


def resolved_spec(asked: Spec, told: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked, with what a report tells of the fields that were left to the job.

    Raises ValueError when it tells of them what cannot be.
    """
    settled = _Settled.model_validate(told)
    spec, found = asked.model_dump(mode="json"), settled.model_dump(mode="json")
    if spec["metric"] == "auto" or settled.metric is None:
        spec["metric"] = settled.metric
    if isinstance(asked, BenchmarkSpec):
        return spec | {"runtimes": spec["runtimes"] or found["runtimes"]}
    spec |= {name: found[name] for name in ("max_accuracy_drop", "qengine") if spec.get(name) == "auto"}
    # Observers and limits follow from kernels and from each other: of these parts little is as it was asked.
    spec |= {part: found[part] for part in ("weight", "activation") if part in spec and part in told}
    if "qat" in spec and spec["qat"]["loss"] == "auto":
        spec["qat"]["loss"] = settled.qat.loss
    return spec if settled.plan is None else spec | {"plan": settled.plan.model_dump(exclude_unset=True)}
