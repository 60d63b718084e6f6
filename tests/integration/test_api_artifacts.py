"""Downloads: whole, in ranges, checked, or from a presigned URL."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx2
import pytest

from shared.object_store import artifact_key
from shared.settings import StorageSettings
from tests.api_server import Api, PretendedWorker, running_api

CONTENT = bytes(range(256)) * 9000  # more than one chunk of the store
DIGEST = sha256(CONTENT)


@pytest.fixture
def job(api: Api, small_net: Path) -> str:
    return finished_job(api, small_net)


def finished_job(api: Api, small_net: Path) -> str:
    job = str(api.submit(method="dynamic", model=api.add_model(small_net))["id"])
    PretendedWorker(api, job).succeed({"model_int8.pt": CONTENT})
    return job


def download(api: Api, job: str, **headers: str) -> Any:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return api.client.get(f"/v1/jobs/{job}/artifacts/model_int8.pt", headers=sent, follow_redirects=False)


def test_the_whole_comes_with_its_hash_and_name(api: Api, job: str) -> None:
    answer = download(api, job)
    assert answer.content == CONTENT
    assert answer.headers["ETag"] == f'"{DIGEST.hexdigest()}"'
    assert answer.headers["Repr-Digest"] == f"sha-256=:{b64encode(DIGEST.digest()).decode()}:"
    assert answer.headers["Content-Length"] == str(len(CONTENT))
    assert answer.headers["Content-Disposition"] == "attachment; filename*=UTF-8''model_int8.pt"
    assert answer.headers["Accept-Ranges"] == "bytes"


def test_a_page_from_a_job_cannot_act_on_the_origin_of_the_api(api: Api, small_net: Path) -> None:
    """A hostile job may write any HTML: it is downloaded, not shown, and even shown it would run no script."""
    job = str(api.submit(method="dynamic", model=api.add_model(small_net))["id"])
    PretendedWorker(api, job).succeed({"report.html": b"<script>alert(document.cookie)</script>"})
    answer = api.client.get(f"/v1/jobs/{job}/artifacts/report.html")
    assert answer.headers["Content-Disposition"].startswith("attachment;")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    policy = {directive.strip() for directive in answer.headers["Content-Security-Policy"].split(";")}
    assert {"sandbox", "default-src 'none'"} <= policy


@pytest.mark.parametrize(
    ("wanted", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=100-1999999", 100, 2_000_000),
        ("bytes=2303999-", 2_303_999, 2_304_000),
        ("bytes=-10", 2_303_990, 2_304_000),
        ("bytes=5-99999999", 5, 2_304_000),
    ],
)
def test_a_range_is_206_with_exactly_its_bytes(api: Api, job: str, wanted: str, start: int, end: int) -> None:
    answer = download(api, job, Range=wanted)
    assert answer.status_code == 206
    assert answer.content == CONTENT[start:end]
    assert answer.headers["Content-Range"] == f"bytes {start}-{end - 1}/{len(CONTENT)}"


@pytest.mark.parametrize("wanted", ["bytes=2304000-", "bytes=-0", "bytes=9999999-99999999"])
def test_a_range_without_bytes_is_416_and_tells_the_size(api: Api, job: str, wanted: str) -> None:
    answer = download(api, job, Range=wanted)
    assert (answer.status_code, answer.json()["code"]) == (416, "range_not_satisfiable")
    assert answer.headers["Content-Range"] == f"bytes */{len(CONTENT)}"


@pytest.mark.parametrize("wanted", ["bytes=0-1,5-6", "lines=1-2", "bytes=9-1", "bytes=-"])
def test_a_range_that_is_not_understood_gives_the_whole(api: Api, job: str, wanted: str) -> None:
    answer = download(api, job, Range=wanted)
    assert (answer.status_code, len(answer.content)) == (200, len(CONTENT))


def test_if_range_gives_the_range_only_of_the_same_file(api: Api, job: str) -> None:
    assert download(api, job, Range="bytes=0-9", If_Range=f'"{DIGEST.hexdigest()}"').status_code == 206
    assert download(api, job, Range="bytes=0-9", If_Range='"another"').status_code == 200


def test_a_client_that_has_the_file_gets_304(api: Api, job: str) -> None:
    answer = download(api, job, If_None_Match=f'"{DIGEST.hexdigest()}"')
    assert (answer.status_code, answer.content) == (304, b"")


def test_head_tells_everything_but_the_bytes(api: Api, job: str) -> None:
    answer = api.client.head(f"/v1/jobs/{job}/artifacts/model_int8.pt")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["Content-Length"] == str(len(CONTENT))


def test_an_unknown_artifact_is_404_and_says_what_there_is(api: Api, job: str) -> None:
    answer = api.client.get(f"/v1/jobs/{job}/artifacts/model.onnx")
    assert answer.status_code == 404
    assert "model_int8.pt" in answer.json()["detail"]
    for name in ("..%2f..%2fapi-key", "%00"):
        assert api.client.get(f"/v1/jobs/{job}/artifacts/{name}").status_code == 404


def test_a_file_that_the_store_lost_is_an_honest_500(api: Api, job: str) -> None:
    api.store.delete(artifact_key(job, 1, "model_int8.pt"))
    answer = download(api, job)
    assert (answer.status_code, answer.json()["code"]) == (500, "object_missing")


def test_with_presigned_downloads_the_answer_leads_to_the_store(
    tmp_path: Path, small_net: Path, s3_settings: StorageSettings
) -> None:
    storage = s3_settings.model_copy(update={"presign_downloads": True})
    with running_api(tmp_path / "data", storage=storage) as api:
        answer = download(api, finished_job(api, small_net))
        assert answer.status_code == 307
        fetched = httpx2.get(answer.headers["Location"])
    assert fetched.content == CONTENT
