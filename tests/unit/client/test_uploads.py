"""A file reaches the server whole: once, in parts, over broken connections, and not at all if it is there."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import octavo
from octavo._async import uploads as async_uploads
from octavo._files import content_digest
from octavo._sync import uploads as sync_uploads
from tests.unit.client import samples
from tests.unit.client.scripted_server import (
    Dropped,
    Reply,
    Request,
    Script,
    ScriptedServer,
    as_json,
    in_turn,
    problem,
)

Serve = Callable[[Script], ScriptedServer]
PART_BYTES = 1000
CONTENT = bytes(index * 7 % 251 for index in range(3500))
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def model_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that counts as large: it is sent in four parts."""
    for module in (sync_uploads, async_uploads):
        monkeypatch.setattr(module, "ONE_SHOT_BYTES", 100)
    path = tmp_path / "net.pt2"
    path.write_bytes(CONTENT)
    return path


class UploadServer:
    """The server's side of an upload in parts; `before_part` may break the connection."""

    def __init__(self, before_part: Callable[[int], None] = lambda _: None) -> None:
        self.before_part = before_part
        self.parts: dict[int, bytes] = {}
        self.answers: dict[str, Any] = {}
        self.uploads = 0
        self.complete = False
        self.forgotten = False
        self.lock = threading.Lock()

    def __call__(self, request: Request) -> Reply:
        with self.lock:
            if request.method == "POST" and request.path == "/v1/uploads":
                return self.create(request)
            if self.forgotten and "upl_1" in request.path:
                return problem(404, "not_found")
            if request.method == "GET":
                return as_json(self.state())
            if request.method == "PUT":
                return self.put(request)
            assert request.path.endswith("/complete")
            self.complete = True
            content = b"".join(self.parts[number] for number in sorted(self.parts))
            assert request.json == {"sha256": hashlib.sha256(content).hexdigest()}
            return as_json(samples.model(sha256=request.json["sha256"]), 201)

    def create(self, request: Request) -> Reply:
        key = request.headers["Idempotency-Key"]
        if key not in self.answers:
            self.uploads += 1
            self.answers[key] = self.state()
        return as_json(self.answers[key], 201)

    def put(self, request: Request) -> Reply:
        number = int(request.path.rpartition("/")[2])
        self.before_part(number)
        sha256 = hashlib.sha256(request.body).hexdigest()
        assert request.headers["Content-Digest"] == content_digest(sha256)
        self.parts[number] = request.body
        return as_json({"number": number, "size_bytes": len(request.body), "sha256": sha256})

    def state(self) -> dict[str, Any]:
        parts = [
            {"number": number, "size_bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
            for number, body in sorted(self.parts.items())
        ]
        status = "complete" if self.complete else "open"
        upload_id = f"upl_{self.uploads}"
        return {"id": upload_id, "part_size_bytes": PART_BYTES, "parts": parts, "status": status, "object": None}


def sent_parts(server: ScriptedServer) -> list[int]:
    return [int(request.path.rpartition("/")[2]) for request in server.requests if request.method == "PUT"]


def test_a_small_file_goes_in_one_request(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    path.write_bytes(CONTENT)
    server = serve(in_turn(as_json(samples.model(), 201)))
    with octavo.Client(server.url) as client:
        model = client.models.upload(path, name="my net")
    assert model.id == "mdl_019abc5d1f0e7a33c49d20"
    [request] = server.requests
    assert (request.method, request.path) == ("POST", "/v1/models")
    assert request.query == {"name": "my net", "filename": "net.pt2"}
    assert request.body == CONTENT
    assert request.headers["Content-Digest"] == content_digest(SHA256)


def test_the_body_is_sent_again_in_full_when_a_one_shot_upload_is_retried(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "images.npz"
    path.write_bytes(CONTENT)
    server = serve(in_turn(problem(503, "busy"), Dropped, as_json(samples.dataset(), 201)))
    with octavo.Client(server.url) as client:
        client.datasets.upload(path)
    assert [request.body for request in server.requests] == [CONTENT] * 3
    assert len({request.headers["Idempotency-Key"] for request in server.requests}) == 1


def test_a_large_file_goes_in_parts(serve: Serve, model_file: Path) -> None:
    script = UploadServer()
    server = serve(script)
    with octavo.Client(server.url) as client:
        model = client.models.upload(model_file)
    assert model.sha256 == SHA256
    assert sent_parts(server) == [1, 2, 3, 4]
    assert server.requests[0].json == {
        "kind": "model",
        "name": "net",
        "filename": "net.pt2",
        "size_bytes": 3500,
        "sha256": SHA256,
    }


def test_content_that_is_there_is_not_sent(serve: Serve, model_file: Path) -> None:
    known = {"status": "complete", "object": samples.model(sha256=SHA256)}

    def script(request: Request) -> Reply:
        return as_json(known if request.method == "POST" else samples.model(sha256=SHA256))

    server = serve(script)
    with octavo.Client(server.url) as client:
        assert client.models.upload(model_file).sha256 == SHA256
    assert sent_parts(server) == []


def drop_part_three(times: int) -> Callable[[int], None]:
    left = [times]

    def before_part(number: int) -> None:
        if number == 3 and left[0] > 0:
            left[0] -= 1
            raise Dropped

    return before_part


def test_a_broken_upload_goes_on_from_the_parts_that_arrived(serve: Serve, model_file: Path) -> None:
    """More breaks than one request is retried for; parts 1 and 2 are never sent again."""
    server = serve(UploadServer(drop_part_three(5)))
    with octavo.Client(server.url, max_retries=1) as client:
        assert client.models.upload(model_file).sha256 == SHA256
    assert sent_parts(server) == [1, 2, *[3] * 6, 4]


def test_an_upload_gives_up_when_nothing_gets_through(serve: Serve, model_file: Path) -> None:
    server = serve(UploadServer(drop_part_three(1000)))
    with octavo.Client(server.url, max_retries=0) as client, pytest.raises(octavo.APIConnectionError):
        client.models.upload(model_file)
    assert sent_parts(server) == [1, 2, *[3] * 7]


def test_another_process_takes_up_the_upload_of_one_that_died(serve: Serve, model_file: Path) -> None:
    """The same file finds its own upload again; only what is missing is sent."""
    script = UploadServer(drop_part_three(7))
    server = serve(script)
    with octavo.Client(server.url, max_retries=0) as client, pytest.raises(octavo.APIConnectionError):
        client.models.upload(model_file)
    before = len(sent_parts(server))
    with octavo.Client(server.url, max_retries=0) as client:
        assert client.models.upload(model_file).sha256 == SHA256
    assert sent_parts(server)[before:] == [3, 4]
    assert script.uploads == 1


@pytest.mark.parametrize("end", ["complete", "forgotten"])
def test_an_upload_that_is_closed_is_begun_anew(serve: Serve, model_file: Path, end: str) -> None:
    """The first was completed and its model deleted, or it has expired."""
    script = UploadServer()
    server = serve(script)
    with octavo.Client(server.url) as client:
        client.models.upload(model_file)
        setattr(script, end, True)
        script.parts.clear()
        assert client.models.upload(model_file).sha256 == SHA256
    assert script.uploads == 2
    assert sent_parts(server) == [1, 2, 3, 4] * 2


def test_a_refused_part_is_no_reason_to_go_on(serve: Serve, model_file: Path) -> None:
    def refuse(request: Request) -> Reply:
        return problem(409, "part_conflict") if request.method == "PUT" else UploadServer()(request)

    server = serve(refuse)
    with octavo.Client(server.url) as client, pytest.raises(octavo.ConflictError, match="part_conflict"):
        client.models.upload(model_file)
    assert sent_parts(server) == [1]


def test_the_async_client_resumes_too(serve: Serve, model_file: Path) -> None:
    server = serve(UploadServer(drop_part_three(2)))

    async def upload() -> octavo.Model:
        async with octavo.AsyncClient(server.url, max_retries=0) as client:
            return await client.models.upload(model_file)

    assert asyncio.run(upload()).sha256 == SHA256
    assert sent_parts(server) == [1, 2, 3, 3, 3, 4]


def test_a_path_with_labels_is_refused(tmp_path: Path) -> None:
    with octavo.Client() as client, pytest.raises(TypeError, match="its own labels"):
        client.datasets.upload(tmp_path / "images.npz", labels=[1])
