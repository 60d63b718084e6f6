"""Runners as real processes: what they tell, what is made of their errors, and how they end."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from shared.job_report import JobReport
from shared.quantization_spec import DynamicSpec
from tests.hostile.models import export_small_net, pickled_sample_inputs, pickled_weight
from worker.job_folder import JobFolder, JobInputs
from worker.progress import Stage
from worker.runner_messages import MAX_LINE_BYTES, THREADS_WAIT, StartMessage
from worker.runner_process import RunnerGarbled, RunnerLost, RunnerProcess
from worker.sandbox import SandboxLevel, SandboxLimits, probe_level

WAIT_SECONDS = 60.0
TOY = """
import ctypes, errno, os, signal, sys, time
from shared.errors import ModelFailed, NothingToQuantize
from shared.job import Step
from worker.progress import LogMessage, MetricMessage, ProgressMessage
from worker.runner import die_with_parent, serve

def recipe(folder, report):
{body}

die_with_parent(int(sys.argv[1]))
serve(lambda: {{"job": dict.fromkeys({stages!r}, recipe)}})
"""
OUT_OF_MEMORY_IN_THE_MODEL = """\
import torch
try:
    torch.empty(2**33, dtype=torch.uint8)
except RuntimeError as error:
    raise ModelFailed("no") from error"""
WRITE_TO_EVERY_PIPE = """\
for fd in range(3, 20):
    if os.path.exists(f"/proc/self/fd/{{fd}}"):
        os.write(fd, {data!r})
time.sleep(600)"""
SUPERVISOR = """\
import threading, time
from worker.runner_process import RunnerProcess
runner = RunnerProcess({command!r})
thread = threading.Thread(target=runner.start)
thread.start()
thread.join()
runner.wait_ready(60)
print(runner.pid, flush=True)
time.sleep(600)"""
Start = Callable[..., RunnerProcess]


def toy_command(body: str, stages: Sequence[Stage] = ("make",)) -> list[str]:
    indented = "\n".join(f"    {line}" for line in body.splitlines())
    return [sys.executable, "-I", "-c", TOY.format(body=indented, stages=list(stages))]


@pytest.fixture(scope="module")
def honest_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_small_net(tmp_path_factory.mktemp("honest") / "honest.pt2")


@pytest.fixture
def folder(tmp_path: Path, honest_model: Path) -> JobFolder:
    folder = JobFolder(tmp_path / "job")
    spec = DynamicSpec(method="dynamic", model="mdl_0123456789abcdef0123")
    folder.create(JobInputs(job_id="job_1", spec=spec, datasets={}, threads=1, sandbox_level=probe_level()))
    folder.model.write_bytes(honest_model.read_bytes())
    return folder


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a runner with a recipe of one's own; all are killed at the end."""
    runners = []

    def start(body: str, *stages: Stage) -> RunnerProcess:
        runner = RunnerProcess(toy_command(body, stages or ("make",)))
        runners.append(runner)
        runner.start()
        assert runner.wait_ready(WAIT_SECONDS) == probe_level()
        return runner

    yield start
    for runner in runners:
        runner.kill()


def job(folder: JobFolder, **limits: int) -> StartMessage:
    return StartMessage(
        folder=folder.path,
        limits=SandboxLimits(**({"memory_bytes": 4 * 1024**3, "file_bytes": 1024**3} | limits)),
        min_level=probe_level(),
    )


def hear(runner: RunnerProcess) -> list[Any]:
    """Everything up to finished or failed; every stage may begin."""
    heard: list[Any] = []
    deadline = time.monotonic() + WAIT_SECONDS
    while not heard or heard[-1].kind not in {"finished", "failed"}:
        assert time.monotonic() < deadline, heard
        for message in runner.messages(1.0):
            heard.append(message)
            if message.kind == "stage":
                runner.go_on()
    return heard


def failure(runner: RunnerProcess, start_message: StartMessage) -> Any:
    runner.run(start_message)
    return hear(runner)[-1].error


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_progress_arrives_in_order_and_prints_do_not_disturb_it(start: Start, folder: JobFolder) -> None:
    runner = start(
        'print("hello")\nos.write(1, b"{broken")\nctypes.CDLL(None).puts(b"from C")\n'
        'report(ProgressMessage(step=Step.LOAD, fraction=0.5, message="half"))\n'
        'report(MetricMessage(data={"name": "loss", "value": float("nan")}))\n'
        'report(LogMessage(kind="warning", message="careful"))'
    )
    runner.run(job(folder))
    assert [message.kind for message in hear(runner)] == ["progress", "metric", "warning", "finished"]


def test_a_runner_cannot_touch_the_log_that_its_words_go_to(
    start: Start, folder: JobFolder, caplog: pytest.LogCaptureFixture
) -> None:
    """It has a pipe: each line bears the job's name and obeys no terminal, and what is too much is dropped."""
    runner = start(
        "try:\n    os.ftruncate(2, 0)\nexcept OSError as error:\n"
        "    os.write(2, errno.errorcode[error.errno].encode() + b'\\n')\n"
        'os.write(2, b"first\\n2026-01-01T00:00:00Z [info] FORGED \\x1b[31m\\n")\n'
        'for _ in range(30):\n    os.write(2, b"x" * 65535 + b"\\n")\n'
    )
    runner.run(job(folder))
    assert hear(runner)[-1].kind == "finished"
    runner.kill()
    lines = [record.getMessage() for record in caplog.records if record.name == "worker.runner_log"]
    assert lines[:3] == [
        "job: EINVAL",
        "job: first",
        "job: 2026-01-01T00:00:00Z [info] FORGED \N{REPLACEMENT CHARACTER}[31m",
    ]
    assert lines[-1] == "job: (what follows is left out)"
    assert sum(map(len, lines)) < 300_000


def test_a_finished_runner_exits_by_itself_with_success(start: Start, folder: JobFolder) -> None:
    runner = start("pass")
    runner.run(job(folder))
    hear(runner)
    wait_until(lambda: not runner.alive())
    runner.kill()
    assert runner.exit_signal is None
    assert runner.rss_bytes() == 0


def test_a_runner_has_an_empty_environment_its_streams_and_its_own_session(start: Start, folder: JobFolder) -> None:
    reader, writer = os.pipe()
    os.set_inheritable(reader, True)
    try:
        runner = start(
            "import json\n"
            "links = [os.readlink(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd') if int(n) > 2"
            " and os.path.exists(f'/proc/self/fd/{n}')]\n"
            "(folder.outputs / 'facts').write_text(json.dumps([dict(os.environ), links, os.getsid(0) == os.getppid(),"
            " os.getcwd()]))"
        )
        pipe = str(Path(f"/proc/self/fd/{reader}").readlink())
        runner.run(job(folder))
        assert hear(runner)[-1].kind == "finished"
    finally:
        os.close(reader)
        os.close(writer)
    environment, links, own_session, directory = json.loads((folder.outputs / "facts").read_text())
    assert environment == {"HOME": str(folder.tmp), "TMPDIR": str(folder.tmp), "LANG": "C.UTF-8", **THREADS_WAIT}
    assert pipe not in links
    assert own_session
    assert directory == str(folder.path)


@pytest.mark.parametrize(
    ("body", "code", "owner"),
    [
        ("raise NothingToQuantize('none of it')", "nothing_to_quantize", "user"),
        ("raise MemoryError", "job_out_of_memory", "user"),
        ("import torch\ntorch.empty(2**33, dtype=torch.uint8)", "job_out_of_memory", "user"),
        (
            OUT_OF_MEMORY_IN_THE_MODEL,
            "job_out_of_memory",
            "user",
        ),
        ("raise OSError(errno.ENOSPC, 'full')", "disk_full", "service"),
        ("(folder.outputs / 'big').write_bytes(bytes(2**21))", "output_too_large", "user"),
        ("sys.exit(0)", "internal_error", "service"),
    ],
)
def test_an_error_becomes_its_code(start: Start, folder: JobFolder, body: str, code: str, owner: str) -> None:
    error = failure(start(body), job(folder, file_bytes=2**20))
    assert (error.code, error.owner) == (code, owner)


def test_an_unforeseen_error_says_nothing_of_its_inside_and_names_the_step(start: Start, folder: JobFolder) -> None:
    body = "report(ProgressMessage(step=Step.CONVERT, fraction=0.5))\nraise ValueError('inner secret')"
    error = failure(start(body), job(folder))
    assert (error.code, error.step) == ("internal_error", "convert")
    assert "secret" not in error.model_dump_json()


def test_a_level_below_the_required_one_refuses_before_the_upload_is_touched(start: Start, folder: JobFolder) -> None:
    """The kernel is said to have no Landlock; the recipe would leave a file."""
    command = toy_command("(folder.outputs / 'touched').touch()")
    command[-1] = command[-1].replace(
        "die_with_parent(int", "import landlockpy\nlandlockpy.supported = lambda: False\ndie_with_parent(int"
    )
    runner = RunnerProcess(command)
    runner.start()
    try:
        assert runner.wait_ready(WAIT_SECONDS) is SandboxLevel.RLIMITS
        required = job(folder).model_copy(update={"min_level": SandboxLevel.LANDLOCK})
        assert failure(runner, required).code == "sandbox_unavailable"
    finally:
        runner.kill()
    assert not (folder.outputs / "touched").exists()


@pytest.mark.parametrize("attack", [pickled_weight, pickled_sample_inputs])
def test_a_hostile_model_is_refused_before_it_is_loaded(
    start: Start, folder: JobFolder, honest_model: Path, attack: Callable[[Path, Path, Path], Path]
) -> None:
    marker = folder.tmp / "marker"  # where the sandbox would let it be made
    attack(honest_model, folder.model, marker)
    runner = start("import torch\ntorch.export.load(folder.model)")
    assert failure(runner, job(folder)).code == "model_unsafe"
    assert not marker.exists()


def test_each_stage_is_a_process_of_its_own_and_waits_until_it_may_begin(start: Start, folder: JobFolder) -> None:
    """Nothing of one is in the memory of the next; both are locked down; and no stage begins before it is told to."""
    runner = start(
        "ids = folder.tmp / 'ids'\nsys.seen = getattr(sys, 'seen', 0) + 1\n"
        "with ids.open('a') as file: file.write(f'{os.getpid()} {sys.seen}\\n')\n"
        "try:\n    open('/etc/passwd')\nexcept PermissionError:\n    report(LogMessage(kind='log', message='locked'))",
        "make",
        "export",
    )
    runner.run(job(folder))
    heard: list[Any] = []
    while not heard or heard[-1].kind != "stage":
        heard += runner.messages(WAIT_SECONDS)
    time.sleep(0.3)  # what it would need to begin all the same
    ids = (folder.tmp / "ids").read_text().split("\n")
    assert len(ids) == 2
    runner.go_on()
    heard += hear(runner)
    assert [message.kind for message in heard] == ["log", "stage", "log", "finished"]
    (first, seen), (second, seen_again) = (line.split() for line in (folder.tmp / "ids").read_text().splitlines())
    assert len({first, second, str(runner.pid)}) == 3
    assert seen == seen_again == "1"


def test_a_stage_that_is_killed_takes_the_runner_along(start: Start, folder: JobFolder) -> None:
    runner = start("os.kill(os.getpid(), signal.SIGKILL)", "make", "export")
    runner.run(job(folder))
    with pytest.raises(RunnerLost):
        hear(runner)
    runner.kill()
    assert runner.exit_signal is signal.SIGKILL


def test_a_stage_that_fails_is_the_last(start: Start, folder: JobFolder) -> None:
    runner = start("raise NothingToQuantize('none of it')", "make", "export")
    runner.run(job(folder))
    assert [message.kind for message in hear(runner)] == ["failed"]


def test_a_stage_is_killed_with_its_runner_and_its_memory_counts(start: Start, folder: JobFolder) -> None:
    runner = start("block = bytearray(200 * 2**20)\n(folder.tmp / 'id').write_text(str(os.getpid()))\ntime.sleep(600)")
    runner.run(job(folder))
    wait_until(lambda: (folder.tmp / "id").exists() and (folder.tmp / "id").read_text() != "")
    stage = Path(f"/proc/{(folder.tmp / 'id').read_text()}")
    assert runner.rss_bytes() > 200 * 2**20
    runner.kill()
    wait_until(lambda: not stage.exists() or "State:\tZ" in (stage / "status").read_text())


def test_a_runner_that_asks_for_a_stage_out_of_turn_is_garbled(start: Start, folder: JobFolder) -> None:
    runner = start(WRITE_TO_EVERY_PIPE.format(data=b'{"kind": "stage", "stage": "measure"}\n'))
    runner.run(job(folder))
    with pytest.raises(RunnerGarbled, match="out of turn"):
        hear(runner)


@pytest.mark.parametrize(
    "body",
    [
        WRITE_TO_EVERY_PIPE.format(data=b"garbage\n"),
        WRITE_TO_EVERY_PIPE.format(data=b"x" * (MAX_LINE_BYTES + 1)),
    ],
    ids=["no JSON", "endless line"],
)
def test_garbage_on_the_protocol_is_noticed(start: Start, folder: JobFolder, body: str) -> None:
    runner = start(body)
    runner.run(job(folder))
    with pytest.raises(RunnerGarbled):
        hear(runner)


def test_a_crash_is_noticed_and_its_signal_is_known(start: Start, folder: JobFolder) -> None:
    runner = start("os.kill(os.getpid(), signal.SIGSEGV)")
    runner.run(job(folder))
    with pytest.raises(RunnerLost):
        hear(runner)
    runner.kill()
    assert runner.exit_signal is signal.SIGSEGV


def test_kill_ends_a_runner_whatever_it_does_and_may_be_called_again(start: Start, folder: JobFolder) -> None:
    runner = start("signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: pass")
    runner.run(job(folder))
    assert runner.alive()
    assert runner.rss_bytes() > 2**20
    runner.kill()
    runner.kill()
    assert not runner.alive()
    assert runner.exit_signal is signal.SIGKILL


def test_kill_from_another_thread_wakes_who_listens(start: Start, folder: JobFolder) -> None:
    runner = start("time.sleep(600)")
    runner.run(job(folder))
    killer = threading.Timer(0.2, runner.kill)
    killer.start()
    with pytest.raises(RunnerLost):
        runner.messages(WAIT_SECONDS)
    killer.join()
    assert not runner.alive()


def test_a_silent_runner_yields_no_message_and_is_not_waited_for(start: Start, folder: JobFolder) -> None:
    runner = start("time.sleep(600)")
    runner.run(job(folder))
    assert runner.messages(0.05) == []


def test_a_runner_that_cannot_start_is_lost() -> None:
    runner = RunnerProcess([sys.executable, "-I", "-c", "raise SystemExit(3)"])
    runner.start()
    with pytest.raises(RunnerLost):
        runner.wait_ready(WAIT_SECONDS)
    runner.kill()


def test_a_runner_dies_with_its_supervisor_and_not_with_the_thread_that_asked_for_it() -> None:
    """A supervisor starts a runner from a thread that ends, tells its id, and is killed."""
    supervisor = subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR.format(command=toy_command("pass"))],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert supervisor.stdout is not None
        runner = Path(f"/proc/{int(supervisor.stdout.readline())}")
        assert runner.exists()
    finally:
        supervisor.kill()
        supervisor.communicate()
    wait_until(lambda: not runner.exists() or "State:\tZ" in (runner / "status").read_text())


def test_the_real_runner_does_a_real_job(folder: JobFolder) -> None:
    runner = RunnerProcess()
    runner.start()
    try:
        runner.wait_ready(WAIT_SECONDS)
        runner.run(job(folder))
        heard = hear(runner)
    finally:
        runner.kill()
    assert heard[-1].kind == "finished", heard[-1]
    assert [message.stage for message in heard if message.kind == "stage"] == ["export", "verify", "measure"]
    report = JobReport.model_validate_json((folder.outputs / "report.json").read_bytes())
    timed = {each.int8_candidate for each in report.layer_times}
    assert timed == {each.name for each in report.latency[0].speedups}, "profilers work in the sandbox"
