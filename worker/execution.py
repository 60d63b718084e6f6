"""One attempt at a job, as its supervisor sees it: claim, fetch, run, check, store, finish.

The supervisor holds every secret and does all the I/O; what the upload can reach is one folder and a process locked
down to it. Every fault finds its owner here: the user's fails the job, the service's is tried again, a lost claim is
dropped, because somebody else's attempt has taken its place.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from shared.benchmark_spec import BenchmarkSpec
from shared.database import Database
from shared.database.job_repository import JobRepository
from shared.database.records import Claim, WorkerDescription
from shared.errors import (
    DatabaseUnavailable,
    InternalError,
    JobError,
    OctavoError,
    ServiceError,
    StaleFence,
    WorkerCrashed,
)
from shared.job import Artifact, Progress, Step
from shared.job_spec import job_spec_adapter
from shared.object_store import ObjectStore, artifact_key, attempt_prefix, job_prefix
from shared.printable import printable_line
from shared.settings import JobSettings
from worker.before import read_before
from worker.checkpoints import CheckpointKeeper
from worker.claim_watch import Cancelled, ClaimLost, ClaimWatch, ShuttingDown
from worker.job_folder import JobFolder, JobInputs
from worker.job_limits import JobLimits
from worker.node_sharing import NodeSharing
from worker.outputs import check_outputs, complete_outputs, read_report
from worker.progress import (
    CheckpointMessage,
    FailedMessage,
    FinishedMessage,
    LogMessage,
    MetricMessage,
    ProgressMessage,
    StageMessage,
)
from worker.runner_messages import StartMessage
from worker.runner_process import RunnerGarbled, RunnerLost, RunnerProcess
from worker.sandbox import SandboxLevel, SandboxLimits
from worker.wanted_files import wanted_files
from worker.warm_runners import WarmRunners
from worker.workspace import Workspace, require_room, size_bytes

_LOG = logging.getLogger(__name__)
_DROPPED = "dropped: another attempt has taken its place"
_MAX_OUTCOME_CHARACTERS = 2000
_PROGRESS_SECONDS = 0.5
_RARE_PROGRESS_SECONDS = 30.0
_LISTEN_SECONDS = 60.0
_MAX_EVENTS = 20_000
_WAITING = "Waiting until no other job computes on this node"
# Fetching and storing are the supervisor's: the recipe's own fraction is laid between them.
_FETCH_SHARE, _STORE_SHARE = 0.02, 0.02


class JobFailed(Exception):
    """The runner gave the job up, and said why."""

    def __init__(self, error: JobError) -> None:
        self.error = error
        super().__init__(error.message)


class Execution:
    """Runs jobs on this node, each in its own folder and process."""

    def __init__(
        self,
        *,
        worker_id: str,
        worker: WorkerDescription,
        database: Database,
        store: ObjectStore,
        workspace: Workspace,
        runners: WarmRunners,
        sharing: NodeSharing,
        settings: JobSettings,
        limits: JobLimits,
        sandbox_level: SandboxLevel,
        shutdown: threading.Event,
    ) -> None:
        self._worker_id = worker_id
        self._worker = worker
        self._database = database
        self._store = store
        self._workspace = workspace
        self._runners = runners
        self._sharing = sharing
        self._settings = settings
        self._limits = limits
        self._sandbox_level = sandbox_level
        self._shutdown = shutdown

    def run_job(self, job_id: str) -> None:
        """Claim the job and see one attempt through; does nothing when it is not to be had."""
        if self._shutdown.is_set():
            return
        with self._database.write() as connection:
            claim = JobRepository(connection).claim(
                job_id,
                worker_id=self._worker_id,
                worker=self._worker,
                lease_seconds=self._settings.lease_seconds,
            )
        if claim is None:
            return
        _LOG.info("Attempt %d at %s begins", claim.attempt, job_id)
        began_at = time.monotonic()
        outcome = printable_line(self._attempt(claim), limit=_MAX_OUTCOME_CHARACTERS)
        _LOG.info("Attempt %d at %s: %s after %.1f s", claim.attempt, job_id, outcome, time.monotonic() - began_at)

    def _attempt(self, claim: Claim) -> str:
        recorder = ProgressRecorder(self._database, claim)
        name = f"{claim.job_id}-{claim.fence}"
        keeper = CheckpointKeeper(
            self._store, claim, self._workspace.staging(name), limit_bytes=self._limits.output_limit_bytes
        )
        try:
            return self._supervise(claim, name, recorder, keeper)
        finally:
            self._forget_if_finished(claim, keeper)

    def _supervise(self, claim: Claim, name: str, recorder: ProgressRecorder, keeper: CheckpointKeeper) -> str:
        try:
            with (
                self._workspace.job_folder(name) as folder,
                self._watch(claim, folder) as watch,
            ):
                asked = self._fetch(claim, folder, watch, recorder)
                keeper.fetch(folder.earlier_checkpoint, watch.check)
                self._run(folder, watch, recorder, keeper)
                report, artifacts = self._store_results(claim, folder, asked, watch, recorder)
                outcome = self._settle(claim, lambda jobs: jobs.succeed(claim, report, artifacts)) or "succeeded"
        except Exception as error:  # noqa: BLE001 - whatever it was, it has an owner
            return self._end(claim, recorder, error)
        if claim.fence > 1:
            self._delete_results(claim, but_of_fence=claim.fence)
        return outcome

    # --- the attempt, step by step ---

    def _watch(self, claim: Claim, folder: JobFolder) -> ClaimWatch:
        return ClaimWatch(
            self._database,
            claim,
            self._settings,
            shutdown=self._shutdown,
            limits=self._limits,
            written_bytes=lambda: size_bytes(folder.outputs) + size_bytes(folder.tmp),
        )

    def _fetch(self, claim: Claim, folder: JobFolder, watch: ClaimWatch, recorder: ProgressRecorder) -> JobInputs:
        recorder.move(Step.FETCH, Progress(message="Fetching the model and the data"))
        spec = job_spec_adapter.validate_python(claim.spec)
        with self._database.read() as connection:
            wanted = wanted_files(connection, spec)
            before = read_before(JobRepository(connection), claim.job_id)
        asked = JobInputs(
            job_id=claim.job_id,
            spec=spec,
            datasets=wanted.datasets,
            candidates=wanted.candidates,
            threads=self._limits.threads,
            wall_limit_seconds=self._limits.wall_limit_seconds,
            measure_limit_seconds=self._limits.measure_limit_seconds,
            sandbox_level=self._sandbox_level,
            before=before,
        )
        folder.create(asked)
        require_room(folder.path, sum(each.size_bytes for each in wanted.files))
        for each in wanted.files:
            watch.check()
            path = folder.inputs / each.name
            self._store.get_file(each.key, path, expected_sha256=each.sha256, on_chunk=watch.check)
        return asked

    def _run(self, folder: JobFolder, watch: ClaimWatch, recorder: ProgressRecorder, keeper: CheckpointKeeper) -> None:
        runner = self._runners.take()
        try:
            watch.guard(runner)
            with self._sharing.computing(pause=runner.pause, resume=runner.resume) as share:
                watch.forgive(lambda: share.paused_seconds)
                while runner.wait_ready(_LISTEN_SECONDS) is None:
                    watch.check()
                runner.run(
                    StartMessage(
                        folder=folder.path,
                        limits=SandboxLimits(
                            memory_bytes=self._limits.memory_limit_bytes, file_bytes=self._limits.output_limit_bytes
                        ),
                        min_level=self._sandbox_level,
                    )
                )
                keep = functools.partial(keeper.keep, folder.checkpoint)
                if self._listen(runner, recorder, keep):
                    recorder.move(Step.BENCHMARK, Progress(fraction=recorder.fraction, message=_WAITING))
                    with share.alone(watch.check), watch.measuring():
                        runner.go_on()
                        self._listen(runner, recorder, keep)
        except RunnerLost as lost:
            watch.check()  # it was we who killed it, and the watch knows why
            runner.kill()
            how = f"was killed by {runner.exit_signal.name}" if runner.exit_signal else "ended without a last word"
            raise WorkerCrashed(f"The process that ran the job {how}.") from lost
        except RunnerGarbled as garbled:
            raise InternalError("The process that ran the job wrote what is not a message.") from garbled
        finally:
            runner.kill()

    def _listen(self, runner: RunnerProcess, recorder: ProgressRecorder, keep: Callable[[int], None]) -> bool:
        """Hear it out until it is finished, or wants to measure: whether it does."""
        while True:
            for message in runner.messages(_LISTEN_SECONDS):
                match message:
                    case ProgressMessage():
                        inside = _FETCH_SHARE + message.fraction * (1 - _FETCH_SHARE - _STORE_SHARE)
                        progress = Progress(fraction=inside, message=message.message, eta_seconds=message.eta_seconds)
                        recorder.move(message.step, progress)
                    case MetricMessage():
                        recorder.tell("metric", message.data)
                    case LogMessage():
                        recorder.tell(message.kind, {"message": message.message})
                    case CheckpointMessage():
                        keep(message.epoch)
                    case FinishedMessage() | StageMessage(stage="measure"):
                        return isinstance(message, StageMessage)
                    case StageMessage():
                        runner.go_on()
                    case FailedMessage():
                        raise JobFailed(message.error)

    def _store_results(
        self, claim: Claim, folder: JobFolder, asked: JobInputs, watch: ClaimWatch, recorder: ProgressRecorder
    ) -> tuple[dict[str, Any], list[Artifact]]:
        recorder.move(Step.STORE, Progress(fraction=1 - _STORE_SHARE, message="Storing the artifacts"))
        limit = self._limits.output_limit_bytes
        check_outputs(folder.outputs, limit_bytes=limit, benchmark=isinstance(asked.spec, BenchmarkSpec))
        report = read_report(folder.outputs, asked)
        artifacts = complete_outputs(folder.outputs, report, job_id=claim.job_id)
        for artifact in artifacts:
            watch.check()
            key = artifact_key(claim.job_id, claim.fence, artifact.name)
            self._store.put_file(key, folder.outputs / artifact.name, artifact.sha256, move=True)
        watch.check()
        return report.model_dump(mode="json"), artifacts

    # --- how it ends ---

    def _end(self, claim: Claim, recorder: ProgressRecorder, error: Exception) -> str:
        match error:
            case ClaimLost() | StaleFence():
                return _DROPPED
            case Cancelled():
                self._settle(claim, lambda jobs: jobs.cancel(claim))  # unless the watch has recorded it
                self._delete_results(claim)
                return "cancelled"
            case ShuttingDown():
                return self._settle(claim, lambda jobs: jobs.release(claim, "The worker shut down.")) or "handed back"
            case JobFailed():
                return self._fail(claim, error.error)
            case OctavoError():
                return self._fail(claim, error.to_job_error(recorder.step))
        _LOG.error("Attempt %d at %s met an error nobody foresaw", claim.attempt, claim.job_id, exc_info=error)
        return self._fail(claim, InternalError().to_job_error(recorder.step))

    def _fail(self, claim: Claim, error: JobError) -> str:
        # A crash, or a fault of ours in a recipe, is likely to come again: it is given fewer chances than the network.
        crashed = error.code in {WorkerCrashed.code, InternalError.code}
        with self._database.read() as connection:
            crashes = JobRepository(connection).get(claim.job_id).crashes + int(crashed)
        exhausted = claim.attempt >= self._settings.max_attempts or (crashed and crashes >= self._settings.max_crashes)
        if error.owner == "user" or exhausted:
            if crashed:
                error = error.model_copy(update={"message": f"{error.message} It happened {crashes} times."})
            return (
                self._settle(claim, lambda jobs: jobs.fail(claim, error)) or f"failed ({error.code}: {error.message})"
            )
        base = self._settings.retry_base_seconds
        again = self._settle(claim, lambda jobs: jobs.retry_later(claim, error, base_seconds=base, crashed=crashed))
        return again or f"to be tried again ({error.code}: {error.message})"

    def _forget_if_finished(self, claim: Claim, keeper: CheckpointKeeper) -> None:
        """Checkpoints are for another attempt; the reconciler sweeps those of a job that ends in nobody's hands."""
        with contextlib.suppress(ServiceError):
            with self._database.read() as connection:
                unfinished = JobRepository(connection).unfinished_of([claim.job_id])
            if not unfinished:
                keeper.forget()

    def _delete_results(self, claim: Claim, *, but_of_fence: int | None = None) -> None:
        """Delete what attempts left in the store that no result was accepted from; what stays only costs space."""
        kept = None if but_of_fence is None else attempt_prefix(claim.job_id, but_of_fence)
        with contextlib.suppress(ServiceError):
            for each in list(self._store.list(job_prefix(claim.job_id))):
                if kept is None or not each.key.startswith(kept):
                    self._store.delete(each.key)

    def _settle(self, claim: Claim, write: Callable[[JobRepository], None]) -> str | None:
        """Write how the attempt ended; the reason why it was not written, if another attempt has begun."""
        # While the lease runs, a database that comes back is worth waiting for; after it, the reconciler decides.
        deadline = time.monotonic() + self._settings.lease_seconds
        while True:
            try:
                with self._database.write() as connection:
                    write(JobRepository(connection))
            except StaleFence:
                return _DROPPED
            except DatabaseUnavailable:
                if time.monotonic() > deadline:
                    raise
                _LOG.warning("The end of %s could not be written yet", claim.job_id)
                time.sleep(1)
            else:
                return None


class ProgressRecorder:
    """Writes a running job's progress and events to its row: so many a second, and so many altogether.

    A runner that floods it is heard as often as others; one that has used its events up, now and then.
    """

    def __init__(self, database: Database, claim: Claim) -> None:
        self._database = database
        self._claim = claim
        self._recorded_at = float("-inf")
        self._told = 0
        self._begun: set[Step] = set()
        self.step: Step | None = None
        self.fraction = 0.0

    def move(self, step: Step, progress: Progress) -> None:
        """The job is this far; that a step begins is written at once, but not when it begins again."""
        self.fraction = progress.fraction
        now = time.monotonic()
        pause = _PROGRESS_SECONDS if self._told < _MAX_EVENTS else _RARE_PROGRESS_SECONDS
        if step in self._begun and now - self._recorded_at < pause:
            return
        self.step, self._recorded_at = step, now
        self._begun.add(step)
        self._told += 1
        self._write(lambda jobs: jobs.record_progress(self._claim, step, progress))

    def tell(self, kind: Any, data: dict[str, Any]) -> None:
        """Something for the job's history."""
        if self._told < _MAX_EVENTS:
            self._told += 1
            self._write(lambda jobs: jobs.record_event(self._claim, kind, data))

    def _write(self, write: Callable[[JobRepository], None]) -> None:
        # Progress is worth nothing that a hiccup of the database should cost: the watch decides when the claim is lost.
        try:
            with self._database.write() as connection:
                write(JobRepository(connection))
        except DatabaseUnavailable as error:
            _LOG.warning("Progress of %s was not recorded: %s", self._claim.job_id, error)
