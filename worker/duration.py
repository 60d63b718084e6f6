"""How long a job would take, from the pace that the model was seen to have on this machine.

Of each step, seconds are a sum of what it does in proportion to:

    load      reading and raising the model once, and timing it
    plan      trying the plan once: preparing, converting and running the graph
    float     the float model on the samples that the step passes over
    layers    the layers that it looks at, exports or opens
    budget    what the spec allows it

The coefficients are fitted to jobs that were measured (`benchmarks/plan_ahead.py` fits them anew, and tells how far off
the estimates of networks are that they were not fitted to).
"""

from __future__ import annotations

from collections.abc import Mapping

from shared.job import Step
from shared.job_plan import Duration, Pace
from shared.quantization_spec import DynamicSpec, QatSpec, StaticSpec
from worker.synthetic import SYNTHETIC_SAMPLES

USUAL_SAMPLES = 128  #: where the spec names no data
_USUAL_TRAINING_SAMPLES = 2000

#: Seconds a unit, by step and by what it is in proportion to.
COEFFICIENTS: Mapping[Step, Mapping[str, float]] = {
    Step.LOAD: {"load": 0.85},
    Step.PREPARE: {"plan": 6.0},
    Step.CALIBRATE: {"float": 9.2, "plan": 0.0},
    Step.TRAIN: {"training": 7.6},
    Step.CONVERT: {"plan": 6.3},
    Step.EVALUATE: {"float": 1.2},
    Step.ANALYSE: {"float": 3.1, "budget": 0.04},
    Step.PACKAGE: {"plan": 0.09},
    Step.EXPORT: {"exported": 0.14},
    Step.VERIFY: {"float": 1.3, "opened": 0.017},
    Step.BENCHMARK: {"budget": 0.39, "opened": 0.044},
}
OFF_BY = (0.3, 1.6)
"""Nine in ten jobs took between these times what was estimated by coefficients fitted to other networks alone."""
_OF_METHOD = {
    "dynamic": frozenset(Step) - {Step.PREPARE, Step.CALIBRATE, Step.TRAIN},
    "static": frozenset(Step) - {Step.TRAIN},
    "qat": frozenset(Step),
}


def estimate(
    spec: DynamicSpec | StaticSpec | QatSpec, samples: Mapping[str, int], pace: Pace, *, runtimes: int
) -> Duration:
    """Seconds by step, and their sum with the range that nine in ten measured jobs kept to."""
    steps = {
        step.value: sum(COEFFICIENTS[step].get(unit, 0.0) * amount for unit, amount in amounts.items())
        for step, amounts in amounts_of(spec, samples, pace, runtimes=runtimes).items()
    }
    seconds = sum(steps.values())
    return Duration(
        seconds=seconds,
        low_seconds=OFF_BY[0] * seconds,
        high_seconds=OFF_BY[1] * seconds,
        steps=steps,
        pace=pace,
        basis=_basis(spec, samples, pace),
    )


def amounts_of(
    spec: DynamicSpec | StaticSpec | QatSpec, samples: Mapping[str, int], pace: Pace, *, runtimes: int
) -> dict[Step, dict[str, float]]:
    """Of each step that this method takes, how much there is of everything that its time is in proportion to."""
    samples = {**_assumed(spec, samples), **samples}
    evaluated = samples.get("evaluation") or samples.get("calibration") or samples.get("training") or SYNTHETIC_SAMPLES
    calibrated = samples.get("calibration") or samples.get("training") or 0
    sample_seconds = pace.sample_seconds or 0.0
    trained = 0.0
    if isinstance(spec, QatSpec):
        passes = spec.qat.epochs * (2 if spec.qat.compare_with_float else 1)
        trained = passes * samples["training"] * sample_seconds
    budgets = {
        Step.ANALYSE: spec.analysis.sensitivity_seconds,
        Step.BENCHMARK: len(spec.benchmark.batch_sizes) * len(spec.benchmark.threads) * spec.benchmark.max_seconds,
    }
    others = runtimes - 1
    return {
        step: {
            "load": pace.load_seconds,
            "plan": pace.plan_seconds,
            "float": sample_seconds * (calibrated if step is Step.CALIBRATE else evaluated),
            "training": trained,
            "exported": pace.layers if others else 0,
            "opened": pace.layers * runtimes,
            "budget": budgets.get(step, 0.0),
        }
        for step in COEFFICIENTS
        if step in _OF_METHOD[spec.method]
    }


def _assumed(spec: DynamicSpec | StaticSpec | QatSpec, samples: Mapping[str, int]) -> dict[str, int]:
    """How many samples there will be of data that a job must have, and the question does not name."""
    if isinstance(spec, QatSpec):
        return {} if "training" in samples else {"training": _USUAL_TRAINING_SAMPLES}
    if isinstance(spec, StaticSpec):
        return {} if "calibration" in samples else {"calibration": USUAL_SAMPLES}
    return {}


def _basis(spec: DynamicSpec | StaticSpec | QatSpec, samples: Mapping[str, int], pace: Pace) -> str:
    told = (
        "without the time of the model itself, which does not run on made-up inputs"
        if pace.sample_seconds is None
        else f"{1000 * pace.sample_seconds:.3g} ms a sample in float on this worker"
    )
    purpose = {"calibration": "to calibrate with", "training": "to train on"}
    assumed = [f"{count} samples {purpose[role]}" for role, count in _assumed(spec, samples).items()]
    return told if not assumed else f"{told}; assumed: {', '.join(assumed)}"
