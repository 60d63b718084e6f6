"""RAPL on a made-up powercap tree of the kernel's own format; no machine that these tests run on need have counters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from worker import energy, sandbox
from worker.energy import NOT_FOR_ALL, NOT_THERE, energy_counter, energy_files, why_no_energy

RANGE_UJ = 262_143_328_850  # of an Intel server
MakeDomain = Callable[..., Path]


@pytest.fixture
def make_domain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeDomain:
    """A control type's folder of links, as sysfs has it; the tests' user owns the files, and root reads whatever."""
    links, devices = tmp_path / "class/powercap", tmp_path / "devices/virtual/powercap/intel-rapl"
    links.mkdir(parents=True)
    monkeypatch.setattr(energy, "_POWERCAP", links)

    def make(zone: str, name: str, uj: int, *, mode: int = 0o444, range_uj: int = RANGE_UJ) -> Path:
        folder = devices / zone
        folder.mkdir(parents=True)
        (folder / "name").write_text(f"{name}\n")
        (folder / "energy_uj").write_text(f"{uj}\n")
        (folder / "max_energy_range_uj").write_text(f"{range_uj}\n")
        (folder / "energy_uj").chmod(mode)
        (links / zone).symlink_to(folder)
        return folder / "energy_uj"

    return make


def counting(file: Path, uj: int, range_uj: int = RANGE_UJ) -> Callable[[], None]:
    """A run that takes so many microjoules."""

    def run() -> None:
        file.chmod(0o644)
        file.write_text(f"{(int(file.read_text()) + uj) % range_uj}\n")

    return run


def test_a_run_takes_what_the_counter_went_on_by(make_domain: MakeDomain) -> None:
    file = make_domain("intel-rapl:0", "package-0", 41_000_000)
    counter = energy_counter()
    assert counter is not None
    assert counter.joules_of(counting(file, 2500), 0.01) == pytest.approx(0.0025)


def test_all_packages_count_and_their_parts_do_not(make_domain: MakeDomain) -> None:
    """`intel-rapl:0:0` are the cores of a package; `psys` is the whole board."""
    first = make_domain("intel-rapl:0", "package-0", 5)
    second = make_domain("intel-rapl:1", "package-1", 7)
    others = [make_domain("intel-rapl:2", "psys", 0), make_domain("intel-rapl:0:0", "core", 0)]
    runs = [counting(file, 1000) for file in (first, second, *others)]
    counter = energy_counter()
    assert counter is not None
    assert counter.joules_of(lambda: [run() for run in runs], 0.01) == pytest.approx(0.002)


def test_a_counter_that_begins_anew_is_followed(make_domain: MakeDomain) -> None:
    """An AMD's counter, a little before its end."""
    range_uj = 65_532_610_987
    file = make_domain("intel-rapl:0", "package-0", range_uj - 1500, range_uj=range_uj)
    counter = energy_counter()
    assert counter is not None
    assert counter.joules_of(counting(file, 1000, range_uj), 0.0) == pytest.approx(0.001)


def test_without_the_tree_there_is_none(make_domain: MakeDomain) -> None:
    assert energy_counter() is None
    assert energy_files() == []
    assert why_no_energy() == NOT_THERE


def test_counters_of_root_alone_are_not_for_jobs(make_domain: MakeDomain) -> None:
    make_domain("intel-rapl:0", "package-0", 0)
    make_domain("intel-rapl:1", "package-1", 0, mode=0o400)
    assert energy_files() == []
    assert why_no_energy() == NOT_FOR_ALL


def test_a_counter_that_cannot_be_read_leaves_no_part_of_the_whole(make_domain: MakeDomain) -> None:
    make_domain("intel-rapl:0", "package-0", 0)
    broken = make_domain("intel-rapl:1", "package-1", 0, mode=0o644)
    broken.write_text("")
    assert energy_counter() is None


def test_the_sandbox_opens_the_counters_that_all_may_read_where_they_really_lie(make_domain: MakeDomain) -> None:
    """Landlock's rules are of files, not of links to them."""
    file = make_domain("intel-rapl:0", "package-0", 0)
    opened = sandbox._readable_paths()
    assert {str(file), str(file.with_name("name")), str(file.with_name("max_energy_range_uj"))} <= set(opened)
    file.chmod(0o400)
    assert str(file) not in sandbox._readable_paths()
