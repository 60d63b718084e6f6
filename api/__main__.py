"""`python -m api`: one API process, on the host and port of the settings."""

from __future__ import annotations

import socket
import sys

import uvicorn
from fastapi import FastAPI

from api.app import create_app
from api.auth import ApiKeys
from shared.errors import OctavoError
from shared.settings import Settings
from shared.telemetry import configure_logging

# How long an upload that is under way may still take when the process is told to stop.
_GRACE_SECONDS = 5


class _Server(uvicorn.Server):
    """Sends event streams and long polls home before it waits for the other requests."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, let requests finish, stop."""
        self._app.state.services.watch.close()
        await super().shutdown(sockets)


def main() -> None:
    """Serve until SIGINT or SIGTERM."""
    settings = Settings()
    configure_logging(settings.log)
    if not ApiKeys.from_settings(settings):
        sys.exit("No API key: set OCTAVO_API__KEYS='[\"…\"]', or write one to <data-dir>/api-key.")
    app = create_app(settings)
    try:
        app.state.services.database.require_current_schema()
    except OctavoError as error:
        sys.exit(f"{error.message} {error.hint or ''}".rstrip())
    config = uvicorn.Config(
        app,
        host=settings.api.host,
        port=settings.api.port,
        log_config=None,
        access_log=False,  # api.request_log writes a better one
        server_header=False,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    _Server(config, app).run()


if __name__ == "__main__":
    main()
