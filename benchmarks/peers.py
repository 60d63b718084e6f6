"""How fast Octavo's files are beside what ONNX Runtime's and NNCF's own quantization make of the same network.

    python benchmarks/peers.py                             # everything; what the peers have quantized is kept
    python benchmarks/peers.py --only resnet18,bert --seconds 20
    python benchmarks/peers.py --kept                      # Octavo's files are kept too
    python benchmarks/peers.py --kept --quiet-kept         # and the times of networks that were quiet when timed

The networks are those of peers_networks.py; the peers run in the virtual environment that quality.py makes, Octavo's
side is the recipe with the default spec. All tools get the same 64 samples, and everything of one network is timed in
one process, in turns, on one thread (peers_timing.py); where an interval is wide, once more, and the times with the
narrower intervals count. Of each peer and each setting the fastest counts where speed is compared, and the nearest to
float where SQNR is. Kept below .tools/peers/.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from math import exp, log
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from measuring import RESULTS, Result
from quality import ROOT, TOOLS, in_peers_venv, install

from worker.latency import fastest_of
from worker.latency_statistics import Samples, median_ratio, speedup_ci95
from worker.steps.choose_kernels import MIN_GAIN

FAMILIES = (
    "resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_large", "efficientnet_b0", "regnet_y_400mf", "densenet121",
    "googlenet", "shufflenet_v2", "squeezenet", "convnext_tiny", "vit_tiny", "swin_tiny", "bert",
)  # fmt: skip
NETWORKS = TOOLS / "peers"
SECONDS = 120.0
BEHIND_LIMIT_DB = 0.5
WIDE = 0.05  #: an interval from 0.98 to 1.03 tells little of a limit of 1.02


@dataclass(frozen=True)
class Contest:
    """Some of Octavo's files against some of what others have."""

    title: str
    ours: str
    """What the names of its files begin with."""
    theirs: tuple[str, ...]
    worst: float
    """What no network may exceed; the geometric mean of the first two may not exceed 1."""
    mean: float | None = 1.0
    recommended: bool = False
    """Whether only those of Octavo's files count that a job would offer (`offered_by_octavo` of peers_timing.py)."""


CONTESTS = (
    Contest("ONNX Runtime", "octavo onnxruntime", ("onnxruntime",), 1.03),
    Contest("NNCF", "octavo openvino", ("nncf",), 1.05),
    Contest("all", "octavo", ("onnxruntime", "nncf", "float"), 1.02, mean=None, recommended=True),
)


@dataclass(frozen=True)
class Ratio:
    """Octavo's median latency over another's, with its 95 % interval."""

    value: float
    interval: tuple[float, float]
    ours: str
    theirs: str

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.2f} ({low:.2f} … {high:.2f})"


@dataclass(frozen=True)
class Row:
    """One network at one batch size."""

    family: str
    batch_size: int
    medians_ms: dict[str, float]
    ratios: dict[str, Ratio]
    """By contest; one is absent where a side has nothing that is right."""


def compared(samples_ms: dict[str, Samples], contest: Contest, offered: Collection[str]) -> Ratio | None:
    """The fastest of one side against the fastest of the other; None where one has nothing."""
    mine = [
        name for name in samples_ms if name.startswith(contest.ours) and (name in offered or not contest.recommended)
    ]
    theirs = [name for name in samples_ms if name.startswith(contest.theirs)]
    if not mine or not theirs:
        return None
    ours, other = (fastest_of(samples_ms, names, inside=True) for names in (mine, theirs))
    pair = samples_ms[ours], samples_ms[other]
    return Ratio(median_ratio(*pair), speedup_ci95(*pair), ours, other)


def in_one_precision(offered: Collection[str], medians_ms: Mapping[str, float]) -> set[str]:
    """What is offered without the precision that a job at this batch size would not open OpenVINO's file in."""
    in_f32, in_bf16 = (f"octavo openvino {precision}" for precision in ("f32", "bf16"))
    if not {in_f32, in_bf16} <= {*offered}:
        return {*offered}
    return {*offered} - {in_f32 if MIN_GAIN * medians_ms[in_bf16] < medians_ms[in_f32] else in_bf16}


def rows_of(family: str, measured: dict[str, Any]) -> list[Row]:
    """One for each batch size."""
    rows = []
    for size, found in measured["latency"].items():
        samples_ms = {name: np.array(taken) for name, taken in found["samples_ms"].items()}
        medians = found["trial_p50_ms"] | {name: float(np.median(taken)) for name, taken in samples_ms.items()}
        offered = in_one_precision(measured["offered"], medians)
        ratios = {contest.title: compared(samples_ms, contest, offered) for contest in CONTESTS}
        rows.append(Row(family, int(size), medians, {title: each for title, each in ratios.items() if each}))
    return rows


def prepare(family: str, *, kept: bool) -> None:
    """All files of a family; raises SystemExit where they cannot be made."""
    folder = NETWORKS / family
    made = (folder / "model.pt2").exists() or in_peers_venv("peers_networks.py", family)
    if not made or not ((folder / "peers.json").exists() or in_peers_venv("peers_files.py", str(folder))):
        raise SystemExit(f"{family} could not be made or quantized by the peers: see above.")
    if not (kept and (folder / "octavo.json").exists()) and not run_alone("octavo_files.py", str(folder)):
        raise SystemExit(f"Octavo could not quantize {family}: see above.")


def timed(family: str, seconds: float, *, quiet_kept: bool) -> dict[str, Any]:
    """What peers_timing.py measured of a family, the quieter of two where one was noisy; raises SystemExit."""
    file = NETWORKS / family / "measured.json"
    found = [json.loads(file.read_text())] if quiet_kept and file.exists() else []
    while not found or (len(found) == 1 and _widest(family, found[0]) > WIDE):
        if not run_alone("peers_timing.py", str(file.parent), str(seconds)):
            raise SystemExit(f"{family} could not be measured: see above.")
        found.append(json.loads(file.read_text()))
    quietest = min(found, key=lambda measured: _widest(family, measured))
    file.write_text(json.dumps(quietest) + "\n")
    return quietest


def _widest(family: str, measured: dict[str, Any]) -> float:
    """The widest interval of what has a limit."""
    intervals = [ratio.interval for row in rows_of(family, measured) for ratio in row.ratios.values()]
    return max(high / low - 1 for low, high in intervals)


def run_alone(script: str, *arguments: str) -> bool:
    """Run another script of this folder in a process of its own; whether it came to its end."""
    program = [sys.executable, "-W", "ignore", Path(__file__).with_name(script), *arguments]
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    settings = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    return subprocess.run(program, env=settings, check=False).returncode == 0


def nearest_db(quality: dict[str, Any], side: str) -> float | None:
    """The highest SQNR of a side's files; None when all of them failed."""
    return max((db for name, db in quality.items() if name.startswith(side) and isinstance(db, float)), default=None)


def geometric_mean(values: Iterable[float]) -> float:
    """Of ratios."""
    return exp(mean(log(value) for value in values))


def record(result: Result, rows: list[Row], qualities: dict[str, dict[str, Any]]) -> None:
    """The figures with their limits, at each batch size."""
    for size in sorted({row.batch_size for row in rows}):
        for contest in CONTESTS:
            ratios = {row.family: row.ratios.get(contest.title) for row in rows if row.batch_size == size}
            found = {family: ratio.value for family, ratio in ratios.items() if ratio is not None}
            if not found:
                continue
            against = {"all": "the fastest of everything else"}.get(contest.title, f"{contest.title}'s own int8")
            told = f"batch {size}: latency over that of {against}"
            worst = max(found, key=lambda family: found[family])
            result.add(f"{told}, mean of {len(found)}", geometric_mean(found.values()), "times", contest.mean)
            result.add(f"{told}, most ({worst})", found[worst], "times", contest.worst)
    for side, ours, limit in (
        ("onnxruntime", "octavo onnxruntime", BEHIND_LIMIT_DB),
        ("nncf", "octavo openvino", None),
    ):
        behind = {family: _behind_db(quality, ours, side) for family, quality in qualities.items()}
        known = {family: db for family, db in behind.items() if db is not None}
        if known:
            worst = max(known, key=lambda family: known[family])
            result.add(f"SQNR below that of {side}'s own int8, most ({worst})", known[worst], "dB", limit)


def _behind_db(quality: dict[str, Any], ours: str, theirs: str) -> float | None:
    mine, others = nearest_db(quality, ours), nearest_db(quality, theirs)
    return None if mine is None or others is None else others - mine


HEADER = (
    "| Network | batch | float | torch | ONNX Runtime | OpenVINO | over ONNX Runtime's own | over NNCF's |"
    " fastest over the fastest of all others |\n|---|---|---|---|---|---|---|---|---|"
)


def line(row: Row) -> str:
    """Medians in ms of the fastest float and of Octavo's three, and the ratios."""

    def fastest(prefix: str) -> str:
        found = [ms for name, ms in row.medians_ms.items() if name.startswith(prefix)]
        return f"{min(found):.2f}" if found else "wrong"

    medians = " | ".join(fastest(p) for p in ("float", "octavo torch", "octavo onnxruntime", "octavo openvino"))
    ratios = " | ".join(_cell(row, contest) for contest in CONTESTS)
    return f"| {row.family} | {row.batch_size} | {medians} | {ratios} |"


def _cell(row: Row, contest: Contest) -> str:
    ratio = row.ratios.get(contest.title)
    if ratio is None:
        return ""
    text = f"{ratio}" if ratio.value <= contest.worst else f"**{ratio}**"
    return text if contest.mean is not None else f"{text} {ratio.ours.removeprefix('octavo ')} / {ratio.theirs}"


QUALITY_HEADER = (
    "| Network | torch | ONNX Runtime | OpenVINO | ONNX Runtime's own | NNCF's |\n|---|---|---|---|---|---|"
)


def quality_line(family: str, quality: dict[str, Any]) -> str:
    """SQNR in dB."""
    sides = ("octavo torch", "octavo onnxruntime", "octavo openvino", "onnxruntime", "nncf")
    found = [nearest_db(quality, side) for side in sides]
    return f"| {family} | {' | '.join('failed' if db is None else f'{db:.1f}' for db in found)} |"


def write_table(rows: list[Row], qualities: dict[str, dict[str, Any]]) -> None:
    """results/peers.md: the tables as people read them."""
    text = [
        "# Octavo's files beside the runtimes' own quantization",
        "",
        "One thread; medians in ms; ratios of medians, below 1 where Octavo is faster, with their 95 % intervals",
        "within the run. Of each tool the fastest variant and setting that gives the network's answers at all. In",
        "bold: over the limit.",
        "",
        HEADER,
        *(line(row) for row in rows),
        "",
        "Output SQNR in dB against the float model on 256 held-out samples, of what differs between samples; of each",
        "tool the nearest.",
        "",
        QUALITY_HEADER,
        *(quality_line(family, quality) for family, quality in qualities.items()),
    ]
    (RESULTS / "peers.md").write_text("\n".join(text) + "\n")


def main() -> None:
    """Prepare, measure, print; and keep the figures when all families were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=lambda text: text.split(","), default=FAMILIES, help="families, comma-separated")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="to time each family for")
    parser.add_argument("--kept", action="store_true", help="keep what Octavo has made")
    parser.add_argument("--quiet-kept", action="store_true", help="keep the times of what was quiet")
    arguments = parser.parse_args()
    install()
    result, rows, qualities = Result("peers"), list[Row](), dict[str, dict[str, Any]]()
    for family in arguments.only:
        prepare(family, kept=arguments.kept)
        folder = NETWORKS / family
        measured = timed(family, arguments.seconds, quiet_kept=arguments.quiet_kept)
        octavo, peers = (json.loads((folder / f"{name}.json").read_text()) for name in ("octavo", "peers"))
        result.samples[family] = measured | {"octavo": octavo, "peers": peers}
        qualities[family] = measured["sqnr_db"]
        found = rows_of(family, measured)
        show(found, qualities, family, first=not rows)
        rows += found
    record(result, rows, qualities)
    if set(qualities) == set(FAMILIES):
        result.save()
        write_table(rows, qualities)


def show(rows: Collection[Row], qualities: dict[str, dict[str, Any]], family: str, *, first: bool) -> None:
    """Print what was found of a family."""
    if first:
        print(HEADER, flush=True)
    print(*(line(row) for row in rows), quality_line(family, qualities[family]), sep="\n", flush=True)


if __name__ == "__main__":
    main()
