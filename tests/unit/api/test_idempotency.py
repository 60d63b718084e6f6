"""An effect under a key happens once, and its answer is repeated."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Connection

from api.idempotency import Answer, Once, do_once
from shared.database import Database
from shared.errors import IdempotencyKeyReused
from tests.api_server import settings_in

ONCE = Once("key", "fingerprint")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(settings_in(tmp_path).database_url)
    yield opened
    opened.close()


def counting() -> tuple[list[int], Callable[[Connection], Answer]]:
    calls: list[int] = []

    def effect(_: Connection) -> Answer:
        calls.append(threading.get_ident())
        return Answer(201, {"number": len(calls)}, {"Location": "/x"})

    return calls, effect


def test_without_a_key_every_request_has_its_effect(database: Database) -> None:
    calls, effect = counting()
    assert [do_once(database, Once(None, "f"), effect).body for _ in range(2)] == [{"number": 1}, {"number": 2}]
    assert len(calls) == 2


def test_the_same_request_gets_the_same_answer_with_its_headers(database: Database) -> None:
    calls, effect = counting()
    first, again = do_once(database, ONCE, effect), do_once(database, ONCE, effect)
    assert (again.status_code, again.body, again.headers) == (first.status_code, first.body, first.headers)
    assert (first.replayed, again.replayed) == (False, True)
    assert again.response().headers["Idempotent-Replayed"] == "true"
    assert len(calls) == 1


def test_another_request_under_the_key_is_refused(database: Database) -> None:
    calls, effect = counting()
    do_once(database, ONCE, effect)
    with pytest.raises(IdempotencyKeyReused):
        do_once(database, Once("key", "other"), effect)
    assert len(calls) == 1


def test_a_failed_effect_leaves_the_key_free(database: Database) -> None:
    def fail(_: Connection) -> Answer:
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        do_once(database, ONCE, fail)
    _, effect = counting()
    assert not do_once(database, ONCE, effect).replayed


def test_of_many_at_once_one_has_the_effect(database: Database) -> None:
    calls, effect = counting()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: do_once(database, ONCE, effect), range(8)))
    assert len(calls) == 1
    assert {str(answer.body) for answer in answers} == {"{'number': 1}"}
