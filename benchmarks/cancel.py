"""Cancelling a job at each of its steps: from sending the request until the job says `cancelled`, its process dead.

Storing the artifacts of so small a model is over before it can be seen, and is left out.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from inputs import digits_dataset, digits_network, random_dataset
from measuring import Result
from running_stack import FINISHED, RunningStack, running_stack

ROUNDS = 2
POLL_SECONDS = 0.01


def cancel_seconds(stack: RunningStack, spec: dict[str, Any], step: str) -> float | None:
    """Cancel the job when it is seen at the step; None when the step was over before it was seen."""
    connection = stack.connect()
    path = f"/v1/jobs/{stack.request('POST', '/v1/jobs', spec, connection=connection)['id']}"
    while (job := stack.request("GET", path, connection=connection))["step"] != step:
        if job["status"] in FINISHED:
            return None
        time.sleep(POLL_SECONDS)
    asked_at = time.perf_counter()
    stack.request("POST", f"{path}/cancel", connection=connection)
    while (job := stack.request("GET", path, connection=connection))["status"] not in FINISHED:
        time.sleep(POLL_SECONDS)
    seconds = time.perf_counter() - asked_at
    connection.close()
    return seconds if job["status"] == "cancelled" else None


def main() -> None:
    """Measure, print and keep."""
    result = Result("cancel")
    with tempfile.TemporaryDirectory() as directory, running_stack() as stack:
        folder = Path(directory)
        model = stack.upload("models", digits_network(folder / "digits.pt2"))
        small = stack.upload("datasets", digits_dataset(folder / "digits.npz"))
        # Large enough that every pass over it takes seconds.
        large = stack.upload("datasets", random_dataset(folder / "large.safetensors", 200_000, (1, 8, 8)))
        static = {"method": "static", "model": model, "calibration": large}
        qat = {"method": "qat", "model": model, "training": small, "qat": {"epochs": 1000}}
        short = {"method": "static", "model": model, "calibration": small, "benchmark": {"max_seconds": 0.1}}
        slow = {**short, "benchmark": {"max_seconds": 600}}
        steps = {
            "fetch": static, "load": static, "calibrate": static, "evaluate": {**short, "evaluation": large},
            "prepare": short, "convert": short, "train": qat, "benchmark": slow, "package": short,
        }  # fmt: skip
        for step, spec in steps.items():
            taken = [cancel_seconds(stack, spec, step) for _ in range(ROUNDS)]
            result.samples[step] = taken
            seen = [seconds for seconds in taken if seconds is not None]
            if seen:
                result.add(f"cancel at {step}, slowest of {len(seen)}", max(seen), "s", limit=2.0)
    result.save()


if __name__ == "__main__":
    main()
