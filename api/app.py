"""The API's composition root: settings in, an ASGI application out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

import api.artifacts.endpoints
import api.docs_page
import api.health
import api.jobs.endpoints
import api.meta
import api.objects.endpoints
import api.plan.endpoints
import api.uploads.endpoints
from api.auth import ApiKeys, RequireApiKey
from api.body_limit import LimitJsonBody
from api.error_responses import add_error_handlers
from api.health import new_registry
from api.jobs.hints import HintPublisher
from api.jobs.watch import JobWatch
from api.openapi import document
from api.request_log import HttpMetrics, RequestLog
from api.services import Services
from api.staging import StagingArea
from shared.database import Database
from shared.object_store import open_store
from shared.settings import Settings
from shared.task_queue import TaskQueue


def create_app(settings: Settings) -> FastAPI:
    """The application; it connects to nothing until it is started.

    Without any API key it serves the public paths and refuses everything else.
    """
    database = Database(settings.database_url)
    queue = TaskQueue(settings.queue)
    services = Services(
        settings=settings,
        database=database,
        store=open_store(settings),
        staging=StagingArea(settings.staging_path),
        queue=queue,
        hints=HintPublisher(queue.publish_hint),
        watch=JobWatch(database),
        metrics=new_registry(database, queue),
    )
    app = documented_app()
    app.state.services = services
    # The last one added is the outermost.
    app.add_middleware(LimitJsonBody)
    app.add_middleware(RequireApiKey, keys=ApiKeys.from_settings(settings))
    app.add_middleware(RequestLog, metrics=HttpMetrics(services.metrics))
    return app


def documented_app() -> FastAPI:
    """The paths with their documentation, and nothing behind them yet."""
    app = FastAPI(lifespan=_lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    for module in (
        api.meta,
        api.objects.endpoints,
        api.uploads.endpoints,
        api.jobs.endpoints,
        api.plan.endpoints,
        api.artifacts.endpoints,
        api.health,
        api.docs_page,
    ):
        app.include_router(module.router)
    add_error_handlers(app)

    def openapi() -> dict[str, Any]:
        return document(app)

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    services: Services = app.state.services
    services.staging.prepare()
    services.hints.start()
    yield
    services.watch.close()
    services.hints.stop()
    services.queue.close()
    services.staging.close()
    services.store.close()
    services.database.close()
