"""`octavo.AsyncClient`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import TracebackType
from typing import Self, Unpack

from octavo._async.datasets import AsyncDatasets
from octavo._async.job import AsyncJob
from octavo._async.jobs import AsyncJobs
from octavo._async.models import AsyncModels
from octavo._async.transport import AsyncTransport
from octavo._config import Config
from octavo._spec import BenchmarkOptions
from octavo._types import Dataset, Meta, Model

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

    async def benchmark(
        self,
        *candidates: AsyncJob | Model | str | os.PathLike[str] | Mapping[str, str | None],
        evaluation: Dataset | str | os.PathLike[str] | None = None,
        **options: Unpack[BenchmarkOptions],
    ) -> AsyncJob:
        """Measure models and artifacts against each other; `job.wait().benchmark.table()` tells.

        `client.benchmark("mine.onnx", model, job, evaluation="test.npz")`

        Args:
            candidates: as for `client.jobs.benchmark`, or paths of .pt2 and .onnx files, which are uploaded.
            evaluation: a dataset, its id, or the path of one, which is uploaded; without it random inputs.
            options: as for `client.jobs.benchmark`.
        """
        given = [await self._candidate(each) for each in candidates]
        if isinstance(evaluation, os.PathLike) or (isinstance(evaluation, str) and not evaluation.startswith("dst_")):
            evaluation = await self.datasets.upload(evaluation)
        return await self.jobs.benchmark(given, evaluation=evaluation, **options)

    async def _candidate(
        self, given: AsyncJob | Model | str | os.PathLike[str] | Mapping[str, str | None]
    ) -> AsyncJob | Model | str | Mapping[str, str | None]:
        """What was given, a file uploaded."""
        if isinstance(given, os.PathLike) or (isinstance(given, str) and not given.startswith(("mdl_", "job_"))):
            return await self.models.upload(given)
        return given

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
