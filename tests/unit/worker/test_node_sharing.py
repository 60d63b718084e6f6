"""Supervisors as real processes, each with a child that counts as fast as it can and is stopped by real signals."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest

from tests.services.process import wait_until
from worker.node_sharing import NodeShare, NodeSharing

ROOT = Path(__file__).parents[3]
# A count in a file, as many times a second as it gets to run; it dies with the thread that started it.
COUNTER = """
import ctypes, mmap, os, signal, struct, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv[2]):
    os._exit(1)
with open(sys.argv[1], "r+b") as file:
    memory = mmap.mmap(file.fileno(), 8)
count = 0
while True:
    count += 1
    memory[:] = struct.pack("q", count)
"""
# On `measure` it has the node alone until the next line. It dies of finding another that has it at the same time.
SUPERVISOR = """
import fcntl, sys
from pathlib import Path
from tests.unit.worker.test_node_sharing import Counter
from worker.node_sharing import NodeSharing

folder, counter = Path(sys.argv[1]), Counter.started(Path(sys.argv[2]))
with NodeSharing(folder / "node").computing(pause=counter.pause, resume=counter.resume) as share:
    print(counter.pid, flush=True)
    for line in sys.stdin:
        print("waits", flush=True)
        with share.alone(lambda: None):
            with (folder / "alone").open("a") as alone:
                fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
                print("alone", flush=True)
                sys.stdin.readline()
        print("shares", flush=True)
counter.process.kill()
"""


class Cancelled(Exception):
    """What a check raises."""


class Counter:
    """A runner that computes."""

    def __init__(self, path: Path, pid: int) -> None:
        self._path = path
        self.pid = pid
        self.process: Any = None

    @classmethod
    def started(cls, path: Path) -> Counter:
        path.write_bytes(bytes(8))
        process = subprocess.Popen([sys.executable, "-c", COUNTER, str(path), str(os.getpid())], start_new_session=True)
        counter = cls(path, process.pid)
        counter.process = process
        return counter

    @property
    def count(self) -> int:
        return int(struct.unpack("q", self._path.read_bytes())[0])

    def pause(self) -> None:
        """Returns when all of it has stopped, or it is dead; its end is left to be seen by others."""
        os.killpg(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        os.killpg(self.pid, signal.SIGCONT)

    def stands_still(self) -> bool:
        """Whether the kernel has stopped it, or it is no more."""
        try:
            state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        return state in "TZ"

    def goes_on(self) -> None:
        """Wait until it counts."""
        before = self.count
        wait_until(lambda: self.count > before, "the counter to go on")


@dataclass
class Supervisor:
    """A process that shares the node, and its runner."""

    process: subprocess.Popen[str]
    counter: Counter

    def say(self, *lines: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("".join(f"{line}\n" for line in lines))
        self.process.stdin.flush()

    def expect(self, line: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == f"{line}\n"

    def ask_for_the_node(self) -> None:
        self.say("measure")
        self.expect("waits")

    def measure(self) -> None:
        """Returns when it has the node alone."""
        self.ask_for_the_node()
        self.expect("alone")

    def share(self) -> None:
        """Returns when it has let go of the node."""
        self.say("done")
        self.expect("shares")


Start = Callable[[], Supervisor]


@pytest.fixture
def node(tmp_path: Path) -> Path:
    return tmp_path / "node"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start supervisors on one node, each with a runner that has begun to count or stands still."""
    with contextlib.ExitStack() as stack:

        def start_one() -> Supervisor:
            path = tmp_path / f"count-{len(list(tmp_path.glob('count-*')))}"
            process = subprocess.Popen(
                [sys.executable, "-c", SUPERVISOR, str(tmp_path), str(path)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.callback(end, process)
            assert process.stdout is not None
            return Supervisor(process, Counter(path, int(process.stdout.readline())))

        yield start_one


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        assert stream is not None
        with contextlib.suppress(BrokenPipeError):
            stream.close()


@pytest.fixture
def counter(tmp_path: Path) -> Iterator[Counter]:
    """A runner of the test process's own."""
    counter = Counter.started(tmp_path / "own-count")
    counter.goes_on()
    yield counter
    counter.process.kill()
    counter.process.wait()


@pytest.fixture
def bystander(tmp_path: Path) -> Iterator[Counter]:
    """A process that no supervisor knows: while it counts on, time passes in which a runner could have counted."""
    counter = Counter.started(tmp_path / "bystander")
    yield counter
    counter.process.kill()
    counter.process.wait()


def assert_stands_still(counter: Counter, bystander: Counter) -> None:
    """It does not count while another process counts for a while."""
    assert counter.stands_still()
    before, others = counter.count, bystander.count
    wait_until(lambda: bystander.count > others + 10_000, "the bystander to count")
    assert counter.count == before


def held_locks(node: Path) -> set[str]:
    """The names of the locks that somebody holds, in whichever way."""
    return {path.name for path in node.iterdir() if is_held(path)}


def is_held(path: Path) -> bool:
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def held_by_another(node: Path, name: str, operation: int) -> IO[str]:
    """A lock held until it is closed, as by a supervisor that never lets go."""
    NodeSharing(node)
    file = (node / name).open()
    fcntl.flock(file, operation | fcntl.LOCK_NB)
    return file


def at_the_third(act: Callable[[], None]) -> Callable[[], None]:
    """A check that does this when it is called for the third time."""
    calls = iter([nothing, nothing, act])

    def check() -> None:
        next(calls, nothing)()

    return check


def cancel() -> None:
    raise Cancelled


def nothing() -> None:
    """A check that lets it wait, and a runner that is nobody."""


# --- one measures, others stand still ---


def test_a_runner_stands_still_while_another_measures_and_goes_on_afterwards(start: Start, bystander: Counter) -> None:
    computing, measuring = start(), start()
    computing.counter.goes_on()
    measuring.measure()
    assert_stands_still(computing.counter, bystander)
    measuring.counter.goes_on()
    measuring.share()
    computing.counter.goes_on()
    measuring.counter.goes_on()


def test_a_runner_that_starts_while_another_measures_begins_standing_still(start: Start, bystander: Counter) -> None:
    measuring = start()
    measuring.measure()
    late = start()
    assert_stands_still(late.counter, bystander)
    measuring.share()
    late.counter.goes_on()


def test_two_jobs_of_one_process_exclude_each_other(node: Path, counter: Counter, bystander: Counter) -> None:
    sharing = NodeSharing(node)
    with (
        sharing.computing(pause=counter.pause, resume=counter.resume),
        sharing.computing(pause=nothing, resume=nothing) as measuring,
    ):
        counter.goes_on()
        with measuring.alone(nothing):
            assert_stands_still(counter, bystander)
        counter.goes_on()


def test_the_own_runner_stands_still_while_another_measures_first(start: Start, bystander: Counter) -> None:
    """It may not disturb the measurement that it waits for."""
    first, second = start(), start()
    first.measure()
    second.ask_for_the_node()
    wait_until(second.counter.stands_still, "the one that waits to stand still")
    assert_stands_still(second.counter, bystander)
    first.share()
    second.expect("alone")
    second.counter.goes_on()
    wait_until(first.counter.stands_still, "the first to make way")


def test_the_own_runner_stands_still_while_others_have_not_let_go(
    node: Path, counter: Counter, bystander: Counter
) -> None:
    def look() -> None:
        assert_stands_still(counter, bystander)
        raise Cancelled

    computing = held_by_another(node, "computing", fcntl.LOCK_SH)
    with (
        pytest.raises(Cancelled),
        NodeSharing(node).computing(pause=counter.pause, resume=counter.resume) as share,
        share.alone(look),
    ):
        pytest.fail("it has the node, which is not free")
    computing.close()


def test_those_who_measure_at_once_do_it_one_after_the_other(start: Start) -> None:
    first, *others = supervisors = [start() for _ in range(4)]
    first.measure()
    for each in others:
        each.ask_for_the_node()
        each.say("done", "measure", "done")
    first.share()
    for each in others:
        for line in ("alone", "shares", "waits", "alone", "shares"):
            each.expect(line)
    for each in supervisors:
        each.counter.goes_on()


# --- somebody dies ---


def test_the_death_of_the_one_that_measures_frees_those_who_wait(start: Start, bystander: Counter) -> None:
    computing, measuring, waiting = start(), start(), start()
    measuring.measure()
    waiting.ask_for_the_node()
    assert_stands_still(computing.counter, bystander)
    measuring.process.kill()
    computing.counter.goes_on()
    waiting.expect("alone")
    assert_stands_still(computing.counter, bystander)


def test_the_death_of_one_that_waits_or_stands_still_is_no_hindrance(start: Start) -> None:
    computing, measuring, waiting, last = start(), start(), start(), start()
    measuring.measure()
    waiting.ask_for_the_node()
    assert computing.counter.stands_still()
    for each in (computing, waiting):
        each.process.kill()
        each.process.wait()
    measuring.share()
    last.measure()


def test_a_runner_killed_while_it_stands_still_ends_its_share_at_once(
    start: Start, node: Path, counter: Counter, bystander: Counter
) -> None:
    measuring, computing = start(), start()
    with NodeSharing(node).computing(pause=counter.pause, resume=counter.resume):
        measuring.measure()
        assert_stands_still(counter, bystander)
        counter.process.kill()
        assert counter.process.wait() == -signal.SIGKILL
    assert_stands_still(computing.counter, bystander)
    measuring.share()
    computing.counter.goes_on()


def test_a_runner_that_died_unseen_hinders_no_measurement(start: Start, node: Path, counter: Counter) -> None:
    measuring = start()
    with NodeSharing(node).computing(pause=counter.pause, resume=counter.resume):
        counter.process.kill()
        os.waitid(os.P_PID, counter.pid, os.WEXITED | os.WNOWAIT)
        measuring.measure()
        measuring.share()
        measuring.measure()


# --- somebody gives up ---


@pytest.mark.parametrize("name", ["measuring", "computing", "turn"])
def test_a_check_that_raises_while_it_waits_leaves_nothing_locked(node: Path, counter: Counter, name: str) -> None:
    """Whichever of the three it waits for."""
    in_the_way = held_by_another(node, name, fcntl.LOCK_SH)
    with (
        pytest.raises(Cancelled),
        NodeSharing(node).computing(pause=counter.pause, resume=counter.resume) as share,
        share.alone(at_the_third(cancel)),
    ):
        pytest.fail("it has the node, which is not free")
    assert held_locks(node) == {name}
    in_the_way.close()
    assert held_locks(node) == set()
    assert {path.name for path in node.iterdir()} == {"computing", "measuring", "turn"}


def test_a_check_that_raises_is_not_the_end_of_the_share(node: Path, counter: Counter) -> None:
    in_the_way = held_by_another(node, "computing", fcntl.LOCK_SH)
    with NodeSharing(node).computing(pause=counter.pause, resume=counter.resume) as share:
        with pytest.raises(Cancelled), share.alone(at_the_third(cancel)):
            pytest.fail("it has the node, which is not free")
        assert not is_held(node / "measuring")
        counter.goes_on()
        in_the_way.close()
        with share.alone(nothing):
            counter.goes_on()


def test_what_is_raised_while_it_measures_is_passed_on_and_the_node_is_free(
    start: Start, node: Path, counter: Counter, bystander: Counter
) -> None:
    computing = start()

    def measure(share: NodeShare) -> None:
        with share.alone(nothing):
            assert_stands_still(computing.counter, bystander)
            raise Cancelled

    with NodeSharing(node).computing(pause=counter.pause, resume=counter.resume) as share:
        with pytest.raises(Cancelled):
            measure(share)
        computing.counter.goes_on()
        counter.goes_on()


# --- each in its turn ---


def test_between_two_measurements_a_runner_that_stood_still_goes_on(start: Start) -> None:
    """Two that always want to measure do not starve the third."""
    computing, *measuring = start(), start(), start()
    measuring[0].measure()
    for round_ in range(4):
        now, following = measuring[round_ % 2], measuring[(round_ + 1) % 2]
        following.ask_for_the_node()
        wait_until(computing.counter.stands_still, "the runner to stand still")
        before = computing.counter.count
        time.sleep(0.5)  # its turn lasts as long: enough for a busy machine to let it count
        now.share()
        following.expect("alone")
        assert computing.counter.count > before


def test_nobody_measures_before_the_turn_has_lasted_as_long_as_the_pause(node: Path, counter: Counter) -> None:
    resumed_at = []

    def resume() -> None:
        resumed_at.append(time.monotonic())
        counter.resume()

    measuring = held_by_another(node, "measuring", fcntl.LOCK_EX)
    with (
        NodeSharing(node).computing(pause=counter.pause, resume=resume) as paused,
        NodeSharing(node).computing(pause=nothing, resume=nothing) as waiting,
    ):
        wait_until(lambda: is_held(node / "turn"), "the turn to be claimed")
        wait_until(lambda: paused.paused_seconds > 1, "a pause of a second")
        measuring.close()
        with waiting.alone(nothing):
            turn_seconds = time.monotonic() - resumed_at[0]
    assert turn_seconds > 1


# --- the time that stands still ---


def test_paused_seconds_count_pauses_and_waits_and_not_measurements(
    start: Start, node: Path, counter: Counter, bystander: Counter
) -> None:
    measuring = start()
    with NodeSharing(node).computing(pause=counter.pause, resume=counter.resume) as share:
        counter.goes_on()
        assert share.paused_seconds == 0
        measuring.measure()
        wait_until(lambda: share.paused_seconds > 0.3, "a pause")
        measuring.share()
        counter.goes_on()
        paused_seconds = share.paused_seconds
        assert paused_seconds > 0.3
        counter.goes_on()
        assert share.paused_seconds == paused_seconds

        measuring.measure()
        with share.alone(at_the_third(measuring.share)):
            waited_until = share.paused_seconds
            assert waited_until > paused_seconds
            bystander.goes_on()
            assert share.paused_seconds == waited_until


# --- where it cannot be ---


def assert_no_exclusion(node: Path, counter: Counter, log: pytest.LogCaptureFixture, why: str) -> None:
    """It says so once, and the runner computes while another measures."""
    with log.at_level(logging.WARNING):
        sharing = NodeSharing(node)
        with (
            sharing.computing(pause=counter.pause, resume=counter.resume),
            sharing.computing(pause=nothing, resume=nothing) as measuring,
            measuring.alone(nothing),
        ):
            counter.goes_on()
    (record,) = log.records
    assert "do not make way" in record.message
    assert why in record.message


def test_a_folder_that_cannot_be_made_means_no_exclusion(
    tmp_path: Path, counter: Counter, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    assert_no_exclusion(tmp_path / "file" / "node", counter, caplog, "Not a directory")


def test_a_file_system_without_locks_means_no_exclusion(
    node: Path, counter: Counter, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_descriptor: int, _operation: int) -> None:
        raise OSError(95, "Operation not supported")

    before = len(list(Path("/proc/self/fd").iterdir()))
    with monkeypatch.context() as patched:
        patched.setattr(fcntl, "flock", refuse)
        assert_no_exclusion(node, counter, caplog, "Operation not supported")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize("mode", [0o701, 0o710, 0o777, 0o1777])
def test_a_folder_that_others_can_enter_is_not_used(
    node: Path, counter: Counter, caplog: pytest.LogCaptureFixture, mode: int
) -> None:
    """They could hold a lock and with it every job."""
    node.mkdir()
    node.chmod(mode)
    assert_no_exclusion(node, counter, caplog, "Not this user's alone")
    assert list(node.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_somebody_else_is_not_used(node: Path, counter: Counter, caplog: pytest.LogCaptureFixture) -> None:
    node.mkdir(mode=0o700)
    os.chown(node, 12345, 12345)
    assert_no_exclusion(node, counter, caplog, "Not this user's alone")


def test_nobody_else_can_open_what_it_makes(node: Path) -> None:
    NodeSharing(node)
    assert node.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in node.iterdir()} == {0o600}
