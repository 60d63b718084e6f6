"""A question for a plan: put into the database, and waited for until a worker has answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from starlette.concurrency import run_in_threadpool

from api.idempotency import Answer, Once, do_once, recalled
from api.jobs.checks import check_spec
from api.services import Services
from shared.database.object_repository import ObjectRepository
from shared.database.plan_repository import PATIENCE_SECONDS, AnsweredPlan, PlanRepository
from shared.database.worker_repository import WorkerRepository
from shared.errors import InternalError, PlanUnavailable, class_of
from shared.hardware import waiting_for
from shared.job_plan import JobPlan
from shared.job_spec import Spec

_LOOK_SECONDS = 0.1
_MOST_WAITING = 20


async def plan(services: Services, question: Spec, once: Once, gone: Callable[[], Awaitable[bool]]) -> Answer:
    """The plan, once a worker has found it; raises what the job would fail with, or PlanUnavailable.

    `gone` tells whether whoever asked has gone away: then the question is withdrawn.
    """
    known = await run_in_threadpool(_known, services, once)
    if known is not None:
        return known
    plan_id = await run_in_threadpool(_ask, services, question)
    try:
        answered = await _wait(services, plan_id, gone)
    finally:
        await run_in_threadpool(_withdraw, services, plan_id)
    if answered.error is not None:
        kind = class_of(answered.error.code) or InternalError
        raise kind(answered.error.message, hint=answered.error.hint)
    if answered.plan is None:
        busy = "all that may are busy with others" if not answered.taken else "the one that looks at it is not done"
        raise PlanUnavailable(f"No worker has answered within {PATIENCE_SECONDS:g} s: {busy}.")
    found = Answer.of(200, JobPlan.model_validate(answered.plan))
    return await run_in_threadpool(do_once, services.database, once, lambda _: found)


def _known(services: Services, once: Once) -> Answer | None:
    with services.database.read() as connection:
        return recalled(connection, once)


def _ask(services: Services, question: Spec) -> str:
    with services.database.write() as connection:
        check_spec(ObjectRepository(connection), question)
        plans = PlanRepository(connection)
        reason = waiting_for(question.hardware, WorkerRepository(connection).alive())
        if reason is not None:
            raise PlanUnavailable(reason, hint="A job may be submitted all the same: it waits until there is one.")
        if plans.waiting() >= _MOST_WAITING:
            raise PlanUnavailable(f"{_MOST_WAITING} others wait for their plans.", hint="Ask again in a minute.")
        return plans.ask(question.model_dump(mode="json"), question.hardware)


async def _wait(services: Services, plan_id: str, gone: Callable[[], Awaitable[bool]]) -> AnsweredPlan:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        answered = await run_in_threadpool(_look, services, plan_id)
        if answered.plan is not None or answered.error is not None or time.monotonic() > deadline or await gone():
            return answered
        await asyncio.sleep(_LOOK_SECONDS)


def _look(services: Services, plan_id: str) -> AnsweredPlan:
    with services.database.read() as connection:
        return PlanRepository(connection).answer_to(plan_id)


def _withdraw(services: Services, plan_id: str) -> None:
    with services.database.write() as connection:
        PlanRepository(connection).withdraw(plan_id)
