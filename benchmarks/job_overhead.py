"""What the service adds to a job: POST's answer to `succeeded`, less the same recipe run directly; and cold start.

The direct run is in an interpreter that has run the same recipe many times before, in turns with the service. A warm
worker is one whose spare runner has had the time to start again, hence the pause between rounds.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from inputs import digits_network, job_folder
from measuring import Result, median
from running_stack import RunningStack, running_stack

ROUNDS = 15
PAUSE_SECONDS = 6
COLD_STARTS = 5
# A short benchmark step, the same on both sides: its budget is not what is measured.
SPEC = {"method": "dynamic", "runtimes": ["torch"], "benchmark": {"max_seconds": 0.2}}

DIRECT = """
import gc, sys, time
from pathlib import Path
from worker import recipes
from worker.job_folder import JobFolder
print("ready", flush=True)
for line in sys.stdin:
    started_at = time.perf_counter()
    recipes.run(JobFolder(Path(line.strip())), lambda message: None)
    print(time.perf_counter() - started_at, flush=True)
    gc.collect()
    gc.freeze()  # as a runner does once it is warm: what a recipe collects is then its own
"""


class DirectRunner:
    """An interpreter that runs recipes in the folders it is told."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", DIRECT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        assert self._process.stdin is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        assert self._out.readline() == "ready\n"

    def seconds(self, folder: Path) -> float:
        """Run the recipe in the folder; how long it took."""
        self._in.write(f"{folder}\n")
        self._in.flush()
        return float(self._out.readline())

    def close(self) -> None:
        """End the interpreter."""
        self._in.close()
        self._process.wait()


def service_seconds(stack: RunningStack, model_id: str) -> tuple[float, dict[str, Any]]:
    """From the POST's answer until a long poll says `succeeded`; and the job."""
    connection = stack.connect()
    job_id = stack.request("POST", "/v1/jobs", {**SPEC, "model": model_id}, connection=connection)["id"]
    answered_at = time.perf_counter()
    job = stack.wait(job_id, connection=connection)
    seconds = time.perf_counter() - answered_at
    connection.close()
    if job["status"] != "succeeded":
        raise RuntimeError(json.dumps(job["error"]))
    return seconds, job


def main() -> None:
    """Measure, print and keep."""
    result = Result("job_overhead")
    starts = []
    for _ in range(COLD_STARTS):
        with running_stack() as stack:
            starts.append(stack.start_seconds)
    result.samples["cold_start_seconds"] = starts
    result.add("cold start of `octavo-server up` to ready, median", median(starts), "s", limit=5.0)

    samples: dict[str, list[float]] = {"service": [], "direct": [], "recipe_in_service": []}
    with tempfile.TemporaryDirectory() as directory, running_stack(OCTAVO_WORKER__THREADS="1") as stack:
        model = digits_network(Path(directory) / "digits.pt2")
        model_id = stack.upload("models", model)
        runner = DirectRunner()
        for warm_up in (True, *([False] * ROUNDS)):
            seconds, job = service_seconds(stack, model_id)
            time.sleep(PAUSE_SECONDS)
            with job_folder(model, SPEC | {"model": model_id}) as folder:
                direct = runner.seconds(folder.path)
            if not warm_up:
                samples["service"].append(seconds)
                samples["direct"].append(direct)
                samples["recipe_in_service"].append(sum(job["report"]["timings"].values()))
        runner.close()
    result.samples["seconds"] = samples
    service, direct = median(samples["service"]), median(samples["direct"])
    result.add("dynamic job on the digits network, from the POST's answer to succeeded", service, "s")
    result.add("the recipe in the service's runner, by its own clock", median(samples["recipe_in_service"]), "s")
    result.add("the same recipe run directly in a warm interpreter", direct, "s")
    result.add("what the service adds", service - direct, "s", limit=0.3)
    result.save()


if __name__ == "__main__":
    main()
