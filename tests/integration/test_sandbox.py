"""The sandbox, by real attempts from a real interpreter that locked itself down; each is shown to work without it."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hostile import attempts
from tests.hostile.attempts import Place, forbidden, needed, privileged
from tests.hostile.models import ATTACKS, export_small_net
from worker.job_folder import JobFolder
from worker.sandbox import SandboxLevel, SandboxLimits, lock_down, probe_level

pytestmark = pytest.mark.skipif(
    probe_level() is not SandboxLevel.LANDLOCK and os.environ.get("CI") != "true",
    reason="this kernel has no Landlock or no seccomp",
)
NOWHERE = Place("", Path("/"), Path("/"), 0)
LIMITS = SandboxLimits(memory_bytes=4 * 1024**3, file_bytes=1024**3)


def run_python(code_or_file: list[str]) -> str:
    """What a fresh interpreter prints; the test fails when it does."""
    done = subprocess.run(
        [sys.executable, "-I", "-W", "ignore", *code_or_file],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={"OMP_NUM_THREADS": "1", "LANG": "C.UTF-8"},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def victim() -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-I", "-c", "input()"], stdin=subprocess.PIPE)
    yield process.pid
    process.kill()
    process.communicate()


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory, victim: int) -> dict[str, dict[str, Any]]:
    """What became of every attempt, by mode: `open` and `locked`."""
    results = {}
    for mode in ("open", "locked"):
        folder, outside = tmp_path_factory.mktemp(f"{mode}-folder"), tmp_path_factory.mktemp(f"{mode}-outside")
        (outside / "file").write_text("secret")
        printed = run_python([attempts.__file__, mode, str(folder), str(outside), str(victim)])
        results[mode] = json.loads(printed)
        results[mode]["left outside"] = sorted(path.name for path in outside.iterdir())
        results[mode]["content outside"] = (outside / "file").read_text()
        given = [path for path in (folder, folder / "inputs") for path in path.iterdir() if path.is_file()]
        results[mode]["given"] = {path.name: path.read_text() for path in given}
        results[mode]["folder"] = sorted(path.name for path in folder.iterdir())
    return results


@pytest.mark.parametrize("name", forbidden(NOWHERE))
def test_a_locked_down_process_is_refused_what_an_open_one_may(outcomes: dict[str, dict[str, Any]], name: str) -> None:
    assert outcomes["open"][name] == "allowed"
    assert outcomes["locked"][name] != "allowed"


@pytest.mark.parametrize("name", privileged(NOWHERE))
def test_a_locked_down_process_is_refused_what_only_the_powerful_may(
    outcomes: dict[str, dict[str, Any]], name: str
) -> None:
    assert outcomes["locked"][name] in {"ENOSYS", "EPERM", "EACCES"}


@pytest.mark.parametrize("name", needed(NOWHERE))
def test_a_locked_down_process_keeps_what_it_needs(outcomes: dict[str, dict[str, Any]], name: str) -> None:
    assert outcomes["locked"][name] == "allowed"


def test_nothing_outside_of_the_folder_is_changed(outcomes: dict[str, dict[str, Any]]) -> None:
    assert outcomes["locked"]["left outside"] == ["file"]
    assert outcomes["locked"]["content outside"] == "secret"


def test_what_is_asked_and_what_was_fetched_stay_as_they_were(outcomes: dict[str, dict[str, Any]]) -> None:
    assert outcomes["locked"]["given"] == dict.fromkeys(("job.json", "candidate-1.onnx", "evaluation.npz"), "given")
    assert outcomes["locked"]["folder"] == ["inputs", "job.json", "outputs", "tmp"]


def job_folder(path: Path) -> JobFolder:
    folder = JobFolder(path)
    for each in (folder.inputs, folder.outputs, folder.tmp):
        each.mkdir(parents=True)
    return folder


TORCH_WITH_TWO_THREADS = """
import os, sys
from pathlib import Path
import torch
from worker.sandbox import SandboxLimits, lock_down
os.chdir(sys.argv[1])
print(lock_down(Path(sys.argv[1]), SandboxLimits.model_validate_json(sys.argv[2])))
torch.set_num_threads(2)
left, right = torch.randn(600, 600), torch.randn(600, 600)
error = ((left @ right).double() - left.double() @ right.double()).abs().max().item()
image = torch.randn(2, 8, 64, 64)
mean = torch.nn.functional.conv2d(image, torch.ones(1, 8, 1, 1)).sub(image.sum(1, keepdim=True)).abs().max().item()
quantized = torch.quantize_per_tensor(image, 0.1, 0, torch.qint8).dequantize().sub(image).abs().max().item()
print(error < 1e-3, mean < 1e-3, quantized < 10, len(os.listdir("/proc/self/task")) > 1)
"""


def test_torch_computes_with_two_threads_when_locked_down(tmp_path: Path) -> None:
    folder = job_folder(tmp_path / "job")
    printed = run_python(["-c", TORCH_WITH_TWO_THREADS, str(folder.path), LIMITS.model_dump_json()])
    assert printed.split() == ["landlock", "True", "True", "True", "True"]


LOAD_EACH = """
import os, sys
from pathlib import Path
import torch
from worker.sandbox import SandboxLimits, lock_down
folder, limits = Path(sys.argv[1]), sys.argv[2]
if limits != "open":
    os.chdir(folder / "tmp")  # where Python looks for a folder for temporary files
    lock_down(folder, SandboxLimits.model_validate_json(limits))
for path in sorted((folder / "inputs").glob("*.pt2")):
    try:
        torch.export.load(path).module(check_guards=False)
    except Exception:
        print(path.stem, "raised")
    else:
        print(path.stem, "loaded")
"""


@pytest.fixture(scope="module")
def honest_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_small_net(tmp_path_factory.mktemp("honest") / "honest.pt2")


@pytest.mark.parametrize("locked", [False, True], ids=["open", "locked"])
def test_the_sandbox_alone_stops_every_way_that_torch_export_load_runs_code(
    honest_model: Path, tmp_path: Path, *, locked: bool
) -> None:
    """Without the sandbox each attack makes its marker beside the folder; with it none does. No pre-check here."""
    folder, beside = job_folder(tmp_path / "job"), tmp_path / "beside"
    beside.mkdir()
    (folder.inputs / "honest.pt2").write_bytes(honest_model.read_bytes())
    for attack in ATTACKS:
        attack(honest_model, folder.inputs / f"{attack.__name__}.pt2", beside / attack.__name__)
    printed = run_python(["-c", LOAD_EACH, str(folder.path), LIMITS.model_dump_json() if locked else "open"])
    assert "honest loaded" in printed
    made = {path.name for path in beside.iterdir()}
    assert made == (set() if locked else {attack.__name__ for attack in ATTACKS})


def test_a_process_with_threads_is_not_locked_down(tmp_path: Path) -> None:
    """Filters would not bind threads that run already."""
    release = threading.Event()
    thread = threading.Thread(target=release.wait)
    thread.start()
    try:
        with pytest.raises(RuntimeError, match="threads run already"):
            lock_down(tmp_path, LIMITS)
    finally:
        release.set()
        thread.join()


def test_levels_are_ordered() -> None:
    assert SandboxLevel.LANDLOCK.reaches(SandboxLevel.RLIMITS)
    assert SandboxLevel.RLIMITS.reaches(SandboxLevel.RLIMITS)
    assert not SandboxLevel.NONE.reaches(SandboxLevel.RLIMITS)
