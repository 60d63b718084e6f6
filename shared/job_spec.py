"""The spec of a job, discriminated by `method`, and which objects it names.

The API validates it, echoes it back with every default filled in, and stores it; the worker reads the same types.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, TypeAdapter

from shared.benchmark_spec import BenchmarkSpec
from shared.quantization_spec import DynamicSpec, QatSpec, StaticSpec

Spec = DynamicSpec | StaticSpec | QatSpec | BenchmarkSpec
JobSpec = Annotated[Spec, Field(discriminator="method")]
SPECS: dict[str, type[Spec]] = {
    "dynamic": DynamicSpec, "static": StaticSpec, "qat": QatSpec, "benchmark": BenchmarkSpec,
}  # fmt: skip
METHODS = tuple(SPECS)

job_spec_adapter: TypeAdapter[Spec] = TypeAdapter(JobSpec)


def dataset_roles(spec: Spec) -> dict[str, str]:
    """The datasets that a spec names: role (`calibration`, `evaluation`, `training`) to dataset id."""
    roles = {role: getattr(spec, role, None) for role in ("calibration", "evaluation", "training")}
    return {role: dataset for role, dataset in roles.items() if dataset is not None}


def models_of(spec: Spec) -> dict[str, str]:
    """The uploaded models that a spec names: where (`model`, `candidates/1/model`) to model id."""
    if not isinstance(spec, BenchmarkSpec):
        return {"model": spec.model}
    return {f"candidates/{at}/model": each.model for at, each in enumerate(spec.candidates) if each.model is not None}


def objects_of(spec: Spec) -> set[str]:
    """Every object that a job of this spec needs until it has ended."""
    return {*models_of(spec).values(), *dataset_roles(spec).values()}
