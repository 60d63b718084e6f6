"""The runner: a fresh interpreter that imports torch, is given one folder, runs one job in stages, and exits.

    python -I -m worker.runner SUPERVISOR_PID

It is started with an empty environment and no open file but its three streams (`worker/runner_process.py`). On stdout
it writes one JSON line a message: ready, then progress, then finished or failed. On stdin it reads the start line, and
later a line for each stage that may begin. Tracebacks go to stderr, for the operator; the user is told a code, a
sentence and a hint.

It never touches the upload itself. Each stage is a fork of it, which locks itself down first: what measures an artifact
is a process that has made none, and that costs no second import of torch. Forking after OpenMP has run is safe as long
as it never had more than one thread here, which is insisted on.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import gc
import importlib
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO, NoReturn

from pydantic import BaseModel

from shared.errors import (
    DiskFull,
    InternalError,
    JobError,
    JobOutOfMemory,
    ModelCorrupt,
    OctavoError,
    OutputTooLarge,
    SandboxUnavailable,
)
from shared.job import Step
from shared.model_file import inspect_model
from shared.quantization_spec import BenchmarkSettings, DynamicSpec
from worker.job_folder import JobFolder, JobInputs
from worker.progress import FailedMessage, FinishedMessage, ProgressMessage, Report, Stage, StageMessage
from worker.runner_messages import MAX_LINE_BYTES, THREADS_WAIT, ReadyMessage, StartMessage, Task
from worker.sandbox import lock_down, probe_level, require_single_thread

_PR_SET_PDEATHSIG = 1
_MAX_MESSAGE_CHARACTERS = 8000
_OUT_OF_MEMORY_WORDS = ("can't allocate memory", "not enough memory", "bad alloc", "std::bad_alloc")

Recipes = Mapping[Task, Mapping[Stage, Callable[[JobFolder, Report], object]]]


def main() -> None:
    """Run one job for the supervisor whose process id stands on the command line."""
    die_with_parent(int(sys.argv[1]))
    serve(_load_recipes)


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the thread that started it ends; exit when that has happened already."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def serve(load_recipes: Callable[[], Recipes]) -> None:
    """Warm up, say ready, wait for the start line, run the recipe, exit; never returns."""
    # What prints to fd 1 from now on, in Python or C, cannot corrupt the protocol.
    protocol = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    gc.disable()  # an eighth of the time to import torch is spent on looking for garbage among what it makes
    recipes = load_recipes()
    gc.enable()
    gc.collect()
    gc.freeze()  # torch's own objects live as long as the process: collections in the job need not look at them
    for name in set(os.environ) - set(THREADS_WAIT):  # torch has read what is left, and reports name it
        del os.environ[name]
    if sys.platform == "linux":
        require_single_thread()
    _send(protocol, ReadyMessage(level=probe_level()))
    start = StartMessage.model_validate_json(_next_line())
    for position, (stage, run) in enumerate(recipes[start.task].items()):
        if position:
            _send(protocol, StageMessage(stage=stage))
            _next_line()
        if not _in_a_fork(functools.partial(_run, start, run, protocol)):
            break  # it has said why
    else:
        _send(protocol, FinishedMessage())
    _exit(0)


def _next_line() -> bytes:
    """What the supervisor says; exits when it has no use for this runner any more."""
    line = sys.stdin.buffer.readline(MAX_LINE_BYTES)
    if not line:
        _exit(0)
    return line


def _in_a_fork(run: Callable[[], bool]) -> bool:
    """Whether it succeeded, in a process of its own; one that is killed by a signal takes this one along."""
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        die_with_parent(parent)
        with open(os.devnull, "rb") as nothing:  # noqa: PTH123 - a stream for a descriptor
            os.dup2(nothing.fileno(), 0)
        _exit(0 if run() else 1)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
        os.kill(parent, os.WTERMSIG(status))
    return status == 0


def _exit(code: int) -> NoReturn:
    # Tearing torch down takes longer than many a job, and nothing is left to save.
    sys.stderr.flush()
    os._exit(code)


def _load_recipes() -> Recipes:
    """Import torch and the recipes, and do a job of no use, so that what is loaded on first use is there already."""
    recipes: Recipes = {
        "job": importlib.import_module("worker.recipes").RECIPE,
        "plan": importlib.import_module("worker.plan_recipe").RECIPE,
    }
    import torch  # noqa: PLC0415 - its import takes a second, and must come after the streams are set up

    # torch.fx shows progress by tqdm where that is installed, and tqdm's own thread would stay outside of the sandbox.
    with contextlib.suppress(ImportError):
        importlib.import_module("tqdm").tqdm.monitor_interval = 0
    try:
        with tempfile.TemporaryDirectory() as path:
            folder = JobFolder(Path(path))
            # For torch alone: other runtimes start threads when they are imported, and are for stages to load.
            spec = DynamicSpec(
                method="dynamic",
                model="mdl_" + "0" * 22,
                runtimes=["torch"],
                benchmark=BenchmarkSettings(max_seconds=0.01),
            )
            folder.create(JobInputs(job_id="warm-up", spec=spec, datasets={}, threads=1))
            shapes = ({0: torch.export.Dim.DYNAMIC},)
            program = torch.export.export(torch.nn.Linear(8, 8), (torch.zeros(2, 8),), dynamic_shapes=shapes)
            torch.export.save(program, folder.model)
            for run in recipes["job"].values():
                run(folder, lambda _: None)
    except Exception:  # noqa: BLE001 - it costs the first job a moment, and the job itself will tell
        traceback.print_exc()
    return recipes


def _run(start: StartMessage, run: Callable[[JobFolder, Report], object], protocol: BinaryIO) -> bool:
    """Do one stage; whether it is done. If not, the supervisor has been told why."""
    step: Step | None = None

    def report(message: BaseModel) -> None:
        nonlocal step
        if isinstance(message, ProgressMessage):
            step = message.step
        _send(protocol, message)

    try:
        folder = JobFolder(start.folder)
        _enter(folder, start)
        step = Step.LOAD
        for upload in folder.uploads:
            inspect_model(upload)
        run(folder, report)
    except BaseException as error:  # noqa: BLE001 - whatever a hostile model raises ends in a message
        traceback.print_exc()
        _send(protocol, FailedMessage(error=_explain(error, step)))
        return False
    return True


def _enter(folder: JobFolder, start: StartMessage) -> None:
    """Move into the folder and lock the door."""
    os.chdir(folder.path)
    os.environ.update(HOME=str(folder.tmp), TMPDIR=str(folder.tmp), LANG="C.UTF-8")
    tempfile.tempdir = str(folder.tmp)
    level = lock_down(folder.path, start.limits)
    if not level.reaches(start.min_level):
        raise SandboxUnavailable(
            f"This node reaches the sandbox level {level}; {start.min_level} is required.",
            hint="The operator must run the worker on a kernel with Landlock and seccomp, or lower the required level.",
        )


def _explain(error: BaseException, step: Step | None) -> JobError:
    """The error as the user sees it: no trace, no path, no text of ours that is not meant for them."""
    chain = _chain(error)
    if any(isinstance(link, MemoryError) or _says_out_of_memory(link) for link in chain):
        explained: OctavoError = JobOutOfMemory()
    elif isinstance(error, OctavoError):
        explained = error
    elif any(isinstance(link, OSError) and link.errno == errno.ENOSPC for link in chain):
        explained = DiskFull()
    elif any(isinstance(link, OSError) and link.errno == errno.EFBIG for link in chain):
        explained = OutputTooLarge()
    elif any(type(link).__name__ == "SerializeError" for link in chain):
        explained = ModelCorrupt("PyTorch cannot read the program in the .pt2.")
    else:
        explained = InternalError("The recipe failed in a way that nobody foresaw.")
    described = explained.to_job_error(step.value if step else None)
    return described.model_copy(update={"message": described.message[:_MAX_MESSAGE_CHARACTERS]})


def _chain(error: BaseException) -> list[BaseException]:
    """The error, and those that led to it."""
    links: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in links:
        links.append(following)
        following = following.__cause__ or following.__context__
    return links


def _says_out_of_memory(error: BaseException) -> bool:
    # torch raises a plain RuntimeError when the allocator fails.
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY_WORDS)


def _send(protocol: BinaryIO, message: BaseModel) -> None:
    try:
        protocol.write(message.model_dump_json().encode() + b"\n")
        protocol.flush()
    except BrokenPipeError:  # the supervisor is gone, and with it the use of going on
        os._exit(1)


if __name__ == "__main__":
    main()
