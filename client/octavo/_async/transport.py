"""One request and its retries: what every resource of the client sends through."""

from __future__ import annotations

import logging
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx2

from octavo._concurrency import async_sleep
from octavo._config import Config
from octavo._exceptions import APIConnectionError, APIStatusError, APITimeoutError, status_error
from octavo._retry import RETRIED_STATUSES, WAITED_OUT, delay_seconds
from octavo._version import __version__

logger = logging.getLogger("octavo")

Params = Mapping[str, str | int | float | None]
Body = Callable[[], AsyncIterator[bytes]]


class AsyncTransport:
    """Sends requests to one server: the key, retries with backoff, one Idempotency-Key for all tries of a POST.

    408, 429, 5xx and broken connections are tried again, `max_retries` times, which is safe: a POST that is repeated
    with its key is answered as the first time, and every other method may be repeated anyway.
    """

    def __init__(self, config: Config, *, timeout: float, max_retries: int) -> None:
        self.config = config
        self.timeout = timeout
        self.max_retries = max_retries
        headers = {"User-Agent": f"octavo-python/{__version__}"}
        if config.api_key is not None:
            headers["Authorization"] = f"Bearer {config.api_key}"
        self._http = httpx2.AsyncClient(
            base_url=config.url,
            headers=headers,
            timeout=httpx2.Timeout(timeout, connect=min(timeout, 10.0)),
            # Artifacts may answer 307 to an object store; the key is not sent on to another host.
            follow_redirects=True,
            trust_env=not config.is_loopback,
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = None,
        json: object = None,
        body: Body | None = None,
        headers: Mapping[str, str] | None = None,
        extra_seconds: float = 0,
        idempotency_key: str | None = None,
    ) -> httpx2.Response:
        """Send a request, again if need be, and return the answer: 2xx or 304.

        `body` is called for each try and gives the bytes; `extra_seconds` are what the server may take on top of the
        timeout because it was asked to wait.

        Raises:
            APIConnectionError: the server was not reached, after all tries.
            APIStatusError: it answered with an error.
        """
        sent_headers = dict(headers or {})
        if method == "POST":
            sent_headers["Idempotency-Key"] = idempotency_key or str(uuid.uuid4())
        for attempt in range(self.max_retries + 1):
            try:
                response = await self._http.request(
                    method,
                    path,
                    params={name: value for name, value in (params or {}).items() if value is not None},
                    json=json,
                    content=body() if body is not None else None,
                    headers=sent_headers,
                    timeout=self._timeouts(read=self.timeout + extra_seconds),
                )
            except httpx2.RequestError as error:
                failure: APIConnectionError | APIStatusError = self._connection_error(error)
                delay = delay_seconds(attempt)
            else:
                if response.is_success or response.status_code == httpx2.codes.NOT_MODIFIED:
                    return response
                failure = status_error(response.status_code, response.headers, response.content)
                if response.status_code not in RETRIED_STATUSES or failure.code in WAITED_OUT:
                    raise failure
                delay = delay_seconds(attempt, response.headers)
            if attempt == self.max_retries:
                break
            logger.info("%s %s: %s; trying again in %.1f s", method, path, failure, delay)
            await async_sleep(delay)
        raise failure

    async def json(self, method: str, path: str, *, params: Params | None = None, json: object = None) -> Any:
        """Like `request`, and the answer's JSON."""
        return (await self.request(method, path, params=params, json=json)).json()

    @asynccontextmanager
    async def stream(
        self, path: str, *, headers: Mapping[str, str], read_timeout: float | None = None
    ) -> AsyncIterator[httpx2.Response]:
        """GET once, and give the answer before its body is read.

        Raises:
            APIConnectionError: the server was not reached, or the connection broke while the body was read.
            APIStatusError: it answered with an error.
        """
        try:
            timeout = self._timeouts(read=read_timeout or self.timeout)
            async with self._http.stream("GET", path, headers=headers, timeout=timeout) as response:
                if not response.is_success:
                    raise status_error(response.status_code, response.headers, await response.aread())
                yield response
        except httpx2.RequestError as error:
            raise self._connection_error(error) from error

    async def pages(self, path: str, *, params: Params | None = None, limit: int | None = None) -> AsyncIterator[Any]:
        """The entries of a list, page after page, `limit` of them at most."""
        after: str | None = None
        while limit is None or limit > 0:
            page_size = None if limit is None else min(limit, 100)
            page = await self.json("GET", path, params={**(params or {}), "limit": page_size, "after": after})
            for entry in page["data"][:limit]:
                yield entry
            if limit is not None:
                limit -= len(page["data"])
            after = page.get("next")
            if not page["has_more"] or after is None:
                return

    def _timeouts(self, *, read: float) -> httpx2.Timeout:
        return httpx2.Timeout(self.timeout, connect=min(self.timeout, 10.0), read=read)

    def _connection_error(self, error: httpx2.RequestError) -> APIConnectionError:
        reason = str(error) or type(error).__name__
        if isinstance(error, httpx2.TimeoutException) and not isinstance(error, httpx2.ConnectTimeout):
            failure: APIConnectionError = APITimeoutError(f"{self.config.url} did not answer in time ({reason})")
        elif isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
            failure = APIConnectionError(
                f"No Octavo server was reached at {self.config.url} ({reason}). "
                "Hint: `octavo-server up` starts one; OCTAVO_URL says where it is."
            )
        else:
            failure = APIConnectionError(f"The connection to {self.config.url} broke ({reason})")
        failure.__cause__ = error
        return failure
