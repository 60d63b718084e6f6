"""Measuring what a job made on other hardware: the benchmarks that are created when it succeeds."""

from __future__ import annotations

from typing import Any

from shared.benchmark_spec import BenchmarkCandidate, BenchmarkSpec
from shared.hardware import told_hardware
from shared.job_spec import dataset_roles
from shared.quantization_spec import DynamicSpec, QatSpec, StaticSpec

_MAX_NAME = 200
MEASURED_JOB = "measures"
"""The key, among a benchmark's metadata, of the job whose artifacts it measures."""


def measurements(job_id: str, spec: DynamicSpec | StaticSpec | QatSpec, report: dict[str, Any]) -> list[BenchmarkSpec]:
    """A benchmark for each entry of `measure_on`: the float model first, then every artifact that there is."""
    if not spec.measure_on:
        return []
    artifacts = [each["name"] for each in report["artifacts"] if "missing" not in each["labels"]]
    candidates = [
        BenchmarkCandidate(model=spec.model, name="float"),
        *(BenchmarkCandidate(job=job_id, artifact=name, name=name) for name in artifacts),
    ]
    evaluation = dataset_roles(spec).get(report["quality"]["data"])
    return [
        BenchmarkSpec(
            method="benchmark",
            candidates=candidates,
            # What the artifacts were held against the float model on here: so it can be told whether they still
            # compute the same there.
            evaluation=evaluation,
            metric=spec.metric,
            runtimes=spec.runtimes,
            benchmark=spec.benchmark,
            hardware=hardware,
            seed=spec.seed,
            name=f"{spec.name or job_id} on {told_hardware(hardware)}"[:_MAX_NAME],
            metadata={MEASURED_JOB: job_id},
        )
        for hardware in spec.measure_on
    ]
