"""`octavo.AsyncClient`."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from octavo._async.datasets import AsyncDatasets
from octavo._async.jobs import AsyncJobs
from octavo._async.models import AsyncModels
from octavo._async.transport import AsyncTransport
from octavo._config import Config
from octavo._types import Meta

DEFAULT_TIMEOUT_SECONDS = 60.0
DEFAULT_MAX_RETRIES = 2


class AsyncClient:
    """An Octavo server, with `models`, `datasets` and `jobs`. Use it in a `with` block, or `aclose()` it.

    Args:
        url: the server; without it OCTAVO_URL, then http://127.0.0.1:8080.
        api_key: without it OCTAVO_API_KEY.
        timeout: seconds without a byte from the server after which a request has failed.
        max_retries: how often a failed request is sent again, with growing pauses.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        max_retries: int = DEFAULT_MAX_RETRIES,
    ) -> None:
        self._transport = AsyncTransport(Config.resolve(url, api_key), timeout=timeout, max_retries=max_retries)
        self.models = AsyncModels(self._transport)
        self.datasets = AsyncDatasets(self._transport)
        self.jobs = AsyncJobs(self._transport)

    @property
    def url(self) -> str:
        """The server's address."""
        return self._transport.config.url

    async def meta(self) -> Meta:
        """The server's version, workers, limits and methods."""
        return Meta.model_validate(await self._transport.json("GET", "/v1/meta"))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._transport.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"
