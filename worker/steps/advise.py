"""Advise on the method before the work is done: what dynamic leaves in float, and whether static is the better one."""

from __future__ import annotations

from shared.job_report import Suggestion
from shared.quantization_spec import DynamicSpec
from worker.progress import ProgressTracker
from worker.quantization import DynamicPlan, Plan

_MOSTLY = 0.5


def advise_on_dynamic(spec: DynamicSpec, settled: Plan, tracker: ProgressTracker) -> None:
    """Say what share of the multiply-accumulates stays in float, and advise static where convolutions have the most."""
    assert isinstance(settled, DynamicPlan)
    share, convolutions = settled.float_macs_share, settled.convolution_macs_share
    tracker.log(f"Method dynamic leaves {100 * share:.1f} % of the multiply-accumulates in float.")
    if convolutions > _MOSTLY:
        tracker.warn(
            "convolutions_in_float",
            f"Convolutions do {100 * convolutions:.0f} % of the multiply-accumulates, and method dynamic leaves them "
            "in float: little is gained.",
            "Use method static, which quantizes convolutions; it needs 100 to 300 representative inputs as "
            "`calibration`.",
            evidence=f"{100 * share:.1f} % of the multiply-accumulates stay in float.",
            suggestion=_static(spec),
        )
    elif share > _MOSTLY:
        tracker.warn(
            "multiplications_in_float",
            f"{100 * share:.0f} % of the multiply-accumulates stay in float: little is gained in speed.",
            "`layers` in the report says how much each layer computes, and why it was left.",
        )


def _static(spec: DynamicSpec) -> Suggestion | None:
    """Only with data to calibrate on can a patch make a static job."""
    if spec.evaluation is None:
        return None
    return Suggestion(
        title="Method static, calibrated on this job's evaluation data",
        patch={"method": "static", "calibration": spec.evaluation},
        expected="int8 convolutions. Quality is then measured on data that calibration has seen: for a figure to rely "
        "on, upload other samples and name those as calibration.",
    )
