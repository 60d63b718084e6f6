"""The truth about jobs, objects and workers: SQLite on one machine, PostgreSQL on many."""

from shared.database.session import Database, migrate

__all__ = ["Database", "migrate"]
