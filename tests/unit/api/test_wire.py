"""Cursors and times on the wire."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter

from api.wire import cursor_of, id_behind, utc
from shared.errors import RequestInvalid
from shared.job import new_id


def test_a_cursor_leads_back_to_its_id() -> None:
    job = new_id("job")
    assert id_behind(cursor_of(job), "job_") == job
    assert job not in cursor_of(job)
    assert id_behind(None, "job_") is None


@pytest.mark.parametrize("cursor", ["", "x", "!!!!", "é", cursor_of("mdl_1"), cursor_of("job_1'--"), cursor_of("job")])
def test_a_cursor_that_this_server_never_made_is_an_invalid_request(cursor: str) -> None:
    with pytest.raises(RequestInvalid):
        id_behind(cursor, "job_")


def test_times_are_rfc_3339_in_utc() -> None:
    written = TypeAdapter(object).dump_python(utc(1_795_438_800.25), mode="json")
    assert written == "2026-11-23T13:00:00.250000Z"
