"""Those who wait for a job are woken by its change, the time, or the end of the process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.jobs.watch import JobWatch
from shared.database import Database
from shared.database.job_repository import JobRepository
from shared.quantization_spec import DynamicSpec
from tests.api_server import settings_in


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(settings_in(tmp_path).database_url)
    yield opened
    opened.close()


def new_job(database: Database) -> str:
    with database.write() as connection:
        return JobRepository(connection).create(DynamicSpec(method="dynamic", model="mdl_0000000000000000000000")).id


def cancel(database: Database, job_id: str) -> None:
    with database.write() as connection:
        JobRepository(connection).request_cancel(job_id)


def test_a_change_wakes_those_who_wait_for_that_job_and_nobody_else(database: Database) -> None:
    changed, same = new_job(database), new_job(database)

    async def scenario() -> list[bool]:
        watch = JobWatch(database)
        waits = [
            asyncio.create_task(watch.wait(changed, 1, 60)),
            asyncio.create_task(watch.wait(changed, 1, 60)),
            asyncio.create_task(watch.wait(same, 1, 1.0)),
        ]
        await asyncio.sleep(0)
        await asyncio.to_thread(cancel, database, changed)
        return await asyncio.gather(*waits)

    assert asyncio.run(scenario()) == [True, True, False]


def test_a_job_that_has_already_moved_on_or_is_gone_wakes_at_once(database: Database) -> None:
    job = new_job(database)

    async def scenario() -> tuple[bool, bool]:
        watch = JobWatch(database)
        return await watch.wait(job, 0, 60), await watch.wait("job_gone", 1, 60)

    assert asyncio.run(scenario()) == (True, True)


def test_closing_sends_everybody_home_also_those_who_come_later(database: Database) -> None:
    job = new_job(database)

    async def scenario() -> list[bool]:
        watch = JobWatch(database)
        waiting = asyncio.create_task(watch.wait(job, 1, 60))
        await asyncio.sleep(0)
        watch.close()
        return [await waiting, await watch.wait(job, 1, 60)]

    assert asyncio.run(scenario()) == [False, False]


def test_a_lost_database_wakes_nobody_and_its_return_is_noticed(database: Database, tmp_path: Path) -> None:
    job = new_job(database)
    file, aside = tmp_path / "octavo.sqlite3", tmp_path / "aside"

    async def scenario() -> bool:
        watch = JobWatch(database)
        cancel(database, job)
        database.close()
        file.rename(aside)
        file.mkdir()
        waiting = asyncio.create_task(watch.wait(job, 1, 60))
        assert not await watch.wait(job, 1, 0.6)
        file.rmdir()
        aside.rename(file)
        return await waiting

    assert asyncio.run(scenario())
