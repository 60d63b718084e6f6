"""How long a plan takes, and how far off its estimate of the job's time is.

    python benchmarks/plan_ahead.py            # with the coefficients that stand in worker/duration.py
    python benchmarks/plan_ahead.py --fit      # and fit them anew: prints what to put there

The networks are the demo's, and those that peers.py has trained below .tools/peers. Each gets a plan and then the job,
in processes of their own. Every job is also estimated by coefficients fitted to the jobs on other networks: how far off
those are is what may be said of networks that nobody has measured.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from inputs import digits_dataset, digits_network
from measuring import Result
from quality import ROOT, TOOLS
from scipy.optimize import nnls

from shared.job import Step
from shared.job_plan import JobPlan, plan_question_adapter
from worker.duration import COEFFICIENTS, amounts_of
from worker.job_folder import JobFolder, JobInputs, PlanInputs

JOBS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("digits", {"method": "dynamic"}),
    ("digits", {"method": "static"}),
    ("digits", {"method": "qat", "qat": {"epochs": 2}}),
    *((name, {"method": "static"}) for name in (
        "resnet18", "mobilenet_v2", "shufflenet_v2", "squeezenet", "regnet_y_400mf", "vit_tiny", "bert",
    )),
    *((name, {"method": "dynamic"}) for name in ("vit_tiny", "bert")),
)  # fmt: skip
PLAN_LIMIT_SECONDS = 15.0
BENCHMARK_LIMIT_SECONDS = 15.0
_ROLES = {"dynamic": ("evaluation",), "static": ("calibration", "evaluation"), "qat": ("training", "evaluation")}
_CHILD = """
import sys, time
from pathlib import Path
from worker import plan_recipe, recipes
from worker.job_folder import JobFolder
recipe = plan_recipe.RECIPE if sys.argv[2] == "plan" else recipes.RECIPE
began_at = time.perf_counter()
for run in recipe.values():
    run(JobFolder(Path(sys.argv[1])), lambda message: None)
print(time.perf_counter() - began_at)
"""


@dataclass(frozen=True)
class Job:
    """One that was planned, and then done."""

    network: str
    spec: dict[str, Any]
    samples: dict[str, int]
    plan: JobPlan
    plan_seconds: float
    timings: dict[str, float]
    """Seconds by step."""

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.network}, {self.spec['method']}"

    @property
    def amounts(self) -> dict[Step, dict[str, float]]:
        """What its time is in proportion to, step by step."""
        spec = plan_question_adapter.validate_python(self.spec)
        return amounts_of(spec, self.samples, self.plan.duration.pace, runtimes=len(self.plan.runtimes))

    @property
    def seconds(self) -> float:
        """What it took."""
        return sum(self.timings.values())

    def estimated(self, coefficients: dict[Step, dict[str, float]]) -> float:
        """What it would take by these."""
        return sum(
            coefficients[step].get(unit, 0.0) * amount
            for step, amounts in self.amounts.items()
            for unit, amount in amounts.items()
        )


def measure(network: str, asked: dict[str, Any]) -> Job:
    """Plan the job, and do it."""
    with tempfile.TemporaryDirectory() as directory:
        source = data_of(network, Path(directory))
        roles = _ROLES[asked["method"]]
        samples = {role: len(np.load(source / f"{role}.npz")["x"]) for role in roles}
        ids = {role: f"dst_{role:0<16}" for role in roles}
        spec = {"model": "mdl_0000000000000000", **ids, **asked}
        question = JobFolder(Path(directory) / "question")
        question.create(PlanInputs.model_validate({"spec": spec, "samples": samples, "threads": 1}))
        job = JobFolder(Path(directory) / "job")
        files = {role: f"{role}.npz" for role in roles}
        job.create(JobInputs.model_validate({"job_id": "job_benchmark", "spec": spec, "datasets": files, "threads": 1}))
        for name in files.values():
            shutil.copy(source / name, job.inputs / name)
        for folder in (question, job):
            shutil.copy(source / "model.pt2", folder.model)
        plan_seconds = run("plan", question)
        run("job", job)
        plan = JobPlan.model_validate_json(question.plan.read_bytes())
        timings = json.loads((job.outputs / "report.json").read_bytes())["timings"]
    return Job(network, spec, samples, plan, plan_seconds, timings)


def data_of(network: str, folder: Path) -> Path:
    """The folder with model.pt2 and the datasets of a network; raises SystemExit where peers.py has not made it."""
    if network == "digits":
        digits_network(folder / "model.pt2")
        for role in ("calibration", "evaluation", "training"):
            digits_dataset(folder / f"{role}.npz")
        return folder
    if not (TOOLS / "peers" / network / "model.pt2").exists():
        raise SystemExit(f"There is no {network}: run `python benchmarks/peers.py` first.")
    return TOOLS / "peers" / network


def run(what: str, folder: JobFolder) -> float:
    """In a process of its own; the seconds that it took but for importing."""
    program = [sys.executable, "-W", "ignore", "-c", _CHILD, folder.path, what]
    paths = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(program, env=os.environ | paths, stdout=subprocess.PIPE, text=True, check=True)
    return float(finished.stdout.splitlines()[-1])


def fitted(jobs: Sequence[Job]) -> dict[Step, dict[str, float]]:
    """Coefficients of at least zero, of the least relative error in each step of these jobs."""
    found: dict[Step, dict[str, float]] = {}
    for step, units in COEFFICIENTS.items():
        having = [job for job in jobs if step in job.amounts and job.timings.get(step.value)]
        rows = [[job.amounts[step][unit] / job.timings[step.value] for unit in units] for job in having]
        solution = nnls(np.array(rows), np.ones(len(rows)))[0] if rows else [0.0] * len(units)
        found[step] = dict(zip(units, map(float, solution), strict=True))
    return found


def main() -> None:
    """Measure all jobs, print and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit", action="store_true", help="print fitted coefficients")
    arguments = parser.parse_args()
    result, jobs = Result("plan_ahead"), list[Job]()
    for network, asked in JOBS:
        job = measure(network, asked)
        jobs.append(job)
        print(f"{job.name:24} plan {job.plan_seconds:5.1f} s   job {job.seconds:6.1f} s, "
              f"estimated {job.plan.duration.seconds:6.1f} s", flush=True)  # fmt: skip
        result.samples[job.name] = {
            "plan_seconds": job.plan_seconds, "timings": job.timings, "duration": job.plan.duration.model_dump(),
        }  # fmt: skip
    result.add("a plan, the longest", max(job.plan_seconds for job in jobs), "s", PLAN_LIMIT_SECONDS)
    small = max(job.timings[Step.BENCHMARK.value] for job in jobs if job.network == "digits")
    result.add("the benchmark step of a small network, most", small, "s", BENCHMARK_LIMIT_SECONDS)
    told = [job.seconds / job.plan.duration.seconds for job in jobs]
    inside = [job.plan.duration.low_seconds <= job.seconds <= job.plan.duration.high_seconds for job in jobs]
    result.add("a job over its estimate, least", min(told), "times")
    result.add("a job over its estimate, most", max(told), "times")
    result.add("jobs within the range that they were told", sum(inside) / len(inside), "share")
    unseen = [
        job.seconds / job.estimated(fitted([each for each in jobs if each.network != job.network])) for job in jobs
    ]
    result.add("the same, fitted to other networks alone, least", min(unseen), "times")
    result.add("the same, fitted to other networks alone, most", max(unseen), "times")
    if arguments.fit:
        for step, units in fitted(jobs).items():
            print(f"    Step.{step.name}: {{{', '.join(f'{unit!r}: {value:.3g}' for unit, value in units.items())}}},")
        low, high = np.percentile(unseen, [5, 95])
        print(f"OFF_BY = ({low:.2g}, {high:.2g})")
    result.save()


if __name__ == "__main__":
    main()
