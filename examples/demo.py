"""`make demo`: starts the embedded server, runs quantize_digits.py on it, stops all that it started.

    python examples/demo.py [data directory]

Nothing is fetched from anywhere; what it makes stays in ./octavo-demo.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import quantize_digits

import octavo

START_SECONDS = 60
STOP_SECONDS = 20


def free_port() -> int:
    """A port that nothing listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """`octavo-server up` as a process of ours."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = directory / "demo-server.log"
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [str(Path(sys.executable).with_name("octavo-server")), "up"]
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                [*command, "--data-dir", str(directory), "--port", str(port)],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | {"OCTAVO_API__READY_NEEDS_WORKER": "true"},
                # Ctrl-C is for us; the server is then told to stop in order.
                start_new_session=True,
            )

    def wait_until_ready(self) -> None:
        """Until /readyz answers 200, worker included."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
                urllib.request.urlopen(f"{self.url}/readyz", timeout=5).close()  # noqa: S310  # our own address
                return
            time.sleep(0.1)
        raise SystemExit(f"The server did not become ready:\n{self.log.read_text()[-4000:]}")

    @property
    def api_key(self) -> str:
        """The key that it made on its first start."""
        return (self.directory / "api-key").read_text().strip()

    def stop(self) -> None:
        """In order; by force if it takes too long."""
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


@contextlib.contextmanager
def running_server(directory: Path) -> Iterator[Server]:
    """A server that is stopped whatever happens."""
    directory.mkdir(parents=True, exist_ok=True)
    server = Server(directory)
    try:
        yield server
    finally:
        server.stop()


def main() -> None:
    """Start, train meanwhile, run the main job, stop, say what is next."""
    # `kill`, and the closing of the terminal, must stop the server as Ctrl-C does.
    for stop in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(stop, lambda number, _: sys.exit(128 + number))
    began = time.monotonic()
    directory = Path(sys.argv[1] if len(sys.argv) > 1 else "octavo-demo").absolute()
    print(f"Starting octavo-server in {directory}", flush=True)
    with running_server(directory) as server:
        print("Training a small convolutional network on handwritten digits", flush=True)
        train_set, test_set = quantize_digits.load()
        network = quantize_digits.trained_network(train_set)
        server.wait_until_ready()
        with octavo.Client(server.url, server.api_key) as client:
            quantize_digits.run(client, directory / "results", network, train_set, test_set)
    shown = Path(os.path.relpath(directory))
    bin_directory = Path(os.path.relpath(Path(sys.executable).parent))
    print(
        f"\nDone in {time.monotonic() - began:.0f} s, the server is stopped; the models are in {shown}/results.\n\n"
        "Next:\n"
        f"  source {bin_directory}/activate\n"
        f"  octavo-server up --data-dir {shown}        # the same server again, to keep\n"
        "and in another terminal:\n"
        f"  source {bin_directory}/activate\n"
        f"  export OCTAVO_API_KEY=$(cat {shown}/api-key)\n"
        "  octavo jobs list\n"
        "  octavo quantize your_model.pt2 --method dynamic --wait"
    )


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
