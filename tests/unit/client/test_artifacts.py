"""Downloads: whole, checked, resumed, and never outside the directory."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import octavo
from tests.unit.client import samples
from tests.unit.client.scripted_server import Reply, Request, Script, ScriptedServer, as_json, problem

Serve = Callable[[Script], ScriptedServer]
CONTENT = bytes(index * 7 % 251 for index in range(300_000))
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def artifact(name: str = "model_int8.pt", sha256: str = SHA256) -> dict[str, Any]:
    return {
        "name": name,
        "kind": "model",
        "media_type": "application/octet-stream",
        "size_bytes": len(CONTENT),
        "sha256": sha256,
        "url": f"/v1/jobs/{samples.JOB_ID}/artifacts/model_int8.pt",
    }


class ArtifactServer:
    """Serves the artifact with Range; `cuts` are how many bytes are sent before the connection breaks, in turn."""

    def __init__(self, *cuts: int, ranges: bool = True, artifacts: list[dict[str, Any]] | None = None) -> None:
        self.cuts = list(cuts)
        self.ranges = ranges
        self.artifacts = artifacts or [artifact()]

    def __call__(self, request: Request) -> Reply:
        if not request.path.endswith("/model_int8.pt"):
            return as_json(samples.job("succeeded", artifacts=self.artifacts))
        wanted = request.headers["Range"]
        headers = {"ETag": f'"{SHA256}"', "Content-Type": "application/octet-stream"}
        cut = self.cuts.pop(0) if self.cuts else None
        if wanted and self.ranges:
            assert request.headers["If-Range"] == f'"{SHA256}"'
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            headers["Content-Range"] = f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"
            return Reply(206, CONTENT[start:], headers, cut_after=cut)
        return Reply(200, CONTENT, headers, cut_after=cut)


def download(server: ScriptedServer, directory: Path, *names: str) -> dict[str, Path]:
    with octavo.Client(server.url, max_retries=0) as client:
        return client.jobs.get(samples.JOB_ID).artifacts.download(directory, names or None)


def ranges(server: ScriptedServer) -> list[str | None]:
    return [request.headers["Range"] for request in server.requests if request.path.endswith(".pt")]


def test_an_artifact_is_downloaded(serve: Serve, tmp_path: Path) -> None:
    paths = download(serve(ArtifactServer()), tmp_path / "new" / "directory")
    assert paths == {"model_int8.pt": tmp_path / "new" / "directory" / "model_int8.pt"}
    assert paths["model_int8.pt"].read_bytes() == CONTENT


def test_a_broken_download_goes_on_where_it_stopped(serve: Serve, tmp_path: Path) -> None:
    server = serve(ArtifactServer(100_000, 50_000))
    assert download(server, tmp_path)["model_int8.pt"].read_bytes() == CONTENT
    assert ranges(server) == [None, "bytes=100000-", "bytes=150000-"]


def test_a_server_without_ranges_sends_all_again(serve: Serve, tmp_path: Path) -> None:
    server = serve(ArtifactServer(100_000, ranges=False))
    assert download(server, tmp_path)["model_int8.pt"].read_bytes() == CONTENT


def test_a_later_process_goes_on_from_what_an_earlier_one_got(serve: Serve, tmp_path: Path) -> None:
    with pytest.raises(octavo.APIConnectionError):
        download(serve(ArtifactServer(100_000, *[0] * 20)), tmp_path)
    server = serve(ArtifactServer())
    assert download(server, tmp_path)["model_int8.pt"].read_bytes() == CONTENT
    assert ranges(server) == ["bytes=100000-"]


def test_wrong_bytes_are_thrown_away(serve: Serve, tmp_path: Path) -> None:
    server = serve(ArtifactServer(artifacts=[artifact(sha256="0" * 64)]))
    with pytest.raises(octavo.ChecksumMismatch, match=r"model_int8\.pt"):
        download(server, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_already_is_not_fetched(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "model_int8.pt").write_bytes(CONTENT)
    server = serve(ArtifactServer())
    download(server, tmp_path)
    assert ranges(server) == []


def test_a_file_with_other_content_is_replaced(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "model_int8.pt").write_bytes(b"an older one")
    assert download(serve(ArtifactServer()), tmp_path)["model_int8.pt"].read_bytes() == CONTENT


def test_an_unknown_name_is_refused_before_anything_is_fetched(serve: Serve, tmp_path: Path) -> None:
    server = serve(ArtifactServer())
    with pytest.raises(KeyError, match=r"model_int8\.pt"):
        download(server, tmp_path, "model_int8.pt", "nothing")
    assert ranges(server) == []


@pytest.mark.parametrize("name", ["../escape.pt", "/tmp/escape.pt", "sub/escape.pt", ".."])
def test_a_name_that_leaves_the_directory_is_refused(serve: Serve, tmp_path: Path, name: str) -> None:
    server = serve(ArtifactServer(artifacts=[artifact(name)]))
    with pytest.raises(octavo.OctavoError, match="no plain file name"):
        download(server, tmp_path / "results")
    assert list(tmp_path.rglob("*.pt")) == []


def test_a_missing_artifact_is_an_error_and_not_retried(serve: Serve, tmp_path: Path) -> None:
    def gone(request: Request) -> Reply:
        return problem(404, "not_found") if request.path.endswith(".pt") else ArtifactServer()(request)

    server = serve(gone)
    with pytest.raises(octavo.NotFoundError):
        download(server, tmp_path)
    assert len(ranges(server)) == 1


class RecommendingServer(ArtifactServer):
    """Its job's report recommends the file for OpenVINO."""

    def __call__(self, request: Request) -> Reply:
        best = samples.artifact_result("model_int8.openvino.onnx", "openvino")
        report = samples.report(recommended=best["name"], artifacts=[best])
        if "/artifacts/" in request.path:
            return Reply(200, CONTENT, {"Content-Type": "application/octet-stream"})
        return as_json(samples.job("succeeded", artifacts=self.artifacts, report=report))


def test_the_recommended_artifact_is_downloaded_with_its_example(serve: Serve, tmp_path: Path) -> None:
    names = ["load_example.py", "load_example_openvino.py", "model_int8.openvino.onnx", "model_int8.pt"]
    server = serve(RecommendingServer(artifacts=[artifact(name) for name in names]))
    with octavo.Client(server.url, max_retries=0) as client:
        artifacts = client.jobs.get(samples.JOB_ID).artifacts
        assert artifacts.recommended == ["model_int8.openvino.onnx", "load_example_openvino.py"]
        assert set(artifacts.download(tmp_path, artifacts.recommended)) == set(artifacts.recommended)
    assert {path.name for path in tmp_path.iterdir()} == set(artifacts.recommended)


def test_where_the_report_recommends_nothing_no_artifact_is_recommended(serve: Serve) -> None:
    with octavo.Client(serve(ArtifactServer()).url) as client:
        assert client.jobs.get(samples.JOB_ID).artifacts.recommended == []


def test_the_async_client_downloads_alike(serve: Serve, tmp_path: Path) -> None:
    server = serve(ArtifactServer(1000))

    async def fetch() -> dict[str, Path]:
        async with octavo.AsyncClient(server.url) as client:
            job = await client.jobs.get(samples.JOB_ID)
            return await job.artifacts.download(tmp_path, "model_int8.pt")

    assert asyncio.run(fetch())["model_int8.pt"].read_bytes() == CONTENT
