"""Every SQL statement about plans that were asked for: a question waits in its row until a worker takes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from shared.database.records import WorkerDescription
from shared.database.tables import now, plans
from shared.errors import JobError
from shared.hardware import lacks, stored_hardware
from shared.job import new_id
from shared.quantization_spec import Hardware

PATIENCE_SECONDS = 60.0  #: So long whoever asks waits for the answer; an older question is taken by nobody.
_KEPT_SECONDS = 600.0
_OPEN = (plans.c.taken_at.is_(None), plans.c.asked_at > now() - PATIENCE_SECONDS)


@dataclass(frozen=True)
class AskedPlan:
    """A question that a worker has taken."""

    id: str
    spec: dict[str, Any]
    patience_seconds: float
    """How much longer whoever asked waits."""


@dataclass(frozen=True)
class AnsweredPlan:
    """What became of a question: one of the two, or neither yet."""

    plan: dict[str, Any] | None
    error: JobError | None
    taken: bool


class PlanRepository:
    """Questions and answers, within one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def ask(self, spec: dict[str, Any], hardware: Hardware | None) -> str:
        """Insert a question; its id."""
        plan_id = new_id("pln")
        demand = None if hardware is None else hardware.model_dump_json()
        self._connection.execute(insert(plans).values(id=plan_id, spec=spec, hardware=demand, asked_at=now()))
        return plan_id

    def waiting(self) -> int:
        """How many questions wait for a worker, and somebody for the answer."""
        query = select(func.count()).select_from(plans).where(*_OPEN)
        return self._connection.scalar(query) or 0

    def take(self, worker: WorkerDescription) -> AskedPlan | None:
        """The oldest question that waits and that this worker may answer."""
        waits = (now() - plans.c.asked_at).label("waits")
        rows = self._connection.execute(select(plans, waits).where(*_OPEN).order_by(plans.c.id))
        for row in rows.all():
            if lacks(worker, stored_hardware(row.hardware)):
                continue
            taken = update(plans).where(plans.c.id == row.id, plans.c.taken_at.is_(None)).values(taken_at=now())
            if self._connection.execute(taken).rowcount:
                return AskedPlan(row.id, row.spec, PATIENCE_SECONDS - row.waits)
        return None

    def is_awaited(self, plan_id: str) -> bool:
        """Whether somebody still waits for the answer."""
        return self._connection.execute(select(plans.c.id).where(plans.c.id == plan_id)).first() is not None

    def answer(self, plan_id: str, *, plan: dict[str, Any] | None = None, error: JobError | None = None) -> None:
        """Write the answer, or why there is none."""
        values = {"plan": plan} if error is None else {"error": error.model_dump(mode="json")}
        self._connection.execute(update(plans).where(plans.c.id == plan_id).values(**values))

    def answer_to(self, plan_id: str) -> AnsweredPlan:
        """What is known by now."""
        row = self._connection.execute(select(plans).where(plans.c.id == plan_id)).one()
        error = None if row.error is None else JobError.model_validate(row.error)
        return AnsweredPlan(row.plan, error, taken=row.taken_at is not None)

    def withdraw(self, plan_id: str) -> None:
        """Nobody waits for the answer any more, or it has been given."""
        self._connection.execute(delete(plans).where(plans.c.id == plan_id))

    def sweep(self) -> None:
        """Forget what whoever asked did not withdraw, for it went away."""
        self._connection.execute(delete(plans).where(plans.c.asked_at < now() - _KEPT_SECONDS))
