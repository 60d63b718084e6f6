"""How fast and how near to float everything is that runs one network: Octavo's files, the peers' and the float model.

    python benchmarks/peers_timing.py FOLDER SECONDS

All of it is opened and timed in this one process, in turns, and written to measured.json in the folder. A short trial
runs everything; what is far from the fastest of its kind there is not run again, so that the rest gets more rounds.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import openvino
import torch
from torch import Tensor

from shared.errors import ModelFailed
from shared.quantization_spec import Runtime
from worker.closeness import FAR_DB, NEAR_DB
from worker.exporting import FORMS
from worker.latency import Rounds, measure_rounds, quietest
from worker.latency_statistics import Samples
from worker.outputs import MODEL_NAMES
from worker.quantization import freeze, load_program, raise_program
from worker.runtimes import PRECISION, EagerSession, SessionSettings, open_session
from worker.steps.choose_kernels import MAX_LOST_DB

BATCH_SIZES = (1, 8)
WRONG_DB = 0.0  #: below, there is more noise than signal: it is no competitor
_TRIAL_SHARE = 0.2  # of the time
_FAR = 1.3  # times the fastest of its kind
_EVALUATED_AT_ONCE = 8
_THREADS = 1


class Runnable(Protocol):
    """What a session offers, and a float module of torch too."""

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The outputs."""

    def bound(self, inputs: Sequence[Tensor]) -> Callable[[], Any]:
        """A call to be timed."""


@dataclass(frozen=True)
class Entry:
    """Something that runs the network."""

    side: str
    """Whose it is: octavo, onnxruntime, nncf or float."""
    name: str
    """Such as `octavo onnxruntime` or `nncf mixed bf16`."""
    open: Callable[[], Runnable]


def entries(folder: Path) -> Iterator[Entry]:
    """Everything that is compared."""
    for runtime, file in MODEL_NAMES.items():
        yield from of_file("octavo", f"octavo {runtime}", runtime, folder / file)
    peers = json.loads((folder / "peers.json").read_text())
    runtimes: dict[str, Runtime] = {"onnxruntime": "onnxruntime", "nncf": "openvino"}
    for peer, peer_runtime in runtimes.items():
        for variant, made in peers[peer].items():
            if "file" in made:
                yield from of_file(peer, f"{peer} {variant}", peer_runtime, folder / made["file"])
    module = raise_program(load_program(folder / "model.pt2"))
    laid_out = deepcopy(module).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch leaves it out
    yield Entry("float", "float eager", functools.partial(EagerSession, module))
    yield Entry("float", "float channels_last", functools.partial(EagerSession, laid_out, channels_last=True))
    torch.jit.save(freeze(module, (samples_of(folder)[:2],)), folder / "float_frozen.pt")
    yield from of_file("float", "float frozen", "torch", folder / "float_frozen.pt")
    for runtime in FORMS:
        yield from of_file("float", f"float {runtime}", runtime, folder / "float.onnx")


def of_file(side: str, name: str, runtime: Runtime, path: Path) -> Iterator[Entry]:
    """A file in its runtime; in OpenVINO with what is not int8 in bf16 as well, as it does by itself where it can."""
    if runtime != "openvino":
        yield Entry(side, name, functools.partial(open_session, runtime, path, SessionSettings(_THREADS)))
        return
    capabilities = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    for precision in ("f32", *(["bf16"] if "BF16" in capabilities else [])):
        settings = SessionSettings(_THREADS, {PRECISION: precision})
        yield Entry(side, f"{name} {precision}", functools.partial(open_session, runtime, path, settings))


def samples_of(folder: Path) -> Tensor:
    """The held-out samples."""
    return torch.from_numpy(np.load(folder / "evaluation.npz")["x"])


def sqnr_db(reference: Tensor, found: Tensor) -> float:
    """20·log10(‖reference‖ / ‖reference − found‖), at most 200, of what of the reference differs between samples.

    Without its mean: networks that are hardly trained answer much the same to everything, and that is no signal.
    """
    signal = float((reference - reference.mean(0)).double().norm())
    error = float((reference.double() - found.double()).norm())
    return float(20 * np.log10(signal / max(error, 1e-10 * signal)))


def qualities(entries: Sequence[Entry], x: Tensor) -> dict[str, float | str]:
    """Each one's SQNR against the float model in torch, or what it failed with."""
    found: dict[str, float | str] = {}
    reference: Tensor | None = None
    with torch.inference_mode():
        for entry in sorted(entries, key=lambda each: each.name != "float eager"):
            try:
                session = entry.open()
                outputs = torch.cat([session.run([batch])[0] for batch in x.split(_EVALUATED_AT_ONCE)])
            except ModelFailed as error:
                found[entry.name] = error.message
                continue
            reference = outputs if reference is None else reference
            found[entry.name] = sqnr_db(reference, outputs) if outputs.isfinite().all() else "gives no finite numbers"
    return found


def right_ones(entries: Sequence[Entry], quality: Mapping[str, float | str]) -> list[Entry]:
    """Those that give the network's answers at all."""
    return [each for each in entries if not isinstance(db := quality[each.name], str) and db >= WRONG_DB]


def offered_by_octavo(entries: Sequence[Entry], quality: Mapping[str, float | str]) -> list[str]:
    """Those that a job would not call wrong: as near to float as the torch artifact, or near enough.

    What is in bf16 loses by nature: near enough is what the float model in bf16, which it is beside, is taken from.
    """
    ours = quality["octavo torch"]
    assert not isinstance(ours, str)

    def least(entry: Entry) -> float:
        return min(ours - MAX_LOST_DB, FAR_DB if entry.name.endswith("bf16") else NEAR_DB)

    return [
        each.name
        for each in entries
        if each.side == "octavo" and not isinstance(db := quality[each.name], str) and db >= least(each)
    ]


def time(entries: Sequence[Entry], x: Tensor, seconds: float) -> tuple[Rounds, Rounds]:
    """A trial of all of them, and the rounds of those that could be the fastest."""
    calls = {entry.name: entry.open().bound([x]) for entry in entries}
    trial = quietest(measure_rounds(calls, threads=_THREADS, max_seconds=_TRIAL_SHARE * seconds, seed=0))
    kept = {name: calls[name] for name in near_the_fastest(entries, trial.samples_ms)}
    return trial, quietest(measure_rounds(kept, threads=_THREADS, max_seconds=(1 - _TRIAL_SHARE) * seconds, seed=1))


def near_the_fastest(entries: Sequence[Entry], samples_ms: Mapping[str, Samples]) -> list[str]:
    """All that could be the fastest of its kind: int8 of one tool in one runtime, or float.

    A float model must be near the fastest of everything that is not Octavo's, for that is what it is compared with.
    """
    medians = {entry.name: float(np.median(samples_ms[entry.name])) for entry in entries}

    def fastest(others: Sequence[Entry]) -> float:
        return min(medians[each.name] for each in others)

    def kind(entry: Entry) -> tuple[str, bool, bool]:
        return entry.side, "openvino" in entry.name, "torch" in entry.name

    rivals = [each for each in entries if each.side != "octavo"]
    alike = {
        entry.name: rivals if entry.side == "float" else [each for each in entries if kind(each) == kind(entry)]
        for entry in entries
    }
    return [entry.name for entry in entries if medians[entry.name] <= _FAR * fastest(alike[entry.name])]


def measure(folder: Path, seconds: float) -> dict[str, Any]:
    """SQNR of all, and at each batch size the samples of those that are right."""
    torch.set_num_threads(_THREADS)
    torch.backends.quantized.engine = json.loads((folder / "octavo.json").read_text())["qengine"]
    x = samples_of(folder)
    all_entries = list(entries(folder))
    quality = qualities(all_entries, x)
    right = right_ones(all_entries, quality)
    found: dict[str, Any] = {"sqnr_db": quality, "offered": offered_by_octavo(right, quality), "latency": {}}
    for size in BATCH_SIZES:
        trial, rounds = time(right, x[:size].contiguous(), seconds / len(BATCH_SIZES))
        found["latency"][size] = {
            "trial_p50_ms": {name: round(float(np.median(each)), 4) for name, each in trial.samples_ms.items()},
            "samples_ms": {name: each.round(4).tolist() for name, each in rounds.samples_ms.items()},
            "doubts": [doubt.model_dump() for doubt in rounds.doubts],
        }
    return found


def main() -> None:
    """Measure, and write measured.json."""
    folder = Path(sys.argv[1])
    (folder / "measured.json").write_text(json.dumps(measure(folder, float(sys.argv[2]))) + "\n")


if __name__ == "__main__":
    main()
