"""Whatever goes wrong, the client gets a problem with the request's id, and never a trace."""

from __future__ import annotations

import re
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.api_server import KEY, Api, images, lose_database


def problem(answer: Any, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = answer.json()
    assert (found["status"], found["code"], found["type"]) == (status, code, "about:blank")
    assert found["request_id"] == answer.headers["X-Request-Id"]
    assert found["title"]
    assert found["detail"]
    return found


@pytest.mark.parametrize("path", ["/nothing", "/v1/nothing", "/v1/jobs/a/b/c", "//", "/v1/models/x/y"])
def test_an_unknown_path_is_404(api: Api, path: str) -> None:
    problem(api.client.get(path), 404, "not_found")


def test_a_method_that_a_path_does_not_take_is_405_with_allow(api: Api) -> None:
    answer = api.client.put("/v1/jobs", json={})
    problem(answer, 405, "method_not_allowed")
    assert {"GET", "POST"} >= set(re.split(", ?", answer.headers["Allow"]))


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b"{'a': 1}", b"[" * 100_000])
def test_a_body_that_is_not_json_is_400(api: Api, body: bytes) -> None:
    answer = api.client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    problem(answer, 400, "malformed_json")


def test_json_that_does_not_say_so_is_415_with_the_header_that_helps(api: Api) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    found = problem(api.client.post("/v1/jobs", content=b'{"a": 1}', headers=headers), 415, "unsupported_media_type")
    assert "application/json" in found["hint"]


def test_a_json_body_over_a_mebibyte_is_413_by_content_length_and_by_counting(api: Api) -> None:
    large = b" " * 1024**2 + b"{}"
    headers = {"Content-Type": "application/json"}
    problem(api.client.post("/v1/jobs", content=large, headers=headers), 413, "body_too_large")
    problem(api.client.post("/v1/jobs", content=iter([large]), headers=headers), 413, "body_too_large")


def test_an_error_that_nobody_foresaw_is_500_without_a_word_of_it(
    api: Api, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a secret detail")

    monkeypatch.setattr("api.jobs.service.JobRepository", fail)
    answer = api.client.get("/v1/jobs", headers={"X-Request-Id": "the-request"})
    problem(answer, 500, "internal_error")
    assert "secret" not in answer.text
    log = "".join(capfd.readouterr())
    assert "a secret detail" in log
    assert "the-request" in log


def test_a_database_that_is_down_is_503_and_says_when_to_come_back(api: Api) -> None:
    lose_database(api)
    answer = api.client.get("/v1/jobs")
    problem(answer, 503, "database_unavailable")
    assert int(answer.headers["Retry-After"]) > 0


def test_a_request_without_a_key_or_with_a_wrong_one_is_401(api: Api) -> None:
    anonymous = TestClient(api.app)
    for headers, code in (
        ({}, "authentication_required"),
        ({"Authorization": "Basic a2V5"}, "api_key_invalid"),
        ({"Authorization": "Bearer"}, "authentication_required"),
        ({"Authorization": f"Bearer {KEY}x"}, "api_key_invalid"),
        ({"Authorization": "Bearer ké".encode()}, "api_key_invalid"),
    ):
        answer = anonymous.get("/v1/meta", headers=headers)  # type: ignore[arg-type]  # bytes are fine too
        problem(answer, 401, code)
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert anonymous.get("/v1/meta", headers={"Authorization": f"bearer  {KEY}"}).status_code == 200


def test_without_a_key_an_upload_is_not_kept_and_the_connection_ends(api: Api) -> None:
    answer = TestClient(api.app).post("/v1/models", content=images())
    problem(answer, 401, "authentication_required")
    assert answer.headers["Connection"] == "close"
    assert api.stored_files() == []


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/docs", "/openapi.json"])
def test_the_public_paths_need_no_key(api: Api, path: str) -> None:
    assert TestClient(api.app).get(path).status_code == 200


@pytest.mark.parametrize(
    ("sent", "kept"), [("abc-123_x.y", True), ("a" * 101, False), ("a b", False), ("x\ty", False), ("", False)]
)
def test_a_sane_request_id_is_kept_and_any_other_replaced(api: Api, sent: str, kept: bool) -> None:
    answer = api.client.get("/healthz", headers={"X-Request-Id": sent})
    found = answer.headers["X-Request-Id"]
    assert (found == sent) == kept
    assert kept or re.fullmatch(r"req_[0-9a-f]+", found)
