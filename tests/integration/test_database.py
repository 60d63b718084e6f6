"""The database's promises, on SQLite and PostgreSQL alike."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy.exc import IntegrityError

from shared.database import Database, idempotency, metrics, migrate
from shared.database.idempotency import RememberedAnswer
from shared.database.job_repository import JobRepository
from shared.database.object_repository import ObjectRepository
from shared.database.records import Claim, PartRecord, WorkerDescription
from shared.database.tables import jobs, metadata, now
from shared.database.worker_repository import WorkerRepository
from shared.errors import (
    DatabaseUnavailable,
    IdempotencyKeyReused,
    JobAlreadyFinished,
    NotFound,
    ObjectInUse,
    PartConflict,
    StaleFence,
    UploadClosed,
    WorkerLost,
)
from shared.job import TRANSITIONS, Artifact, JobStatus, Progress, Step
from shared.quantization_spec import spec_adapter
from tests.services.workers import described

REPORT = {
    "verdict": {"word": "recommended"},
    "latency": [{"speedup": 1.7}],
    "quality": {"metric": {"name": "top1", "drop": 0.004}},
}


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'octavo.sqlite3'}"
        return
    with request.getfixturevalue("postgres_server").database() as url:
        yield url


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    migrate(url)
    database = Database(url)
    yield database
    database.close()


def spec(**changes: Any) -> Any:
    return spec_adapter.validate_python(
        {"method": "static", "model": "mdl_" + "0" * 23, "calibration": "dst_" + "1" * 23, **changes}
    )


def create(database: Database, **changes: Any) -> str:
    with database.write() as connection:
        return JobRepository(connection).create(spec(**changes)).id


def claim(
    database: Database, job_id: str, *, lease_seconds: float = 30.0, worker: WorkerDescription | None = None
) -> Claim | None:
    with database.write() as connection:
        return JobRepository(connection).claim(
            job_id, worker_id="wrk_1", worker=worker or described(), lease_seconds=lease_seconds
        )


def claimed(database: Database, **options: Any) -> Claim:
    found = claim(database, create(database), **options)
    assert found is not None
    return found


def status(database: Database, job_id: str) -> JobStatus:
    with database.read() as connection:
        return JobRepository(connection).get(job_id).status


def test_migrations_make_the_tables_that_the_code_declares(database: Database) -> None:
    """The migrated schema does not differ from tables.py, and migrating again changes nothing."""
    migrate(database.engine.url.render_as_string(hide_password=False))
    with database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    database.require_current_schema()


def test_a_database_of_the_first_version_keeps_its_jobs(url: str) -> None:
    """Jobs stored before there were jobs made from others are read, and are made from none."""
    migrate(url, "0001")
    engine = sqlalchemy.create_engine(url)
    row = {"id": "job_" + "0" * 23, "spec": "{}", "artifacts": "[]"}
    zeros = ["created_at", "fraction", "attempt", "crashes", "fence", "not_before", "next_publish_at", "publish_count"]
    texts = {"method": "static", "status": "queued", "message": ""}
    values = {**row, **texts, **dict.fromkeys([*zeros, "event_seq"], 0)}
    with engine.begin() as connection:
        names = ", ".join(values)
        connection.execute(
            sqlalchemy.text(f"INSERT INTO jobs ({names}) VALUES (:{names.replace(', ', ', :')})"),
            values,
        )
    engine.dispose()
    migrate(url)
    database = Database(url)
    database.require_current_schema()
    with database.read() as connection:
        job = JobRepository(connection).get(row["id"])
        waiting = JobRepository(connection).oldest_waiting(1, described())
    assert (job.based_on, job.changes, job.spec) == (None, None, {})
    assert waiting == [row["id"]], "it asks for no hardware"
    database.close()


def test_a_job_made_from_another_remembers_which_and_how(database: Database) -> None:
    first = create(database)
    patch = {"overrides": [{"layer": "a"}], "seed": None}
    with database.write() as connection:
        second = JobRepository(connection).create(spec(), based_on=first, changes=patch).id
    with database.read() as connection:
        jobs_of = JobRepository(connection)
        assert (jobs_of.get(second).based_on, jobs_of.get(second).changes) == (first, patch)
        assert (jobs_of.get(first).based_on, jobs_of.get(first).changes) == (None, None)


def test_a_schema_of_another_version_is_refused(url: str) -> None:
    with pytest.raises(DatabaseUnavailable, match="schema none") as caught:
        Database(url).require_current_schema()
    assert "octavo-server migrate" in (caught.value.hint or "")


def test_the_databases_clock_tells_the_time(database: Database) -> None:
    with database.read() as connection:
        assert connection.scalar(sqlalchemy.select(now())) == pytest.approx(time.time(), abs=5)


def test_a_job_goes_from_queued_to_succeeded(database: Database) -> None:
    """Every transition is an event, and the report is kept apart from the list."""
    job_id = create(database, name="resnet18 on pets")
    taken = claim(database, job_id)
    assert taken is not None
    artifact = Artifact(name="report.json", kind="report", media_type="application/json", size_bytes=3, sha256="0" * 64)
    with database.write() as connection:
        JobRepository(connection).record_progress(taken, Step.CALIBRATE, Progress(fraction=0.5, message="8 of 16"))
    with database.write() as connection:
        JobRepository(connection).succeed(taken, REPORT, [artifact])
    with database.read() as connection:
        repository = JobRepository(connection)
        job = repository.get(job_id, with_report=True)
        events, more = repository.events(job_id, after=0, limit=10)
        assert repository.page(status=None, limit=5, after=None)[0][0].report is None
    assert (job.status, job.report, job.artifacts) == (JobStatus.SUCCEEDED, REPORT, [artifact])
    assert [event.data["status"] for event in events if event.kind == "status"] == ["queued", "running", "succeeded"]
    assert [event.seq for event in events] == [1, 2, 3, 4]
    assert job.event_seq == 4
    assert not more


def test_only_one_worker_gets_a_job(database: Database) -> None:
    """Eight workers race for one hint; one claim is given."""
    job_id = create(database)
    claims: list[Claim | None] = []
    start = threading.Barrier(8)

    def race() -> None:
        start.wait()
        claims.append(claim(database, job_id))

    threads = [threading.Thread(target=race) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([each for each in claims if each is not None]) == 1
    assert len(claims) == 8


VNNI = {"isa": ["avx512_vnni"], "labels": {"pool": "edge"}}


def test_only_a_worker_with_the_hardware_gets_the_job(database: Database) -> None:
    """A hint that led another worker here does no harm: the job stays as it was."""
    job_id = create(database, hardware=VNNI)
    for lacking in (described(), described(isa=["avx512_vnni"]), described(labels={"pool": "edge"})):
        assert claim(database, job_id, worker=lacking) is None
    with database.read() as connection:
        job = JobRepository(connection).get(job_id)
    assert (job.status, job.attempt, job.fence, job.event_seq) == (JobStatus.QUEUED, 0, 0, 1)
    fit = described(isa=["avx2", "avx512_vnni"], labels={"pool": "edge", "rack": "7"})
    assert claim(database, job_id, worker=fit) is not None


def test_an_idle_worker_looks_past_the_jobs_that_it_cannot_run(database: Database) -> None:
    """However many wait before them for hardware that it has not, and however they ask."""
    for number in range(20):
        create(database, hardware={"labels": {"pool": f"other-{number}"}})
    first, anywhere, last = create(database, hardware=VNNI), create(database), create(database, hardware=VNNI)
    fit = described(isa=["avx512_vnni"], labels={"pool": "edge"})
    with database.write() as connection:
        jobs_of = JobRepository(connection)
        assert jobs_of.oldest_waiting(10, described()) == [anywhere]
        assert jobs_of.oldest_waiting(2, fit) == [first, anywhere]
        assert jobs_of.oldest_waiting(10, fit) == [first, anywhere, last]


def test_jobs_that_ask_for_hardware_are_hinted_at_again_when_a_worker_comes(database: Database) -> None:
    create(database)
    asking = create(database, hardware=VNNI)
    with database.write() as connection:
        jobs_of = JobRepository(connection)
        assert len(jobs_of.due_for_publish(republish_seconds=30, limit=10)) == 2
        assert jobs_of.due_for_publish(republish_seconds=30, limit=10) == []
        jobs_of.publish_again()
        [due] = jobs_of.due_for_publish(republish_seconds=30, limit=10)
    assert due.id == asking
    assert due.hardware is not None
    assert due.hardware.model_dump() == {**VNNI, "cpu": None}


def test_the_same_demand_is_one_however_it_is_written(database: Database) -> None:
    """The idle worker asks for the demands that there are, once each."""
    create(database, hardware={"isa": ["avx512_vnni", "avx2"], "labels": {"a": "1", "b": "2"}})
    create(database, hardware={"labels": {"b": "2", "a": "1"}, "isa": ["avx2", "avx512_vnni", "avx2"]})
    create(database, hardware={"isa": [], "labels": {}})
    with database.read() as connection:
        found = set(connection.scalars(sqlalchemy.select(jobs.c.hardware)))
    assert len(found) == 2
    assert None in found, "who asks for nothing asks for any"


def test_jobs_that_no_live_worker_may_run_are_counted_and_are_not_the_oldest_that_wait(database: Database) -> None:
    for _ in range(2):
        create(database, hardware=VNNI)

    def gauges() -> dict[str, float]:
        with database.read() as connection:
            samples = metrics.live_samples(connection, worker_timeout_seconds=15)
        return {each.metric: each.value for each in samples}

    age, unmet = "octavo_oldest_queued_age_seconds", "octavo_jobs_waiting_for_hardware"
    assert (gauges()[unmet], gauges()[age]) == (2, 0)
    with database.write() as connection:
        WorkerRepository(connection).register("wrk_1", described())
    assert (gauges()[unmet], gauges()[age]) == (2, 0)
    create(database)
    assert gauges()[age] > 0
    with database.write() as connection:
        WorkerRepository(connection).register("wrk_2", described(isa=["avx512_vnni"], labels={"pool": "edge"}))
    assert gauges()[unmet] == 0


def test_a_stale_claim_writes_nothing(database: Database) -> None:
    """After the lease expired and another attempt began, every write of the first raises StaleFence."""
    first = claimed(database, lease_seconds=-1)
    with database.write() as connection:
        assert JobRepository(connection).expire_leases(max_attempts=5, base_seconds=1e-6) == [first.job_id]
    second = claim(database, first.job_id)
    assert second is not None
    assert (second.fence, second.attempt) == (first.fence + 1, 2)
    stale_writes = [
        lambda repository: repository.renew_lease(first, 30),
        lambda repository: repository.cancel_requested(first),
        lambda repository: repository.record_progress(first, Step.LOAD, Progress()),
        lambda repository: repository.record_event(first, "log", {"message": "late"}),
        lambda repository: repository.succeed(first, REPORT, []),
        lambda repository: repository.fail(first, WorkerLost().to_job_error()),
        lambda repository: repository.cancel(first),
        lambda repository: repository.retry_later(first, WorkerLost().to_job_error(), base_seconds=1),
        lambda repository: repository.release(first, "late"),
    ]
    for write in stale_writes:
        with pytest.raises(StaleFence), database.write() as connection:
            write(JobRepository(connection))
    with database.write() as connection:
        JobRepository(connection).succeed(second, REPORT, [])
    assert status(database, first.job_id) is JobStatus.SUCCEEDED


def test_an_expired_lease_fails_the_job_after_too_many_attempts(database: Database) -> None:
    taken = claimed(database, lease_seconds=-1)
    with database.write() as connection:
        JobRepository(connection).expire_leases(max_attempts=1, base_seconds=1)
    with database.read() as connection:
        job = JobRepository(connection).get(taken.job_id)
    assert job.status is JobStatus.FAILED
    assert job.error is not None
    assert (job.error.code, job.error.owner) == ("worker_lost", "service")


def test_an_expired_lease_of_a_job_asked_to_stop_is_cancelled(database: Database) -> None:
    taken = claimed(database, lease_seconds=-1)
    with database.write() as connection:
        JobRepository(connection).request_cancel(taken.job_id)
        JobRepository(connection).expire_leases(max_attempts=5, base_seconds=1)
    assert status(database, taken.job_id) is JobStatus.CANCELLED


def test_a_retry_waits_for_its_time(database: Database) -> None:
    """A job put back with a backoff is neither claimed nor hinted at before its time."""
    taken = claimed(database)
    with database.write() as connection:
        JobRepository(connection).retry_later(taken, WorkerLost().to_job_error(), base_seconds=3600, crashed=True)
    assert claim(database, taken.job_id) is None
    with database.write() as connection:
        repository = JobRepository(connection)
        assert repository.due_for_publish(republish_seconds=30, limit=10) == []
        assert repository.oldest_waiting(10, described()) == []
        job = repository.get(taken.job_id)
    assert (job.status, job.crashes, job.attempt) == (JobStatus.QUEUED, 1, 1)


def test_a_released_job_is_due_at_once_and_its_attempt_does_not_count(database: Database) -> None:
    taken = claimed(database)
    with database.write() as connection:
        JobRepository(connection).release(taken, "The worker shut down.")
    again = claim(database, taken.job_id)
    assert again is not None
    assert (again.attempt, again.fence) == (1, 2)


def test_a_hint_is_sent_once_and_again_only_after_a_while(database: Database) -> None:
    job_ids = [create(database) for _ in range(3)]
    with database.write() as connection:
        due = JobRepository(connection).due_for_publish(republish_seconds=30, limit=2)
        assert due == [(job_id, None) for job_id in job_ids[:2]]
    with database.write() as connection:
        assert JobRepository(connection).due_for_publish(republish_seconds=30, limit=10) == [(job_ids[2], None)]
    with database.write() as connection:
        assert JobRepository(connection).due_for_publish(republish_seconds=30, limit=10) == []
        assert JobRepository(connection).oldest_waiting(2, described()) == job_ids[:2]


def test_cancelling(database: Database) -> None:
    """A queued job is cancelled at once; a running one is asked, as often as you like; a finished one is refused."""
    queued = create(database)
    with database.write() as connection:
        assert JobRepository(connection).request_cancel(queued).status is JobStatus.CANCELLED
    taken = claimed(database)
    with database.read() as connection:
        assert not JobRepository(connection).cancel_requested(taken)
    for _ in range(2):
        with database.write() as connection:
            job = JobRepository(connection).request_cancel(taken.job_id)
            assert (job.status, job.cancel_requested) == (JobStatus.RUNNING, True)
    with database.write() as connection:
        assert JobRepository(connection).cancel_requested(taken)
        JobRepository(connection).cancel(taken)
    for job_id in (queued, taken.job_id):
        with pytest.raises(JobAlreadyFinished, match="been cancelled"), database.write() as connection:
            JobRepository(connection).request_cancel(job_id)
    with pytest.raises(NotFound), database.write() as connection:
        JobRepository(connection).request_cancel("job_none")


def test_finished_jobs_never_move_again(database: Database) -> None:
    """For every finished state no transition of the table, nor of the repository, leads out of it."""
    for finish in ("succeed", "fail", "cancel"):
        taken = claimed(database)
        arguments = {"succeed": (REPORT, []), "fail": (WorkerLost().to_job_error(),), "cancel": ()}[finish]
        with database.write() as connection:
            getattr(JobRepository(connection), finish)(taken, *arguments)
        finished = status(database, taken.job_id)
        assert TRANSITIONS[finished] == frozenset()
        assert claim(database, taken.job_id) is None
        with pytest.raises(StaleFence), database.write() as connection:
            JobRepository(connection).release(taken, "late")


def test_pages_of_jobs_cover_each_once_newest_first(database: Database) -> None:
    job_ids = [create(database) for _ in range(5)]
    seen: list[str] = []
    after, more = None, True
    while more:
        with database.read() as connection:
            page, more = JobRepository(connection).page(status=JobStatus.QUEUED, limit=2, after=after)
        seen += [job.id for job in page]
        after = seen[-1]
    assert seen == sorted(job_ids, reverse=True)


def test_metrics_are_counted_where_jobs_finish(database: Database) -> None:
    """Each finish is counted once; buckets are cumulative, and another connection reads the same."""
    for _ in range(2):
        taken = claimed(database)
        with database.write() as connection:
            JobRepository(connection).succeed(taken, REPORT, [])
    with pytest.raises(StaleFence), database.write() as connection:
        JobRepository(connection).succeed(taken, REPORT, [])
    create(database)
    with database.read() as connection:
        counters, histograms = metrics.stored_series(connection)
        gauges = metrics.live_samples(connection, worker_timeout_seconds=15)
    finished = {"method": "static", "outcome": "succeeded", "reason": "recommended"}
    assert [(each.labels, each.value) for each in counters] == [(finished, 2.0)]
    speedup = next(each for each in histograms if each.metric == "octavo_job_speedup_ratio")
    counts = dict(speedup.buckets)
    assert (counts["1.5"], counts["2.0"], counts["+Inf"], speedup.sum) == (0, 2, 2, pytest.approx(3.4))
    by_labels = {tuple(each.labels.values()): each.value for each in gauges if each.metric == "octavo_jobs"}
    assert (by_labels["queued", "static"], by_labels["succeeded", "static"], by_labels["failed", "qat"]) == (1, 2, 0)


def add_object(database: Database, sha256: str = "a" * 64, kind: Any = "model") -> tuple[Any, bool]:
    with database.write() as connection:
        return ObjectRepository(connection).add(
            kind=kind, name="net", filename="net.pt2", size_bytes=4, sha256=sha256, description={"inputs": []}
        )


def test_content_is_recorded_once_for_each_kind(database: Database) -> None:
    first, created = add_object(database)
    again, created_again = add_object(database)
    other, created_other = add_object(database, kind="dataset")
    assert (created, created_again, created_other) == (True, False, True)
    assert first == again
    assert other.id.startswith("dst_")
    with database.write() as connection:
        repository = ObjectRepository(connection)
        assert not repository.remove(first), "the dataset still refers to the content"
        assert repository.remove(other)
        with pytest.raises(NotFound):
            repository.get(first.id)


def test_an_object_that_a_job_needs_is_not_removed(database: Database) -> None:
    record, _ = add_object(database)
    job_id = create(database, model=record.id)
    with pytest.raises(ObjectInUse, match=job_id), database.write() as connection:
        ObjectRepository(connection).remove(record)
    with database.write() as connection:
        JobRepository(connection).request_cancel(job_id)
        assert ObjectRepository(connection).remove(record)


def test_an_object_is_not_removed_while_a_job_is_submitted_with_it(database: Database) -> None:
    """A removal that begins while the submission is not yet committed waits for it, and then sees the job."""
    record, _ = add_object(database)
    outcome: list[BaseException | None] = []

    def remove() -> None:
        try:
            with database.write() as connection:
                ObjectRepository(connection).remove(record)
        except ObjectInUse as error:
            outcome.append(error)
        else:
            outcome.append(None)

    with database.write() as connection:
        ObjectRepository(connection).get(record.id, keep=True)
        remover = threading.Thread(target=remove)
        remover.start()
        remover.join(0.3)
        assert outcome == []
        JobRepository(connection).create(spec(model=record.id))
    remover.join(10)
    assert [type(each) for each in outcome] == [ObjectInUse]


def test_parts_of_an_upload(database: Database) -> None:
    """A part may come twice, but not with other bytes, nor after the upload is complete."""
    with database.write() as connection:
        upload = ObjectRepository(connection).open_upload(
            kind="model", name=None, filename=None, size_bytes=6, sha256=None, part_size_bytes=4, expire_seconds=-1
        )
    part = PartRecord(number=1, size_bytes=4, sha256="a" * 64)
    for _ in range(2):
        with database.write() as connection:
            ObjectRepository(connection).add_part(upload.id, part)
    with pytest.raises(PartConflict), database.write() as connection:
        ObjectRepository(connection).add_part(upload.id, PartRecord(number=1, size_bytes=4, sha256="b" * 64))
    with database.write() as connection:
        repository = ObjectRepository(connection)
        assert repository.expired_uploads(10) == [upload.id]
        assert repository.get_upload(upload.id).parts == [part]
        repository.complete_upload(upload.id, "mdl_1")
    with pytest.raises(UploadClosed), database.write() as connection:
        ObjectRepository(connection).add_part(upload.id, PartRecord(number=2, size_bytes=2, sha256="c" * 64))
    with database.write() as connection:
        ObjectRepository(connection).forget_upload(upload.id)
        with pytest.raises(NotFound):
            ObjectRepository(connection).get_upload(upload.id)


def test_an_idempotency_key_gives_its_first_answer_again(database: Database) -> None:
    answer = RememberedAnswer(status_code=202, headers={"Location": "/v1/jobs/job_1"}, body={"id": "job_1"})
    with database.write() as connection:
        assert idempotency.recall(connection, "key", "f" * 64) is None
        idempotency.remember(connection, "key", "f" * 64, answer)
    with database.read() as connection:
        assert idempotency.recall(connection, "key", "f" * 64) == answer
        with pytest.raises(IdempotencyKeyReused):
            idempotency.recall(connection, "key", "0" * 64)
    with pytest.raises(IntegrityError), database.write() as connection:
        idempotency.remember(connection, "key", "f" * 64, answer)


def test_an_effect_and_its_key_are_lost_together(database: Database) -> None:
    """When the transaction rolls back there is neither the job nor the key."""

    class Interrupted(Exception):
        pass

    def interrupted_request() -> None:
        with database.write() as connection:
            JobRepository(connection).create(spec())
            idempotency.remember(connection, "key", "f" * 64, RememberedAnswer(202, {}, {}))
            raise Interrupted

    with pytest.raises(Interrupted):
        interrupted_request()
    with database.read() as connection:
        assert connection.scalar(sqlalchemy.select(sqlalchemy.func.count()).select_from(jobs)) == 0
        assert idempotency.recall(connection, "key", "f" * 64) is None


def test_workers_are_alive_while_they_are_heard_of(database: Database) -> None:
    description = described()
    with database.write() as connection:
        workers = WorkerRepository(connection)
        assert not workers.heartbeat("wrk_1", "idle")
        workers.register("wrk_1", description)
        assert workers.heartbeat("wrk_1", "busy")
        assert [(each.id, each.status, each.description) for each in workers.alive()] == [
            ("wrk_1", "busy", description)
        ]
        workers.unregister("wrk_1")
        assert workers.alive() == []
