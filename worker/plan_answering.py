"""Answers questions for plans: one at a time, beside whatever jobs this worker runs, in a runner of its own.

A question reads the model and nothing else, and takes seconds. While another job measures, its runner stands still as
every other does, so that an answer may come late, or be given up by whoever asked.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections.abc import Iterator
from typing import Any

from shared.database import Database
from shared.database.object_repository import ObjectRepository
from shared.database.plan_repository import PATIENCE_SECONDS, AskedPlan, PlanRepository
from shared.database.records import WorkerDescription
from shared.errors import (
    DataRequired,
    DatasetError,
    InternalError,
    JobError,
    JobOutOfMemory,
    ModelError,
    OctavoError,
    OutputTooLarge,
    PlanUnavailable,
    RunError,
    ServiceError,
    SpecInvalid,
    class_of,
)
from shared.job_plan import JobPlan, PlanWorker, plan_question_adapter
from shared.job_spec import dataset_roles
from shared.object_store import ObjectStore, blob_key
from worker.job_folder import JobFolder, PlanInputs
from worker.job_limits import JobLimits
from worker.machine_state import available_bytes
from worker.node_sharing import NodeSharing
from worker.progress import FailedMessage, FinishedMessage
from worker.runner_messages import StartMessage
from worker.runner_process import RunnerGarbled, RunnerLost, RunnerProcess
from worker.sandbox import SandboxLevel, SandboxLimits
from worker.untrusted_json import read_untrusted
from worker.warm_runners import WarmRunners
from worker.workspace import Workspace, size_bytes

_LOG = logging.getLogger(__name__)
_LOOK_SECONDS = 0.5
_LISTEN_SECONDS = 1.0
_MAX_MESSAGE = 2000
_MAX_PLAN_BYTES = 4 * 1024**2
_FOUND_BY_RUNNERS = (ModelError, DatasetError, RunError, SpecInvalid, DataRequired)
_TOO_LATE = f"The plan was not found within {PATIENCE_SECONDS:g} s: the model is large, or a job measures."


class PlanAnswering:
    """Looks for questions, and answers them."""

    def __init__(
        self,
        *,
        worker: WorkerDescription,
        database: Database,
        store: ObjectStore,
        workspace: Workspace,
        runners: WarmRunners,
        sharing: NodeSharing,
        limits: JobLimits,
        sandbox_level: SandboxLevel,
    ) -> None:
        self._worker = worker
        self._database = database
        self._store = store
        self._workspace = workspace
        self._runners = runners
        self._sharing = sharing
        self._limits = limits
        self._sandbox_level = sandbox_level

    def run(self, stop: threading.Event) -> None:
        """Look twice a second, until `stop` is set."""
        while not stop.wait(_LOOK_SECONDS):
            try:
                self._look(stop)
            except ServiceError as error:
                _LOG.warning("Plans that are asked for could not be looked at: %s", error)
            except Exception:  # noqa: BLE001 - the next look may do better
                _LOG.exception("A plan could not be answered")

    def _look(self, stop: threading.Event) -> None:
        with self._database.read() as connection:
            if not PlanRepository(connection).waiting():
                return
        if self._sharing.is_measured():  # another worker may have the time, and what is fetched would disturb
            return
        with self._database.write() as connection:
            asked = PlanRepository(connection).take(self._worker)
        if asked is not None:
            self._answer(asked, stop)

    def _answer(self, asked: AskedPlan, stop: threading.Event) -> None:
        plan: dict[str, Any] | None = None
        error: JobError | None = None
        began_at = time.monotonic()
        try:
            plan = self._find(asked, stop).model_dump(mode="json")
        except _Withdrawn:
            _LOG.info("Plan %s: nobody waits for it any more", asked.id)
            return
        except _Refused as refused:
            error = refused.error
        except OctavoError as failed:
            error = failed.to_job_error()
        except Exception:  # noqa: BLE001 - whoever asked waits for an answer
            _LOG.exception("The plan %s met an error nobody foresaw", asked.id)
            error = InternalError().to_job_error()
        with self._database.write() as connection:
            PlanRepository(connection).answer(asked.id, plan=plan, error=error)
        _LOG.info("Plan %s: %s after %.1f s", asked.id, error.code if error else "done", time.monotonic() - began_at)

    def _find(self, asked: AskedPlan, stop: threading.Event) -> JobPlan:
        spec = plan_question_adapter.validate_python(asked.spec)
        with self._database.read() as connection:
            objects = ObjectRepository(connection)
            model = objects.get(spec.model)
            samples = {role: objects.get(each).description["samples"] for role, each in dataset_roles(spec).items()}
        patience = _Patience(self._database, asked, stop)
        with self._workspace.job_folder(asked.id) as folder:
            folder.create(PlanInputs(spec=spec, samples=samples, threads=self._limits.threads))
            with self._runner(patience) as runner:
                key = blob_key(model.sha256)
                self._store.get_file(key, folder.model, expected_sha256=model.sha256, on_chunk=patience.check)
                self._run(runner, folder, patience)
            return self._read(folder, spec.method, spec.model)

    @contextlib.contextmanager
    def _runner(self, patience: _Patience) -> Iterator[RunnerProcess]:
        """A runner that has imported torch, and makes way for whoever measures."""
        runner = self._runners.take()
        try:
            with self._sharing.computing(pause=runner.pause, resume=runner.resume):
                while runner.wait_ready(_LISTEN_SECONDS) is None:
                    patience.check()
                yield runner
        except (RunnerLost, RunnerGarbled) as error:
            raise InternalError("The process that made the plan ended, or wrote what is not a message.") from error
        finally:
            runner.kill()

    def _run(self, runner: RunnerProcess, folder: JobFolder, patience: _Patience) -> None:
        # The jobs have their shares of the memory already: what is left of it is all that there is.
        memory_bytes = min(self._limits.memory_limit_bytes, available_bytes())
        limits = SandboxLimits(memory_bytes=memory_bytes, file_bytes=self._limits.output_limit_bytes)
        runner.run(StartMessage(task="plan", folder=folder.path, limits=limits, min_level=self._sandbox_level))
        while True:
            for message in runner.messages(_LISTEN_SECONDS):
                match message:
                    case FinishedMessage():
                        return
                    case FailedMessage():
                        raise _Refused(message.error)
            patience.check()
            if runner.rss_bytes() > memory_bytes:  # also what the kernel's limit does not count: shared memory
                raise JobOutOfMemory("The plan took more memory than this worker has to spare.")
            if size_bytes(folder.outputs) + size_bytes(folder.tmp) > self._limits.output_limit_bytes:
                raise OutputTooLarge

    def _read(self, folder: JobFolder, method: str, model: str) -> JobPlan:
        try:
            plan = JobPlan.model_validate(read_untrusted(folder.plan, max_bytes=_MAX_PLAN_BYTES))
        except (OSError, ValueError, RecursionError) as error:
            raise InternalError("The process that made the plan wrote one that is none.") from error
        if (plan.method, plan.model) != (method, model):
            raise InternalError("The process that made the plan wrote one of something else.")
        worker = PlanWorker(hostname=self._worker.hostname, cpu_model=self._worker.cpu_model)
        return plan.model_copy(update={"worker": worker})


class _Patience:
    """That of whoever asked."""

    def __init__(self, database: Database, asked: AskedPlan, stop: threading.Event) -> None:
        self._database = database
        self._asked = asked
        self._stop = stop
        self._ends_at = time.monotonic() + asked.patience_seconds
        self._looked_at = -math.inf

    def check(self, *_ignored: object) -> None:
        """Raise PlanUnavailable where it is over or the worker stops, and _Withdrawn where nobody waits."""
        if self._stop.is_set():
            raise PlanUnavailable("The worker was stopped before the plan was found.")
        now = time.monotonic()
        if now > self._ends_at:
            raise PlanUnavailable(_TOO_LATE)
        if now > self._looked_at + _LISTEN_SECONDS:
            self._looked_at = now
            with self._database.read() as connection:
                if not PlanRepository(connection).is_awaited(self._asked.id):
                    raise _Withdrawn


class _Withdrawn(Exception):
    """Nobody waits for the answer."""


class _Refused(Exception):
    """The runner gave up, and said why: believed only where it is something that a runner finds out."""

    def __init__(self, error: JobError) -> None:
        kind = class_of(error.code)
        if kind is None or not issubclass(kind, _FOUND_BY_RUNNERS):
            error = InternalError("The process that made the plan failed.").to_job_error()
        short = {"message": error.message[:_MAX_MESSAGE], "hint": error.hint and error.hint[:_MAX_MESSAGE]}
        self.error = error.model_copy(update=short)
        super().__init__(error.message)
