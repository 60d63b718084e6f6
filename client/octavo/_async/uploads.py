"""A file on its way to the server: hashed first, skipped if the server has it, resumed if the connection breaks."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

from octavo._async.transport import AsyncTransport
from octavo._concurrency import async_run_blocking, async_sleep
from octavo._exceptions import APIConnectionError, NotFoundError
from octavo._files import content_digest, part_count, read_region, sha256_of, size_of
from octavo._progress import TransferBar
from octavo._retry import delay_seconds
from octavo._types import Upload

Kind = Literal["model", "dataset"]

ONE_SHOT_BYTES = 8 * 1024**2  #: up to here a file is sent in one request; asking first would cost more than sending
BROKEN_CONNECTIONS = 5  #: in a row, without a part arriving between them, before an upload gives up


async def upload_file(
    transport: AsyncTransport, kind: Kind, path: Path, *, name: str | None, filename: str, progress: bool | None
) -> Any:
    """Send a file and return the model or dataset that the server made of it, as JSON."""
    size_bytes = await async_run_blocking(size_of, path)
    sha256 = await async_run_blocking(sha256_of, path)
    with TransferBar(filename, size_bytes, enabled=progress) as bar:
        if size_bytes <= ONE_SHOT_BYTES:
            response = await transport.request(
                "POST",
                f"/v1/{kind}s",
                params={"name": name, "filename": filename},
                body=lambda: _chunks(path, 0, size_bytes, bar),
                headers=_raw(size_bytes, sha256),
            )
            return response.json()
        announced = {"kind": kind, "name": name, "filename": filename, "size_bytes": size_bytes, "sha256": sha256}
        upload = await _open(transport, announced)
        if upload.object is not None:
            bar.moved_to(size_bytes)
            return upload.object
        await _send_parts(transport, upload, path, bar)
        return await transport.json("POST", f"/v1/uploads/{upload.id}/complete", json={"sha256": sha256})


async def _open(transport: AsyncTransport, announced: dict[str, Any]) -> Upload:
    """Start an upload, or find the one that an earlier process began for this very file.

    The Idempotency-Key is made from the file, so the server repeats its first answer; if that is out of date by now,
    a fresh key starts anew.
    """
    same_file = str(uuid.uuid5(uuid.NAMESPACE_URL, "octavo:" + "\n".join(str(value) for value in announced.values())))
    upload = await _announce(transport, announced, same_file)
    current = await _current(transport, upload, announced["kind"])
    return current or await _announce(transport, announced, None)


async def _announce(transport: AsyncTransport, announced: dict[str, Any], key: str | None) -> Upload:
    response = await transport.request("POST", "/v1/uploads", json=announced, idempotency_key=key)
    return Upload.model_validate(response.json())


async def _current(transport: AsyncTransport, upload: Upload, kind: Kind) -> Upload | None:
    """The upload as it stands now, or None if it takes no more parts or what came of it is gone."""
    try:
        if upload.object is not None:
            upload.object = await transport.json("GET", f"/v1/{kind}s/{upload.object['id']}")
            return upload
        upload = Upload.model_validate(await transport.json("GET", f"/v1/uploads/{upload.id}"))
    except NotFoundError:
        return None
    return upload if upload.status == "open" else None


async def _send_parts(transport: AsyncTransport, upload: Upload, path: Path, bar: TransferBar) -> None:
    """Send what has not arrived yet; after a broken connection ask what has, and go on from there."""
    broken = 0
    while True:
        arrived = {part.number: part.sha256 for part in upload.parts}
        try:
            await _send_missing(transport, upload, path, bar, arrived)
        except APIConnectionError:
            broken += 1
            if broken > BROKEN_CONNECTIONS:
                raise
            await async_sleep(delay_seconds(broken))
        else:
            return
        upload = Upload.model_validate(await transport.json("GET", f"/v1/uploads/{upload.id}"))
        if len(upload.parts) > len(arrived):
            broken = 0


async def _send_missing(
    transport: AsyncTransport, upload: Upload, path: Path, bar: TransferBar, arrived: dict[int, str]
) -> None:
    size_bytes = await async_run_blocking(size_of, path)
    for number in range(1, part_count(size_bytes, upload.part_size_bytes) + 1):
        start = (number - 1) * upload.part_size_bytes
        part_bytes = min(upload.part_size_bytes, size_bytes - start)
        sha256 = await async_run_blocking(sha256_of, path, start, part_bytes)
        if arrived.get(number) == sha256:
            bar.moved_to(start + part_bytes)
            continue
        await _send_part(transport, f"/v1/uploads/{upload.id}/parts/{number}", path, (start, part_bytes, sha256), bar)


async def _send_part(
    transport: AsyncTransport, url: str, path: Path, region: tuple[int, int, str], bar: TransferBar
) -> None:
    start, part_bytes, sha256 = region
    await transport.request(
        "PUT", url, body=lambda: _chunks(path, start, part_bytes, bar), headers=_raw(part_bytes, sha256)
    )


async def _chunks(path: Path, start: int, size_bytes: int, bar: TransferBar) -> AsyncIterator[bytes]:
    bar.moved_to(start)
    for chunk in read_region(path, start, size_bytes):
        yield chunk
        start += len(chunk)
        bar.moved_to(start)


def _raw(size_bytes: int, sha256: str) -> dict[str, str]:
    return {
        "Content-Type": "application/octet-stream",
        "Content-Length": str(size_bytes),
        "Content-Digest": content_digest(sha256),
    }
