"""A running `octavo-server up` in a directory of its own, its processes, and plain HTTP to it."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FINISHED = {"succeeded", "failed", "cancelled"}


class RunningStack:
    """The service under test."""

    def __init__(self, data_dir: Path, environment: dict[str, str]) -> None:
        self.data_dir = data_dir
        started_at = time.perf_counter()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "server", "up", "--port", "0", "--data-dir", str(data_dir)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        assert self.process.stdout is not None
        printed = ""
        for line in self.process.stdout:
            printed += line
            if "Ctrl-C stops everything" in line:
                break
        self.start_seconds = time.perf_counter() - started_at
        address = re.search(r"address +(http://\S+)", printed)
        assert address is not None, f"it did not start: {printed}"
        self.address = urllib.parse.urlsplit(address[1])
        self.key = (data_dir / "api-key").read_text().strip()

    def stop(self) -> None:
        """As Ctrl-C does."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=60)

    def connect(self) -> http.client.HTTPConnection:
        """A connection to the API."""
        # Blocks large enough that an upload's speed is the server's.
        return http.client.HTTPConnection(self.address.hostname or "", self.address.port, timeout=600, blocksize=2**20)

    def headers(self) -> dict[str, str]:
        """What every request carries."""
        return {"Authorization": f"Bearer {self.key}"}

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        connection: http.client.HTTPConnection | None = None,
        headers: dict[str, str] | None = None,
    ) -> Any:
        """One request; a dict is sent as JSON, a file as it is. Raises RuntimeError unless the answer is 2xx."""
        connection = connection or self.connect()
        sent = {**self.headers(), **(headers or {})}
        if isinstance(body, dict):
            body = json.dumps(body)
            sent["Content-Type"] = "application/json"
        connection.request(method, path, body, sent)
        answer = connection.getresponse()
        content = answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {content[:500]!r}")
        return json.loads(content) if content else None

    def upload(self, kind: str, path: Path) -> str:
        """Send a file in one request; its id."""
        query = urllib.parse.urlencode({"name": path.stem, "filename": path.name})
        with path.open("rb") as file:
            headers = {"Content-Length": str(path.stat().st_size), "Content-Type": "application/octet-stream"}
            return str(self.request("POST", f"/v1/{kind}?{query}", file, headers=headers)["id"])

    def wait(self, job_id: str, *, connection: http.client.HTTPConnection) -> dict[str, Any]:
        """Long polls until the job has finished."""
        etag = ""
        while True:
            headers = {**self.headers(), **({"If-None-Match": etag} if etag else {})}
            connection.request("GET", f"/v1/jobs/{job_id}?wait=30", headers=headers)
            answer = connection.getresponse()
            content = answer.read()
            if answer.status == 200:
                etag = answer.headers["ETag"]
                job: dict[str, Any] = json.loads(content)
                if job["status"] in FINISHED:
                    return job

    def process_id(self, module: str) -> int:
        """Of the API or of the worker's supervisor."""
        for pid, parent, command in _processes():
            if parent == self.process.pid and command[-2:] == ["-m", module]:
                return pid
        raise LookupError(module)


def tree(pid: int) -> list[tuple[int, list[str]]]:
    """The process and everything below it: process id and command line."""
    found = [(each, command) for each, _, command in _processes() if each == pid]
    for child, parent, _ in _processes():
        if parent == pid:
            found += tree(child)
    return found


def memory_bytes(pid: int, field: str) -> int:
    """`VmRSS` (now) or `VmHWM` (peak) of a process."""
    match = re.search(rf"^{field}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert match is not None
    return int(match[1]) * 1024


def reset_peak(pid: int) -> None:
    """Let VmHWM start again at what is used now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _processes() -> Iterator[tuple[int, int, list[str]]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                command = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
            except (FileNotFoundError, ProcessLookupError):
                continue
            yield int(entry.name), parent, command


@contextmanager
def running_stack(**environment: str) -> Iterator[RunningStack]:
    """The service in a temporary directory, stopped at the end."""
    with tempfile.TemporaryDirectory(prefix="octavo-benchmark-") as directory:
        stack = RunningStack(Path(directory) / "data", environment)
        try:
            yield stack
        finally:
            stack.stop()
