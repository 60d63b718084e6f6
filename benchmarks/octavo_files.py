"""The files that Octavo makes of one network, for peers.py to time: a static job that sets nothing.

    python benchmarks/octavo_files.py FOLDER

Beside model.pt2, calibration.npz and evaluation.npz come model_int8.pt, model_int8.onnx, model_int8.openvino.onnx, and
octavo.json with the kernels of the first.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from quality import make_job

from worker.handover import Handover, take_over
from worker.job_folder import JobFolder
from worker.outputs import MODEL_NAMES
from worker.progress import Stage

STAGE = """
import sys
from pathlib import Path
from worker.job_folder import JobFolder
from worker.recipes import RECIPE
RECIPE[sys.argv[1]](JobFolder(Path(sys.argv[2])), lambda message: None)
"""


def run_stage(stage: Stage, job: JobFolder) -> None:
    """One stage of the recipe, in a process of its own as in a runner."""
    subprocess.run([sys.executable, "-W", "ignore", "-c", STAGE, stage, str(job.path)], check=True)


def main() -> None:
    """Quantize and export, and keep the files."""
    folder = Path(sys.argv[1])
    quick = {"runtimes": None, "analysis": {"layers": False, "sensitivity_seconds": 0}}
    job = JobFolder(make_job(folder, folder / "job", **quick))
    run_stage("make", job)
    run_stage("export", job)
    made = take_over(job, Handover)
    if problems := {file.runtime: file.problem for file in made.files if file.problem}:
        raise SystemExit(f"There are files missing: {problems}")
    for name in MODEL_NAMES.values():
        shutil.copy(job.outputs / name, folder / name)
    kernels = [trial.model_dump() for trial in made.explained["kernels"]]
    details = {"qengine": made.qengine, "kernels": kernels, "timings": made.course.timings}
    (folder / "octavo.json").write_text(json.dumps(details, indent=1) + "\n")


if __name__ == "__main__":
    main()
