"""What is read of the machine: the kernel's own formats, and this machine for real."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from worker import machine_state
from worker.machine_state import (
    CoreTime,
    MachineState,
    PeakWatch,
    cgroup_cpu_files,
    cgroup_cpu_limit,
    core_times,
    disturbance,
    has_smt,
    load_average,
    read_state,
    resident_bytes,
    siblings_of,
)

PROC_STAT = """\
cpu  400 20 100 1000 50 6 14 30 9 0
cpu0 100 20 30 500 50 2 4 10 9 0
cpu11 300 0 70 500 0 4 10 20 0 0
intr 12345 0
ctxt 1
"""


def state(at: float, own_seconds: float, cores: dict[int, CoreTime], **changes: object) -> MachineState:
    facts: dict[str, object] = {"throttled": 0, "frequencies_khz": {}, "spin_ms": 1.0}
    return MachineState(at=at, own_seconds=own_seconds, cores=cores, **(facts | changes))  # type: ignore[arg-type]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree that stands for /sys."""
    for name, place in (("_CPUS", "cpu"), ("_CGROUPS", "cgroup")):
        monkeypatch.setattr(machine_state, name, tmp_path / place)
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_waiting_and_stolen_time_is_not_busy() -> None:
    """User + nice + system + irq + softirq, in ticks of 10 ms; guests are in user already."""
    assert core_times(PROC_STAT) == {
        0: CoreTime(busy=pytest.approx(1.56), stolen=pytest.approx(0.1)),
        11: CoreTime(busy=pytest.approx(3.84), stolen=pytest.approx(0.2)),
    }


def test_others_are_what_is_busy_without_us() -> None:
    before = state(10.0, 5.0, {0: CoreTime(1.0, 0.0), 1: CoreTime(1.0, 0.0), 2: CoreTime(0.0, 0.0)})
    after = state(12.0, 6.5, {0: CoreTime(3.0, 0.1), 1: CoreTime(1.2, 0.1), 2: CoreTime(1.0, 1.0)}, throttled=4)
    seen = disturbance(before, after, [0, 1])
    assert seen.seconds == 2.0
    assert seen.others == pytest.approx((2.0 + 0.2 - 1.5) / 2)
    assert seen.elsewhere == pytest.approx(0.5)
    assert seen.stolen == pytest.approx(0.1)
    assert seen.throttled == 4


def test_what_cannot_be_read_is_unknown_and_not_nothing() -> None:
    seen = disturbance(state(0.0, 0.0, {}, throttled=None), state(1.0, 1.0, {}, throttled=None), [0])
    assert (seen.others, seen.siblings, seen.elsewhere, seen.stolen, seen.throttled) == (None,) * 5


def test_other_hardware_threads_of_the_same_core_are_told_apart(files: Path) -> None:
    for core, siblings in ((0, "0,2"), (1, "1,3"), (2, "0,2"), (3, "1,3")):
        write(files / f"cpu/cpu{core}/topology/thread_siblings_list", siblings)
    idle = {core: CoreTime(0.0, 0.0) for core in range(4)}
    after = idle | {0: CoreTime(1.0, 0.0), 2: CoreTime(0.7, 0.0), 3: CoreTime(0.3, 0.0)}
    seen = disturbance(state(0.0, 0.0, idle), state(1.0, 1.0, after), [0])
    assert (seen.others, seen.siblings, seen.elsewhere) == pytest.approx((0.0, 0.7, 0.3))


def test_a_changed_frequency_and_a_slower_piece_of_work_are_relative(files: Path) -> None:
    del files
    before = state(0.0, 0.0, {}, frequencies_khz={0: 3e6, 1: 3e6}, spin_ms=1.0)
    seen = disturbance(before, state(1.0, 0.0, {}, frequencies_khz={0: 2e6, 1: 3e6}, spin_ms=1.5), [0, 1])
    assert seen.frequency_change == pytest.approx(-1 / 6)
    assert seen.slowdown == pytest.approx(0.5)


def test_core_lists_hold_ranges(files: Path) -> None:
    write(files / "cpu/cpu1/topology/thread_siblings_list", "0-2,64\n")
    assert siblings_of(1) == {0, 1, 2, 64}
    assert siblings_of(9) == {9}, "a core of which nothing is known is alone"


@pytest.mark.parametrize(("text", "known"), [("1\n", True), ("0\n", False)])
def test_smt_is_what_the_kernel_says(files: Path, text: str, known: bool) -> None:
    assert has_smt() is None
    write(files / "cpu/smt/active", text)
    assert has_smt() is known


def in_cgroup(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    real = machine_state._text
    monkeypatch.setattr(machine_state, "_text", lambda path: text if path == Path("/proc/self/cgroup") else real(path))


def test_the_tightest_limit_of_all_groups_above_counts_in_version_2(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_cgroup(monkeypatch, "0::/pod/box")
    write(files / "cgroup/pod/box/cpu.max", "max 100000\n")
    write(files / "cgroup/pod/cpu.max", "150000 100000\n")
    write(files / "cgroup/pod/cpu.stat", "usage_usec 5\nnr_periods 9\nnr_throttled 2\n")
    write(files / "cgroup/elsewhere/cpu.max", "1 100000\n")
    assert cgroup_cpu_limit() == 1.5
    assert read_state([0]).throttled == 2
    assert [file.relative_to(files).as_posix() for file in cgroup_cpu_files()] == [
        "cgroup/pod/box/cpu.max", "cgroup/pod/cpu.stat", "cgroup/pod/cpu.max",
    ]  # fmt: skip


def test_a_quota_of_version_1_counts_too(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_cgroup(monkeypatch, "4:memory:/box\n3:cpu,cpuacct:/box\n0::/")
    write(files / "cgroup/cpu,cpuacct/box/cpu.cfs_quota_us", "50000")
    write(files / "cgroup/cpu,cpuacct/box/cpu.cfs_period_us", "100000")
    write(files / "cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1")
    write(files / "cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000")
    assert cgroup_cpu_limit() == 0.5


def test_this_machine_tells_of_every_core() -> None:
    cores = sorted(os.sched_getaffinity(0))
    seen = read_state(cores)
    assert set(cores) <= set(seen.cores)
    assert seen.spin_ms > 0
    assert load_average() is not None


def test_a_busy_neighbour_on_our_core_is_seen() -> None:
    """A process that computes on the core that we watch, sleeping: what is busy there is not ours."""
    core = max(os.sched_getaffinity(0))
    spin = f"import os\nos.sched_setaffinity(0, [{core}])\nprint(flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", spin], stdout=subprocess.PIPE) as neighbour:
        try:
            assert neighbour.stdout is not None
            neighbour.stdout.readline()
            before = after = read_state([core])
            # Until it has had a third of a second, however busy the machine is.
            while after.cores[core].busy < before.cores[core].busy + 0.3 and after.at < before.at + 60:
                after = read_state([core])
            used = _seconds_of(neighbour.pid)
        finally:
            neighbour.kill()
    assert used > 0
    assert (disturbance(before, after, [core]).others or 0) > 0


def _seconds_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_the_peak_is_seen_of_memory_that_is_given_back_inside() -> None:
    """128 MiB that are written and freed; a mapping of its own, so that the C library does not keep them."""
    piece = b"x" * 1024**2  # or the C library might keep as many as are written
    size = 128 * len(piece)
    before = resident_bytes()
    with PeakWatch() as watch:
        with mmap.mmap(-1, size) as held:
            for _ in range(size // len(piece)):
                held.write(piece)
            time.sleep(0.05)  # several looks
        after = resident_bytes()
    assert watch.peak_bytes - before > 0.9 * size
    assert after - before < 0.5 * size
