"""The reconciler on a real database and object store: what it frees, sends again and sweeps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shared.database import Database, migrate
from shared.database.job_repository import JobRepository
from shared.database.object_repository import ObjectRepository
from shared.database.records import PartRecord
from shared.database.worker_repository import WorkerRepository
from shared.errors import NotFound
from shared.job import JobStatus
from shared.object_store import LocalStore, part_key, upload_prefix
from shared.quantization_spec import spec_adapter
from shared.reconciler import Reconciler
from shared.settings import JobSettings
from tests.services.workers import described


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    url = f"sqlite:///{tmp_path / 'octavo.sqlite3'}"
    migrate(url)
    database = Database(url)
    yield database
    database.close()


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    store = LocalStore(tmp_path / "objects")
    store.prepare()
    return store


def reconciler_of(
    database: Database, store: LocalStore, publish: Callable[[str, str | None], bool], *, free_slots: int = 0
) -> Reconciler:
    """The one of the worker `wrk_1`, which has nothing that a job could ask for."""
    return Reconciler(
        database,
        store,
        publish,
        JobSettings(),
        worker_id="wrk_1",
        worker=described(),
        free_slots=lambda: free_slots,
    )


def open_upload(database: Database, *, expire_seconds: float) -> str:
    with database.write() as connection:
        return (
            ObjectRepository(connection)
            .open_upload(
                kind="model",
                name=None,
                filename=None,
                size_bytes=2,
                sha256=None,
                part_size_bytes=1,
                expire_seconds=expire_seconds,
            )
            .id
        )


def put_part(store: LocalStore, tmp_path: Path, upload_id: str, number: int) -> None:
    path = tmp_path / f"{upload_id}-{number}"
    path.write_bytes(b"x")
    store.put_part(part_key(upload_id, number), path, "")


def test_an_expired_upload_is_swept_with_parts_that_no_row_names(
    database: Database, store: LocalStore, tmp_path: Path
) -> None:
    """A request that was killed between the store and the database leaves such a part; open uploads keep theirs."""
    expired, still_open = (open_upload(database, expire_seconds=seconds) for seconds in (-1, 600))
    for upload_id in (expired, still_open):
        put_part(store, tmp_path, upload_id, 1)
        put_part(store, tmp_path, upload_id, 2)
        with database.write() as connection:
            part = PartRecord(number=1, size_bytes=1, sha256="0" * 64)
            ObjectRepository(connection).add_part(upload_id, part)
    reconciler_of(database, store, lambda _, __: True).reconcile()
    assert list(store.list(upload_prefix(expired))) == []
    assert len(list(store.list(upload_prefix(still_open)))) == 2
    with database.read() as connection:
        with pytest.raises(NotFound):
            ObjectRepository(connection).get_upload(expired)
        assert [part.number for part in ObjectRepository(connection).get_upload(still_open).parts] == [1]


def test_a_lost_job_is_freed_and_the_oldest_jobs_are_hinted_at_for_idle_workers(
    database: Database, store: LocalStore
) -> None:
    """The first pass sends every hint; the second, within the time of patience, only what an idle worker asks for."""
    spec = spec_adapter.validate_python({"method": "dynamic", "model": "mdl_" + "0" * 23})
    with database.write() as connection:
        lost, *waiting = (JobRepository(connection).create(spec).id for _ in range(3))
        claim = JobRepository(connection).claim(lost, worker_id="wrk_1", lease_seconds=-1, worker=described())
    assert claim is not None
    hinted: list[tuple[str, str | None]] = []

    def publish(job_id: str, worker_id: str | None) -> bool:
        hinted.append((job_id, worker_id))
        return True

    reconciler = reconciler_of(database, store, publish, free_slots=1)
    reconciler.reconcile()
    assert hinted == [(job_id, None) for job_id in waiting], "the lost job waits for its backoff"
    reconciler.reconcile()
    assert hinted[2:] == [(waiting[0], "wrk_1")], "the idle worker tells itself"
    with database.read() as connection:
        assert JobRepository(connection).get(lost).status is JobStatus.QUEUED


def test_a_hint_for_a_job_that_asks_for_hardware_goes_to_each_live_worker_that_has_it(
    database: Database, store: LocalStore
) -> None:
    """Also from the reconciler of a worker that has not, and which does not tell itself."""
    spec = {"method": "dynamic", "model": "mdl_" + "0" * 23, "hardware": {"labels": {"pool": "edge"}}}
    with database.write() as connection:
        job_id = JobRepository(connection).create(spec_adapter.validate_python(spec)).id
        workers = WorkerRepository(connection)
        workers.register("wrk_1", described())
        workers.register("wrk_2", described(labels={"pool": "edge"}))
        workers.register("wrk_3", described(labels={"pool": "edge"}))
        workers.register("wrk_4", described(labels={"pool": "lab"}))
    hinted: list[tuple[str, str | None]] = []

    def publish(job_id: str, worker_id: str | None) -> bool:
        hinted.append((job_id, worker_id))
        return True

    reconciler = reconciler_of(database, store, publish, free_slots=1)
    reconciler.reconcile()
    reconciler.reconcile()
    assert sorted(hinted) == [(job_id, "wrk_2"), (job_id, "wrk_3")]
