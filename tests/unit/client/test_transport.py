"""One request: its retries, its Idempotency-Key, its errors. Each against a real server."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import pytest

import octavo
from tests.unit.client import samples
from tests.unit.client.scripted_server import Dropped, Reply, Request, Script, ScriptedServer, as_json, in_turn, problem

Serve = Callable[[Script], ScriptedServer]
FAILURES = [problem(408, "timeout"), problem(429, "slow_down"), problem(500, "oops"), problem(503, "busy"), Dropped]


@pytest.mark.parametrize("failure", FAILURES, ids=["408", "429", "500", "503", "dropped"])
def test_a_passing_failure_is_tried_again(serve: Serve, failure: Reply | type[Dropped]) -> None:
    server = serve(in_turn(failure, failure, as_json(samples.job())))
    with octavo.Client(server.url) as client:
        assert client.jobs.get(samples.JOB_ID).id == samples.JOB_ID
    assert len(server.requests) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 422])
def test_what_would_fail_again_is_not_tried_again(serve: Serve, status: int) -> None:
    server = serve(in_turn(problem(status, "no")))
    with octavo.Client(server.url) as client, pytest.raises(octavo.APIStatusError) as raised:
        client.jobs.get(samples.JOB_ID)
    assert raised.value.status_code == status
    assert len(server.requests) == 1


def test_retries_end(serve: Serve) -> None:
    server = serve(in_turn(problem(503, "busy")))
    with octavo.Client(server.url, max_retries=3) as client, pytest.raises(octavo.InternalServerError, match="busy"):
        client.jobs.get(samples.JOB_ID)
    assert len(server.requests) == 4


def test_a_post_keeps_its_idempotency_key_over_its_retries(serve: Serve) -> None:
    """And another POST has another."""
    server = serve(in_turn(Dropped, problem(500, "oops"), as_json(samples.job(), 202)))
    with octavo.Client(server.url) as client:
        client.jobs.quantize("mdl_019abc5d1f0e7a33c49d20", "dynamic")
        client.jobs.quantize("mdl_019abc5d1f0e7a33c49d20", "dynamic")
    keys = [request.headers["Idempotency-Key"] for request in server.requests]
    assert len(keys) == 4
    assert len(set(keys[:3])) == 1
    assert keys[3] != keys[0]


def test_the_key_is_sent_as_bearer(serve: Serve) -> None:
    server = serve(in_turn(as_json(samples.job())))
    with octavo.Client(server.url, "the-key") as client:
        client.jobs.get(samples.JOB_ID)
    assert server.requests[0].headers["Authorization"] == "Bearer the-key"


def test_a_redirect_to_another_host_does_not_get_the_key(serve: Serve) -> None:
    """Artifacts may answer 307 to an object store."""
    store = serve(in_turn(as_json(samples.job())))
    other_host = store.url.replace("127.0.0.1", "localhost")
    server = serve(in_turn(Reply(307, b"", {"Location": f"{other_host}/elsewhere"})))
    with octavo.Client(server.url, "the-key") as client:
        client.jobs.get(samples.JOB_ID)
    assert store.requests[0].headers["Authorization"] is None


def test_no_server_is_an_error_with_advice() -> None:
    with socket.socket() as bound:  # bound, and nobody listens
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        with octavo.Client(url) as client, pytest.raises(octavo.APIConnectionError, match="octavo-server up"):
            client.meta()


def test_a_server_that_never_answers_is_a_timeout() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with octavo.Client(url, timeout=0.1, max_retries=0) as client, pytest.raises(octavo.APITimeoutError):
            client.meta()


def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    server = serve(in_turn(as_json(samples.job())))
    with octavo.Client(server.url, max_retries=0) as client:
        assert client.jobs.get(samples.JOB_ID).id == samples.JOB_ID


def pages(request: Request) -> Reply:
    """Three pages of two jobs."""
    page = int(request.query.get("after", "0"))
    jobs = [samples.job(id=f"job_{2 * page + index}") for index in range(2)]
    last = page == 2
    return as_json({"data": jobs, "has_more": not last, "next": None if last else str(page + 1)})


FIRST_PAGE = as_json({"data": [samples.job(id="job_0"), samples.job(id="job_1")], "has_more": True, "next": "1"})


def test_a_list_goes_through_its_pages(serve: Serve) -> None:
    server = serve(pages)
    with octavo.Client(server.url) as client:
        assert [job.id for job in client.jobs.list(status="queued")] == [f"job_{number}" for number in range(6)]
    assert [request.query.get("after") for request in server.requests] == [None, "1", "2"]
    assert {request.query["status"] for request in server.requests} == {"queued"}


def test_a_limit_ends_a_list_and_no_page_is_fetched_in_vain(serve: Serve) -> None:
    server = serve(pages)
    with octavo.Client(server.url) as client:
        assert [job.id for job in client.jobs.list(limit=3)] == ["job_0", "job_1", "job_2"]
        assert len(list(client.jobs.list(limit=2))) == 2
    assert len(server.requests) == 3


def test_the_async_client_retries_and_lists_alike(serve: Serve) -> None:
    server = serve(in_turn(Dropped, problem(503, "busy"), as_json(samples.job(), 202), FIRST_PAGE))

    async def submit_and_list() -> list[str]:
        async with octavo.AsyncClient(server.url) as client:
            job = await client.jobs.quantize("mdl_019abc5d1f0e7a33c49d20", "dynamic", max_accuracy_drop=None)
            return [job.id] + [listed.id async for listed in client.jobs.list(limit=2)]

    assert asyncio.run(submit_and_list()) == [samples.JOB_ID, "job_0", "job_1"]
    assert len({request.headers["Idempotency-Key"] for request in server.requests[:3]}) == 1
    assert server.requests[0].json == {
        "model": "mdl_019abc5d1f0e7a33c49d20",
        "method": "dynamic",
        "max_accuracy_drop": None,
    }


def test_what_the_server_has_waited_for_itself_is_not_waited_for_again(serve: Serve) -> None:
    server = serve(in_turn(problem(503, "plan_unavailable")))
    with octavo.Client(server.url) as client, pytest.raises(octavo.InternalServerError, match="plan_unavailable"):
        client.jobs.plan("mdl_0123456789abcdef0123", method="dynamic")
    assert len(server.requests) == 1
