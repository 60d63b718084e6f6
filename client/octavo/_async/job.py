"""A handle on one job."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from datetime import datetime
from typing import Any, Self

from octavo._async.artifacts import AsyncArtifacts
from octavo._async.events import live_events, past_events
from octavo._async.transport import AsyncTransport
from octavo._benchmark import Benchmark
from octavo._exceptions import (
    JobCancelled,
    JobRefused,
    NoReport,
    OtherReport,
    ServiceFailed,
    TargetNotMet,
    WaitTimeout,
)
from octavo._job_card import job_card
from octavo._job_report import ReportWarning, Suggestion
from octavo._progress import JobBar
from octavo._report import Report
from octavo._spec import build_revision
from octavo._types import JobData, JobError, JobEvent, Measurement, Progress


class AsyncJob:
    """A job as it was when last asked; `refresh()` asks again, `wait()` asks until it is finished."""

    def __init__(self, transport: AsyncTransport, data: JobData) -> None:
        self._transport = transport
        self.data = data

    # --- what is known ---

    @property
    def id(self) -> str:
        """Such as `job_019abc5d1f0e7a33c49d20`."""
        return self.data.id

    @property
    def name(self) -> str | None:
        """For people."""
        return self.data.name

    @property
    def status(self) -> str:
        """`queued`, `running`, `succeeded`, `failed` or `cancelled`."""
        return self.data.status

    @property
    def waiting_for(self) -> str | None:
        """Why no live worker may run it, such as that none has the hardware it asks for; None when one may."""
        return self.data.waiting_for

    @property
    def finished(self) -> bool:
        """Whether the status is final."""
        return self.data.finished

    @property
    def step(self) -> str | None:
        """What a running job is doing."""
        return self.data.step

    @property
    def progress(self) -> Progress:
        """How far a running job is."""
        return self.data.progress

    @property
    def spec(self) -> dict[str, Any]:
        """What was asked, every default filled in."""
        return self.data.spec

    @property
    def metadata(self) -> dict[str, str]:
        """Yours, as it was given."""
        return self.data.metadata

    @property
    def based_on(self) -> str | None:
        """The job that this one was made from."""
        return self.data.based_on

    @property
    def error(self) -> JobError | None:
        """Why it failed, and who can mend it."""
        return self.data.error

    @property
    def created_at(self) -> datetime:
        """When the server accepted it."""
        return self.data.created_at

    @property
    def report(self) -> Report:
        """What was measured.

        Raises:
            NoReport: it is not known yet, or this handle comes from a list and wants a refresh().
            OtherReport: the job is a benchmark; what was measured is its `benchmark`.
            JobRefused, ServiceFailed, JobCancelled: it never will be.
        """
        report = self._known_report()
        if isinstance(report, Benchmark):
            raise OtherReport(self, "benchmark")
        return report

    @property
    def benchmark(self) -> Benchmark:
        """What a benchmark measured.

        Raises:
            OtherReport: the job quantizes; what was measured is its `report`.
            NoReport, JobRefused, ServiceFailed, JobCancelled: as `report` does.
        """
        report = self._known_report()
        if isinstance(report, Report):
            raise OtherReport(self, "report")
        return report

    def _known_report(self) -> Report | Benchmark:
        self.raise_for_status()
        if self.data.report is None:
            raise NoReport(self)
        return self.data.report

    @property
    def artifacts(self) -> AsyncArtifacts:
        """The result files; none before the job has succeeded."""
        report = self.data.report
        recommended = report.recommended_files if isinstance(report, Report) else ()
        return AsyncArtifacts(self._transport, self.data.artifacts, recommended)

    @property
    def measurements(self) -> list[Measurement]:
        """The benchmarks of its artifacts on the hardware that `measure_on` asked for, once it has succeeded."""
        return self.data.measurements

    def raise_for_status(self) -> Self:
        """Raise JobRefused, ServiceFailed or JobCancelled if that is what became of it."""
        if self.status == "failed":
            error = self.error or JobError(code="unknown", message="no reason was given", owner="service")
            raise (JobRefused if error.owner == "user" else ServiceFailed)(self, error)
        if self.status == "cancelled":
            raise JobCancelled(self)
        return self

    def raise_for_target(self) -> Self:
        """Raise TargetNotMet if int8 loses more accuracy than `max_accuracy_drop` allows; needs the report.

        A benchmark has no target that it could miss.
        """
        if self.spec.get("method") == "benchmark":
            return self
        if self.report.verdict.accuracy == "not_met":
            raise TargetNotMet(self, self.report.verdict.sentence)
        return self

    def __repr__(self) -> str:
        doing = f", step={self.step!r}, {self.progress.fraction:.0%}" if self.status == "running" else ""
        return f"{type(self).__name__}(id={self.id!r}, status={self.status!r}{doing})"

    def _repr_html_(self) -> str:
        return job_card(self.data)

    # --- what can be done ---

    async def refresh(self) -> Self:
        """Ask the server how it stands."""
        self.data = JobData.model_validate(await self._transport.json("GET", f"/v1/jobs/{self.id}"))
        return self

    async def cancel(self) -> Self:
        """Ask for its end; raises ConflictError if it has ended already."""
        self.data = JobData.model_validate(await self._transport.json("POST", f"/v1/jobs/{self.id}/cancel"))
        return self

    async def retry_with(self, *advice: int | Suggestion | ReportWarning, **changes: Any) -> Self:
        """Submit a job like this one, with advice of its report applied, and with changes; returns the new job.

        `job.retry_with(job.report.suggestions[0], max_accuracy_drop=0.005, activation={"observer": "minmax"})`

        Args:
            advice: what to apply: suggestions, warnings that carry one, or the numbers of such warnings.
            changes: fields of the spec, as `client.jobs.quantize` takes them. Settings are merged with those that are
                there, overrides are added behind them, and None brings a default back; but `max_accuracy_drop=None`
                sets no target.

        Raises:
            ValueError: this is no advice of this job's report.
            OtherReport: a benchmark suggests nothing; changes alone make another one of it.
            UnprocessableError: the warning suggests nothing, or the changed spec is not valid; `errors` says where.
        """
        apply = [each if isinstance(each, int) else self.report.warning_number(each) for each in advice]
        body = build_revision(self.id, apply, changes)
        data = await self._transport.json("POST", "/v1/jobs", json=body)
        return type(self)(self._transport, JobData.model_validate(data))

    def events(self, *, after: int = 0, follow: bool = False) -> AsyncGenerator[JobEvent, None]:
        """What has happened since event number `after`; with `follow` also what will, up to its end."""
        return (live_events if follow else past_events)(self._transport, self.id, after)

    async def wait(
        self,
        timeout: float | None = None,  # noqa: ASYNC109  # both clients have it; it ends with WaitTimeout
        *,
        progress: bool | None = None,
        on_event: Callable[[JobEvent], object] | None = None,
        raise_on_failure: bool = True,
    ) -> Self:
        """Wait until the job is finished; Ctrl-C or a timeout ends the waiting, never the job.

        Args:
            timeout: seconds; None waits as long as it takes.
            progress: a bar on stderr; None: if somebody watches.
            on_event: called with every event of the job, those before this call included.
            raise_on_failure: False returns a failed or cancelled job like any other.

        Raises:
            JobRefused, ServiceFailed, JobCancelled: that is what became of it.
            WaitTimeout: it was not finished in time; it goes on.
        """
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        with JobBar(self.name or self.id, enabled=progress) as bar:
            try:
                async with aclosing(live_events(self._transport, self.id, 0, deadline)) as events:
                    async for event in events:
                        bar.update(event)
                        if on_event is not None:
                            on_event(event)
                await self.refresh()
            except KeyboardInterrupt:
                sys.stderr.write(f"\nDetached; {self.id} goes on. `octavo jobs watch {self.id}` attaches again.\n")
                raise
        if not self.finished:
            raise WaitTimeout(self, timeout or 0)
        return self.raise_for_status() if raise_on_failure else self
