"""Connections and transactions: one engine for each process, one commit at the edge."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import Connection, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from shared.errors import DatabaseUnavailable, DiskFull

_MIGRATIONS = Path(__file__).parent / "migrations"


class Database:
    """A database that holds the current schema; hands out transactions.

    `read()` and `write()` raise DatabaseUnavailable when the database does not answer.
    """

    def __init__(self, url: str) -> None:
        self.engine = _engine(url)
        # SQLite has one writer at a time, and who waits for it in SQLite polls with growing pauses, overtaken by all
        # who come later: a stall of the disk then costs many requests a second. Threads of one process queue here.
        self._writer: contextlib.AbstractContextManager[object] = (
            threading.Lock() if self.engine.dialect.name == "sqlite" else contextlib.nullcontext()
        )

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads."""
        with _translated_errors(), self.engine.connect() as connection, connection.begin():
            yield connection

    @contextlib.contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that writes; commits on leaving, rolls back on an exception."""
        # SQLite would refuse to turn a reader into a writer under contention: a writer says so from the start.
        with (
            self._writer,
            _translated_errors(),
            self.engine.connect().execution_options(octavo_write=True) as connection,
            connection.begin(),
        ):
            yield connection

    def check(self) -> None:
        """Ask the database for the time of day, raising DatabaseUnavailable when it does not answer."""
        with self.read() as connection:
            connection.execute(sqlalchemy.text("SELECT 1"))

    def require_current_schema(self) -> None:
        """Refuse to work on a schema of another version."""
        from alembic.runtime.migration import MigrationContext  # noqa: PLC0415 - only at start, and heavy
        from alembic.script import ScriptDirectory  # noqa: PLC0415

        with self.read() as connection:
            found = MigrationContext.configure(connection).get_current_revision()
        expected = ScriptDirectory(str(_MIGRATIONS)).get_current_head()
        if found != expected:
            raise DatabaseUnavailable(
                f"The database has schema {found or 'none'}; this version of Octavo needs {expected}.",
                hint="Run `octavo-server migrate`.",
            )

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()


def migrate(url: str, revision: str = "head") -> None:
    """Bring the database at `url` to the newest schema, or to this revision, creating it when it is empty."""
    from alembic import command  # noqa: PLC0415 - only here, and heavy
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    engine = _engine(url)
    try:
        with _translated_errors(), engine.connect().execution_options(octavo_write=True) as connection:
            config.attributes["connection"] = connection
            with connection.begin():
                if connection.dialect.name == "postgresql":  # two nodes that start together must not both migrate
                    connection.execute(sqlalchemy.text("SELECT pg_advisory_xact_lock(7227486)"))
                command.upgrade(config, revision)
    finally:
        engine.dispose()


def _engine(url: str) -> sqlalchemy.Engine:
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return sqlalchemy.create_engine(parsed, pool_pre_ping=True, pool_size=10, max_overflow=20, pool_timeout=10)
    if parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = sqlalchemy.create_engine(parsed, pool_size=10, max_overflow=20, pool_timeout=10)

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver would begin transactions at moments of its own choosing
        cursor = connection.cursor()
        # FULL: a job acknowledged with 2xx is on the disk, also after power loss.
        for pragma in ("busy_timeout=10000", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("octavo_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


@contextlib.contextmanager
def _translated_errors() -> Iterator[None]:
    try:
        yield
    except IntegrityError:
        raise
    except (OperationalError, InterfaceError, PoolTimeoutError, DBAPIError) as error:
        if "disk is full" in str(error):
            raise DiskFull("The disk that holds the database is full.") from error
        if isinstance(error, DBAPIError) and not isinstance(error, OperationalError | InterfaceError):
            raise
        raise DatabaseUnavailable from error
