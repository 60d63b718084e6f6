"""What the endpoints work with, built once by `api.app` and handed to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from prometheus_client import CollectorRegistry

from api.jobs.hints import HintPublisher
from api.jobs.watch import JobWatch
from api.staging import StagingArea
from shared.database import Database
from shared.object_store import ObjectStore
from shared.settings import Settings
from shared.task_queue import TaskQueue


@dataclass(frozen=True)
class Services:
    """One process's settings, connections and background threads."""

    settings: Settings
    database: Database
    store: ObjectStore
    staging: StagingArea
    queue: TaskQueue
    hints: HintPublisher
    watch: JobWatch
    metrics: CollectorRegistry


async def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


ServicesDependency = Annotated[Services, Depends(_services)]
