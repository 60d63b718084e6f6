# Made by scripts/unasync.py from octavo/_async: change it there.
"""`job.artifacts`: the result files of a job."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from octavo._concurrency import run_blocking, sleep
from octavo._exceptions import APIConnectionError, OctavoError
from octavo._files import PartialDownload
from octavo._progress import TransferBar
from octavo._retry import delay_seconds
from octavo._sync.transport import Transport
from octavo._types import Artifact

BROKEN_CONNECTIONS = 5  #: in a row, without a byte arriving between them, before a download gives up


class Artifacts:
    """The result files of a job: a collection, by name."""

    def __init__(self, transport: Transport, artifacts: Sequence[Artifact], recommended: Sequence[str] = ()) -> None:
        self._transport = transport
        self._artifacts = {artifact.name: artifact for artifact in artifacts}
        self._recommended = recommended

    @property
    def recommended(self) -> list[str]:
        """Names of the file that the report recommends and of its example, to download; empty if it recommends none.

        So it is too of a job from a list, which has no report until a `refresh()`.
        """
        return [name for name in self._recommended if name in self._artifacts]

    def __iter__(self) -> Iterator[Artifact]:
        return iter(self._artifacts.values())

    def __len__(self) -> int:
        return len(self._artifacts)

    def __contains__(self, name: object) -> bool:
        return name in self._artifacts

    def __getitem__(self, name: str) -> Artifact:
        try:
            return self._artifacts[name]
        except KeyError:
            raise KeyError(f"no artifact {name!r}; there are: {', '.join(self._artifacts) or 'none'}") from None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self._artifacts)})"

    def download(
        self,
        directory: str | os.PathLike[str] = ".",
        names: str | Sequence[str] | None = None,
        *,
        progress: bool | None = None,
    ) -> dict[str, Path]:
        """Download the artifacts, or those named, into a directory; returns where each one is.

        A file is in its place only when it is whole and its SHA-256 is right; one that is there already is not fetched
        again; a broken download goes on where it stopped.

        Raises:
            KeyError: there is no such artifact.
            ChecksumMismatch: the bytes are not those that the server announced.
        """
        wanted = list(self._artifacts) if names is None else [names] if isinstance(names, str) else names
        chosen = [self[name] for name in wanted]
        folder = Path(directory)
        run_blocking(folder.mkdir, parents=True, exist_ok=True)
        return {artifact.name: self._download_one(artifact, folder, progress) for artifact in chosen}

    def _download_one(self, artifact: Artifact, folder: Path, progress: bool | None) -> Path:
        if artifact.name in {"", ".."} or Path(artifact.name).name != artifact.name:
            raise OctavoError(f"the server names an artifact {artifact.name!r}, which is no plain file name")
        download = PartialDownload(folder / artifact.name, artifact.sha256)
        if run_blocking(download.is_complete):
            return download.path
        with TransferBar(artifact.name, artifact.size_bytes, enabled=progress) as bar:
            broken = 0
            while download.size_bytes < artifact.size_bytes:
                before = download.size_bytes
                try:
                    self._receive(artifact, download, bar)
                except APIConnectionError:
                    broken = 0 if download.size_bytes > before else broken + 1
                    if broken > BROKEN_CONNECTIONS:
                        raise
                    sleep(delay_seconds(broken))
                else:
                    break
        return run_blocking(download.finish)

    def _receive(self, artifact: Artifact, download: PartialDownload, bar: TransferBar) -> None:
        have = download.size_bytes
        headers = {"Accept-Encoding": "identity"}
        if have:
            headers |= {"Range": f"bytes={have}-", "If-Range": f'"{artifact.sha256}"'}
        with self._transport.stream(artifact.url, headers=headers) as response:
            if response.status_code != 206:
                download.restart()
            for chunk in response.iter_bytes():
                download.append(chunk)
                bar.moved_to(download.size_bytes)
