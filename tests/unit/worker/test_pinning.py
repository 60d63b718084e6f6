"""Which cores are chosen, and that all threads of this process really run there and nowhere else, and are let go."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from worker import machine_state
from worker.machine_state import CoreTime
from worker.pinning import choose_cores, pinned_to, quietest_cores

IDLE = {core: CoreTime(0.0, 0.0) for core in range(8)}


@pytest.fixture
def two_threads_a_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cores 0 to 3, each with a second hardware thread, 4 to 7."""
    monkeypatch.setattr(machine_state, "_CPUS", tmp_path)
    for core in range(8):
        place = tmp_path / f"cpu{core}" / "topology"
        place.mkdir(parents=True)
        (place / "thread_siblings_list").write_text(f"{core % 4},{core % 4 + 4}")


@pytest.mark.usefixtures("two_threads_a_core")
def test_every_physical_core_is_taken_once_before_any_is_taken_twice() -> None:
    assert {core % 4 for core in choose_cores(4, range(8), IDLE, IDLE)} == {0, 1, 2, 3}
    assert len(set(choose_cores(6, range(8), IDLE, IDLE))) == 6


@pytest.mark.usefixtures("two_threads_a_core")
def test_busy_cores_are_left_out_and_so_are_their_other_hardware_threads() -> None:
    busy = IDLE | {3: CoreTime(0.1, 0.0), 6: CoreTime(0.1, 0.0)}
    assert {core % 4 for core in choose_cores(2, range(8), IDLE, busy)} == {0, 1}


def test_of_idle_cores_the_last_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_state, "_CPUS", tmp_path)
    assert choose_cores(1, range(8), IDLE, IDLE) == [7]
    assert choose_cores(1, range(8), {}, {}) == [7], "also where nothing can be read"


def test_there_are_as_many_cores_as_threads_and_no_more_than_there_are() -> None:
    available = os.sched_getaffinity(0)
    assert len(quietest_cores(1)) == 1
    assert set(quietest_cores(1)) <= available
    assert quietest_cores(len(available) + 5) == sorted(available)


def affinity_of_all() -> set[frozenset[int]]:
    return {frozenset(os.sched_getaffinity(int(entry.name))) for entry in Path("/proc/self/task").iterdir()}


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core can only be itself")
def test_threads_from_before_and_those_started_inside_are_pinned_and_all_are_let_go() -> None:
    free, core = os.sched_getaffinity(0), max(os.sched_getaffinity(0))
    done = threading.Event()
    threads = [threading.Thread(target=done.wait) for _ in range(2)]
    try:
        threads[0].start()
        with pinned_to([core]):
            threads[1].start()
            assert affinity_of_all() == {frozenset({core})}
        assert affinity_of_all() == {frozenset(free)}
    finally:
        done.set()
        for thread in threads:
            thread.join()


def test_threads_are_let_go_when_the_block_fails() -> None:
    free = os.sched_getaffinity(0)
    with pytest.raises(RuntimeError, match="no"), pinned_to([max(free)]):
        raise RuntimeError("no")
    assert os.sched_getaffinity(0) == free
