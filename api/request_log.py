"""The outermost layer of every request: its id, its line in the log, its metrics, and its last resort."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.error_responses import problem_response
from shared.errors import InternalError
from shared.job import new_id

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,100}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})
_BUCKETS_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120)
# Probes and scrapes come every few seconds; their lines would bury the others.
_QUIET_ROUTES = frozenset({"/healthz", "/readyz", "/metrics"})

_log = structlog.get_logger("octavo.api")


class HttpMetrics:
    """Rate, errors and duration by route; labels are bounded, never a path or an id."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "octavo_http_requests_total", "HTTP requests answered.", ["method", "route", "status"], registry=registry
        )
        self._seconds = Histogram(
            "octavo_http_request_seconds",
            "From the request's first byte to the answer's last; long polls and event streams wait by design.",
            ["method", "route"],
            buckets=_BUCKETS_SECONDS,
            registry=registry,
        )

    def observe(self, *, method: str, route: str, status: int, seconds: float) -> None:
        """Count an answered request."""
        known = method if method in _METHODS else "other"
        self._requests.labels(known, route, str(status)).inc()
        self._seconds.labels(known, route).observe(seconds)


class RequestLog:
    """Gives each request an id, logs and counts it, and turns what nobody caught into a problem without a trace."""

    def __init__(self, app: ASGIApp, metrics: HttpMetrics, clock: Callable[[], float] = time.perf_counter) -> None:
        self._app = app
        self._metrics = metrics
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and keep account of it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = Headers(scope=scope).get("x-request-id", "")
        request_id = sent if _REQUEST_ID.fullmatch(sent) else new_id("req")
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        started = self._clock()
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, send_with_id)
            except ClientDisconnect:
                status = 499  # nginx's word for it: there is nobody to answer
            except Exception:  # noqa: BLE001 - the last resort: whatever it is, the client gets a problem and no trace
                _log.exception("unexpected error", method=scope["method"], path=scope["path"])
                if status == 0:
                    await problem_response(InternalError(), request_id)(scope, receive, send_with_id)
            finally:
                self._finish(scope, status, self._clock() - started)

    def _finish(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "unmatched")
        self._metrics.observe(method=scope["method"], route=route, status=status or 499, seconds=seconds)
        if route not in _QUIET_ROUTES:
            _log.info(
                "request",
                method=scope["method"],
                path=scope["path"],
                status=status or 499,
                duration_ms=round(seconds * 1000, 1),
            )
