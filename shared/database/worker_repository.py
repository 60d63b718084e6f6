"""Every SQL statement about workers: who is alive, and what they can do."""

from __future__ import annotations

from sqlalchemy import Connection, delete, insert, select, update

from shared.database.records import WorkerDescription, WorkerRecord
from shared.database.tables import now, workers

ALIVE_SECONDS = 15.0
"""A worker not heard of for this long is not counted as alive; it says so every 5 s."""


class WorkerRepository:
    """Workers, within one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def register(self, worker_id: str, description: WorkerDescription) -> None:
        """A worker has started."""
        values = {"id": worker_id, "description": description.model_dump(), "status": "idle"}
        self._connection.execute(insert(workers).values(**values, started_at=now(), heartbeat_at=now()))

    def heartbeat(self, worker_id: str, status: str) -> bool:
        """The worker lives; False when its row was swept meanwhile and it must register again."""
        statement = update(workers).where(workers.c.id == worker_id).values(status=status, heartbeat_at=now())
        return bool(self._connection.execute(statement).rowcount)

    def unregister(self, worker_id: str) -> None:
        """The worker has stopped."""
        self._connection.execute(delete(workers).where(workers.c.id == worker_id))

    def alive(self) -> list[WorkerRecord]:
        """Workers heard of lately, oldest first."""
        query = select(workers).where(workers.c.heartbeat_at > now() - ALIVE_SECONDS).order_by(workers.c.started_at)
        return [
            WorkerRecord(
                id=row.id,
                description=WorkerDescription.model_validate(row.description),
                status=row.status,
                started_at=row.started_at,
                heartbeat_at=row.heartbeat_at,
            )
            for row in self._connection.execute(query)
        ]

    def sweep(self) -> None:
        """Forget workers not heard of for an hour."""
        self._connection.execute(delete(workers).where(workers.c.heartbeat_at < now() - 3600))
