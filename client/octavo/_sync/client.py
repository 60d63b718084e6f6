# Made by scripts/unasync.py from octavo/_async: change it there.
"""`octavo.Client`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import TracebackType
from typing import Self, Unpack

from octavo._config import Config
from octavo._spec import BenchmarkOptions
from octavo._sync.datasets import Datasets
from octavo._sync.job import Job
from octavo._sync.jobs import Jobs
from octavo._sync.models import Models
from octavo._sync.transport import Transport
from octavo._types import Dataset, Meta, Model

DEFAULT_TIMEOUT_SECONDS = 60.0
DEFAULT_MAX_RETRIES = 2


class Client:
    """An Octavo server, with `models`, `datasets` and `jobs`. Use it in a `with` block, or `close()` it.

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
        self._transport = Transport(Config.resolve(url, api_key), timeout=timeout, max_retries=max_retries)
        self.models = Models(self._transport)
        self.datasets = Datasets(self._transport)
        self.jobs = Jobs(self._transport)

    @property
    def url(self) -> str:
        """The server's address."""
        return self._transport.config.url

    def benchmark(
        self,
        *candidates: Job | Model | str | os.PathLike[str] | Mapping[str, str | None],
        evaluation: Dataset | str | os.PathLike[str] | None = None,
        **options: Unpack[BenchmarkOptions],
    ) -> Job:
        """Measure models and artifacts against each other; `job.wait().benchmark.table()` tells.

        `client.benchmark("mine.onnx", model, job, evaluation="test.npz")`

        Args:
            candidates: as for `client.jobs.benchmark`, or paths of .pt2 and .onnx files, which are uploaded.
            evaluation: a dataset, its id, or the path of one, which is uploaded; without it random inputs.
            options: as for `client.jobs.benchmark`.
        """
        given = [self._candidate(each) for each in candidates]
        if isinstance(evaluation, os.PathLike) or (isinstance(evaluation, str) and not evaluation.startswith("dst_")):
            evaluation = self.datasets.upload(evaluation)
        return self.jobs.benchmark(given, evaluation=evaluation, **options)

    def _candidate(
        self, given: Job | Model | str | os.PathLike[str] | Mapping[str, str | None]
    ) -> Job | Model | str | Mapping[str, str | None]:
        """What was given, a file uploaded."""
        if isinstance(given, os.PathLike) or (isinstance(given, str) and not given.startswith(("mdl_", "job_"))):
            return self.models.upload(given)
        return given

    def meta(self) -> Meta:
        """The server's version, workers, limits and methods."""
        return Meta.model_validate(self._transport.json("GET", "/v1/meta"))

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"
