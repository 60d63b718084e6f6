"""Which workers may run a job, and what is said when none may."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from shared.database.records import WorkerRecord
from shared.hardware import lacks, recipients, waiting_for
from shared.quantization_spec import Hardware
from shared.settings import Settings, WorkerSettings
from tests.services.workers import described


def worker(worker_id: str = "wrk_1", **changes: Any) -> WorkerRecord:
    return WorkerRecord(worker_id, described(**changes), "idle", 0.0, 0.0)


EPYC = {"cpu_model": "AMD EPYC 9354 32-Core Processor", "isa": ["avx2", "avx512_vnni"]}


@pytest.mark.parametrize(
    ("asked", "lacking"),
    [
        ({}, []),
        ({"isa": ["avx512_vnni"]}, []),
        ({"isa": ["amx_int8", "avx2", "avx_vnni"]}, ["amx_int8", "avx_vnni"]),
        ({"cpu": "AMD EPYC 9*"}, []),
        ({"cpu": "amd epyc*"}, []),
        ({"cpu": "EPYC"}, ["a CPU like 'EPYC'"]),
        ({"labels": {"pool": "edge"}}, []),
        ({"labels": {"pool": "Edge", "rack": "7"}}, ["pool=Edge", "rack=7"]),
    ],
)
def test_a_worker_lacks_what_it_has_not(asked: dict[str, Any], lacking: list[str]) -> None:
    """Instruction sets and labels are compared exactly, the CPU model as a glob without regard to capitals."""
    assert lacks(described(**EPYC, labels={"pool": "edge"}), Hardware(**asked)) == lacking


def test_a_job_that_asks_for_nothing_may_run_anywhere_and_waits_only_for_a_worker() -> None:
    assert recipients(None, []) == [None]
    assert recipients(None, [worker()]) == [None]
    assert waiting_for(None, [worker()]) is None
    assert waiting_for(None, []) == "No worker is alive."


def test_hints_go_to_every_worker_that_has_the_hardware() -> None:
    workers = [worker("wrk_1"), worker("wrk_2", **EPYC), worker("wrk_3", **EPYC)]
    hardware = Hardware(isa=["avx512_vnni"])
    assert recipients(hardware, workers) == ["wrk_2", "wrk_3"]
    assert recipients(hardware, workers[:1]) == []
    assert waiting_for(hardware, workers) is None


def test_the_reason_names_what_each_worker_lacks_the_nearest_first() -> None:
    hardware = Hardware(isa=["avx512_vnni"], labels={"pool": "edge"})
    workers = [worker(hostname="a"), worker(hostname="b", cpu_model="AMD EPYC", isa=["avx512_vnni"])]
    assert waiting_for(hardware, workers) == (
        "No live worker has avx512_vnni and pool=edge: b (AMD EPYC) lacks pool=edge; "
        "a (a CPU) lacks avx512_vnni and pool=edge."
    )
    assert waiting_for(hardware, []) == "No worker is alive; this job asks for avx512_vnni and pool=edge."


def test_the_reason_stays_short_however_many_workers_there_are() -> None:
    reason = waiting_for(Hardware(cpu="Graviton*"), [worker(hostname=f"n{number}") for number in range(50)])
    assert reason is not None
    assert reason.startswith("No live worker has a CPU like 'Graviton*': n0 (a CPU) lacks")
    assert reason.endswith("; and 47 more.")
    assert len(reason) < 300


def test_labels_that_the_worker_finds_itself_cannot_be_given() -> None:
    for name in ("arch", "cpu.vendor", "isa.avx2"):
        with pytest.raises(ValidationError, match="finds"):
            WorkerSettings(labels={name: "x"})
    with pytest.raises(ValidationError, match="pattern"):
        WorkerSettings(labels={"a=b": "x"})


def test_labels_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCTAVO_WORKER__LABELS", '{"pool": "edge"}')
    assert Settings().worker.labels == {"pool": "edge"}
    assert Settings(worker={"labels": {"rack": "7"}}).worker.labels == {"pool": "edge", "rack": "7"}


@pytest.mark.parametrize("cpu", ["*", "***", "?*"])
def test_a_demand_that_every_cpu_meets_is_none(cpu: str) -> None:
    with pytest.raises(ValidationError, match="leave `cpu` out"):
        Hardware(cpu=cpu)


def test_the_same_demand_is_the_same_text() -> None:
    assert Hardware(cpu="AMD **") == Hardware(cpu="AMD *")
