"""How good default static quantization is on networks really trained, beside ONNX Runtime's and NNCF's own tools.

    python benchmarks/quality.py                  # everything; what is trained or compared already is kept
    python benchmarks/quality.py --only vit,bert --ours   # Octavo alone, on what is kept

The networks are those of trained_networks.py, the peers' figures those of peers_quality.py; both run in a virtual
environment of their own, .tools/peers-venv, and are kept below .tools/trained/. Octavo's side is the recipe itself with
the default spec on the same samples, and its report's figures.

Top-1 is compared sample by sample: a tool is behind where McNemar's exact test says so (paired.py), and the plain
difference stands beside it, for one sample of 500 is 0.2 points.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
import venv
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from measuring import RESULTS, Result
from paired import Pairing

from shared.quantization_spec import StaticSpec
from worker.job_folder import JobFolder, JobInputs

ROOT = Path(__file__).parent.parent
TOOLS = ROOT / ".tools"
TRAINED = TOOLS / "trained"
VENV = TOOLS / "peers-venv"
PYTHON = VENV / "bin" / "python"
REQUIREMENTS = Path(__file__).with_name("requirements.txt")

FAMILIES = (
    "resnet18", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "regnet_y_400mf", "densenet121", "googlenet",
    "shufflenet_v2", "squeezenet", "convnext", "vit", "swin", "mixer", "bert",
)  # fmt: skip
PEERS = {"onnxruntime": "ONNX Runtime", "nncf": "NNCF"}
BEHIND_LIMIT_DB = 0.5
_BATCH = 50


@dataclass(frozen=True)
class Score:
    """One tool's int8 model on the held-out data; `sqnr_db` None when the tool failed, `note` says how or which."""

    sqnr_db: float | None
    top1: float | None
    note: str = ""
    right: str = ""  #: a digit a sample: 1 where it is right

    def __str__(self) -> str:
        if self.sqnr_db is None or self.top1 is None:
            return "failed"
        return f"{self.sqnr_db:.1f} ({100 * self.top1:.1f})"


@dataclass(frozen=True)
class Row:
    """One family."""

    family: str
    float_top1: float
    ours: Score
    peers: dict[str, Score]

    @property
    def better(self) -> Score | None:
        """The peer with the higher SQNR."""
        finished = [score for score in self.peers.values() if score.sqnr_db is not None]
        return max(finished, key=lambda score: score.sqnr_db or 0.0, default=None)

    @property
    def behind_db(self) -> float | None:
        """How far Octavo's SQNR is below the better peer's; negative when it is above."""
        if self.ours.sqnr_db is None or self.better is None or self.better.sqnr_db is None:
            return None
        return self.better.sqnr_db - self.ours.sqnr_db

    @property
    def pairings(self) -> dict[str, Pairing]:
        """Octavo's answers beside those of each peer that finished."""
        finished = {peer: score for peer, score in self.peers.items() if score.right and self.ours.right}
        return {peer: Pairing.of(self.ours.right, score.right) for peer, score in finished.items()}


def install() -> None:
    """The peers' virtual environment, which sees this one's packages; made anew when its pins change."""
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    stamp = VENV / "installed"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    shutil.rmtree(VENV, ignore_errors=True)
    venv.create(VENV, with_pip=True)
    packages = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    (VENV / packages / "octavo.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "-c", ROOT / "constraints.txt", "-r", REQUIREMENTS], check=True)
    stamp.write_text(wanted)


def in_peers_venv(script: str, *arguments: str) -> bool:
    """Run another script of this folder there; whether it came to its end."""
    program = [PYTHON, "-W", "ignore", Path(__file__).with_name(script), *arguments]
    return subprocess.run(program, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False).returncode == 0


def make_job(source: Path, path: Path, **asked: Any) -> Path:
    """The folder of a static job for torch, with a short benchmark and what is asked, on what is in another folder."""
    folder = JobFolder(path)
    spec = StaticSpec.model_validate(
        {
            "method": "static",
            "runtimes": ["torch"],
            "model": "mdl_0000000000000000000000",
            "calibration": "dst_0000000000000000000000",
            "evaluation": "dst_0000000000000000000001",
            "benchmark": {"max_seconds": 0.1},
            **asked,
        }
    )
    datasets = {role: f"{role}.npz" for role in ("calibration", "evaluation")}
    shutil.rmtree(path, ignore_errors=True)
    folder.create(JobInputs(job_id="job_benchmark", spec=spec, datasets=datasets, threads=1))
    for name in ("model.pt2", *datasets.values()):
        os.link(source / name, folder.inputs / name)
    return path


def octavo(family: str) -> tuple[Score, dict[str, Any]]:
    """Run the recipe; its folder, report included, stays at .tools/trained/<family>/job."""
    path = make_job(TRAINED / family, TRAINED / family / "job")
    program = [sys.executable, "-W", "ignore", "-m", "worker.recipes", path]
    settings = os.environ | {"OMP_NUM_THREADS": "1"}
    finished = subprocess.run(program, cwd=ROOT, env=settings, capture_output=True, text=True, check=False)
    report = JobFolder(path).outputs / "report.json"
    if finished.returncode != 0 or not report.exists():
        return Score(None, None, finished.stderr.strip().splitlines()[-1][:300]), {}
    document = json.loads(report.read_text())
    right = right_answers(family, path, document["spec"]["qengine"])
    score = Score(document["quality"]["fidelity"][0]["sqnr_db"], right.count("1") / len(right), right=right)
    return score, {key: document[key] for key in ("verdict", "warnings", "spec", "environment", "timings")}


def right_answers(family: str, job: Path, qengine: str) -> str:
    """Which of the evaluation's samples the job's artifact has right: a digit each."""
    evaluation = np.load(TRAINED / family / "evaluation.npz")
    torch.backends.quantized.engine = qengine
    torch.set_num_threads(1)
    artifact = torch.jit.load(JobFolder(job).outputs / "model_int8.pt")
    with torch.inference_mode():
        found = torch.cat([artifact(batch)[0].argmax(1) for batch in torch.from_numpy(evaluation["x"]).split(_BATCH)])
    return "".join(str(int(each)) for each in found.numpy() == evaluation["labels"])


def best(variants: dict[str, dict[str, Any]]) -> Score:
    """The variant of a peer with the highest SQNR."""
    finished = {name: found for name, found in variants.items() if "error" not in found}
    if not finished:
        return Score(None, None, next(iter(variants.values()))["error"])
    name = max(finished, key=lambda each: finished[each]["sqnr_db"])
    return Score(finished[name]["sqnr_db"], finished[name]["top1"], name, finished[name]["right"])


def compare(family: str, *, ours_only: bool) -> tuple[Row, dict[str, Any]] | None:
    """One family's row and its raw results; None when `ours_only` meets a family without kept results."""
    kept = TRAINED / family / "peers.json"
    if not (kept.exists() and '"right"' in kept.read_text()):  # what was kept before it told of every sample is no use
        if ours_only:
            return None
        if not in_peers_venv("trained_networks.py", family) or not in_peers_venv(
            "peers_quality.py", str(TRAINED / family)
        ):
            raise SystemExit(f"{family} could not be trained or compared: see above.")
    peers = json.loads(kept.read_text())
    score, details = octavo(family)
    row = Row(family, peers["float_top1"], score, {peer: best(peers[peer]) for peer in PEERS})
    ours = {"sqnr_db": score.sqnr_db, "top1": score.top1, "note": score.note, "right": score.right}
    raw = {"octavo": ours | details}
    return row, raw | peers


HEADER = (
    "| Family | float | Octavo | ONNX Runtime | NNCF | Octavo above the better |"
    " top-1 above ONNX Runtime's | above NNCF's |\n|---|---|---|---|---|---|---|---|"
)


def line(row: Row) -> str:
    """A row of the table: SQNR in dB, and top-1 in percent in brackets."""
    ahead = "" if row.behind_db is None else f"{0.0 - row.behind_db:+.1f} dB"
    scores = " | ".join(str(row.peers[peer]) for peer in PEERS)
    points = " | ".join(difference(row.pairings.get(peer)) for peer in PEERS)
    return f"| {row.family} | ({100 * row.float_top1:.1f}) | {row.ours} | {scores} | {ahead} | {points} |"


def difference(pairing: Pairing | None) -> str:
    """Points with their 95 % interval; in bold where it leaves out zero."""
    if pairing is None:
        return ""
    low, high = pairing.interval_points
    text = f"{pairing.above_points:+.1f} ({low:+.1f} … {high:+.1f})"
    return f"**{text}**" if pairing.surely_above or pairing.surely_below else text


def together(rows: list[Row], peer: str) -> Pairing:
    """All families' samples: of each family its own network's, so as many draws as there are pairs."""
    return functools.reduce(Pairing.__add__, (row.pairings[peer] for row in rows))


def mean_line(rows: list[Row]) -> str:
    """The means over the families that all three finished."""
    common = finished_by_all(rows)
    scores = [[row.ours for row in common], *([row.peers[peer] for row in common] for peer in PEERS)]
    cells = [
        f"{mean(each.sqnr_db or 0 for each in tool):.1f} ({100 * mean(each.top1 or 0 for each in tool):.2f})"
        for tool in scores
    ]
    float_top1 = 100 * mean(row.float_top1 for row in common)
    points = " | ".join(difference(together(common, peer)) for peer in PEERS)
    return f"| **mean of {len(common)}** | ({float_top1:.2f}) | {' | '.join(cells)} | | {points} |"


def finished_by_all(rows: list[Row]) -> list[Row]:
    """The families where neither Octavo nor a peer failed: the only ones a mean can be taken over."""
    return [row for row in rows if None not in (row.ours.sqnr_db, *(peer.sqnr_db for peer in row.peers.values()))]


def record(result: Result, rows: list[Row]) -> None:
    """The figures with their limits: each family within 0.5 dB of the better peer, and above both on average.

    Top-1 has its limit on the end of the interval that favours Octavo most: over it, a peer is better beyond noise. The
    plain differences are figures without a limit.
    """
    for row in rows:
        if row.behind_db is not None:
            result.add(f"{row.family}: SQNR below the better peer's", row.behind_db, "dB", limit=BEHIND_LIMIT_DB)
        for peer, pairing in row.pairings.items():
            record_top1(result, f"{row.family}: top-1 below {PEERS[peer]}'s", pairing)
    common = finished_by_all(rows)
    for peer, name in PEERS.items():
        sqnr = mean((row.peers[peer].sqnr_db or 0) - (row.ours.sqnr_db or 0) for row in common)
        result.add(f"mean of {len(common)} families: SQNR below {name}'s", sqnr, "dB", limit=0)
        record_top1(result, f"mean of {len(common)} families: top-1 below {name}'s", together(common, peer))


def record_top1(result: Result, name: str, pairing: Pairing) -> None:
    """The difference as it is, and what of it is beyond noise."""
    result.add(name, 0.0 - pairing.above_points, "points")
    result.add(f"{name}, at the least (95 %)", 0.0 - pairing.interval_points[1], "points", limit=0)


def write_table(lines: list[str], rows: list[Row]) -> None:
    """results/quality.md: the table as people read it."""
    failures = [
        f"- {PEERS.get(tool, tool)} on {row.family}: {score.note}"
        for row in rows
        for tool, score in {"Octavo": row.ours, **row.peers}.items()
        if score.sqnr_db is None
    ]
    text = [
        "# Default static quantization of networks really trained",
        "",
        "Output SQNR in dB against the float model (top-1 in percent) on 500 held-out digits; 256 others calibrate.",
        "Each peer in the variant with its highest SQNR; all variants are in quality.json. Behind each difference of",
        "top-1, in points, stands its paired 95 % interval; it is bold where that leaves out zero.",
        "",
        *lines,
    ]
    text += ["", "Failed:", "", *failures] if failures else []
    (RESULTS / "quality.md").write_text("\n".join(text) + "\n")


def main() -> None:
    """Train, compare, print; and keep the figures when all families were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=lambda text: text.split(","), default=FAMILIES, help="families, comma-separated")
    parser.add_argument("--ours", action="store_true", help="train nothing and run no peer: use what is kept")
    arguments = parser.parse_args()
    if not arguments.ours:
        install()
    result, rows, lines = Result("quality"), [], [HEADER]
    print(HEADER, flush=True)
    for family in arguments.only:
        started_at = time.perf_counter()
        found = compare(family, ours_only=arguments.ours)
        if found is None:
            continue
        row, raw = found
        rows.append(row)
        lines.append(line(row))
        result.samples[family] = raw | {"seconds": time.perf_counter() - started_at}
        print(lines[-1], row.ours.note, flush=True)
    if finished_by_all(rows):
        lines.append(mean_line(rows))
        print(lines[-1], flush=True)
    if {row.family for row in rows} == set(FAMILIES):
        record(result, rows)
        result.save()
        write_table(lines, rows)


if __name__ == "__main__":
    main()
